"""A model folder becomes a GGUF file: header first, then every tensor in a stream, whole or absent.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file holds what the model is and nothing of where it
was made: no paths, no names of people or machines.
"""

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.load import check_shapes
from edgetune.architecture.row_blocks import Meter, row_blocks
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_weights import as_floats
from edgetune.errors import InputError, ModelError
from edgetune.events import Progress
from edgetune.export.gguf_header import ARRAY, STRING
from edgetune.export.gguf_names import (
    Metadata,
    NamedTensor,
    architecture_of,
    hyperparameters,
    interleave,
    named_tensors,
    rope_tensors,
)
from edgetune.export.gguf_vocabulary import read_vocabulary
from edgetune.export.tensor_blocks import encode
from edgetune.files import NewFile, require_space, whole_file

Kind = Literal["F32", "F16", "BF16", "Q8_0"]
FILE_TYPES: dict[Kind, int] = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}  # llama.cpp's llama_ftype
VERSION = 3
ALIGNMENT = 32  # bytes; GGUF's default
HEADER_ROOM = 32_000_000  # bytes: more than any vocabulary takes


class PlacedTensor(NamedTuple):
    """A tensor of the output: what it is called there, its type, and its bytes."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    source: NamedTensor | NDArray[np.float32]

    @property
    def size(self) -> int:
        """Bytes in the file, without padding."""
        count, unit = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.kind]]
        return math.prod(self.shape) // count * unit


class WrittenGguf(NamedTuple):
    """What was written. `kept_in_float16`: tensors whose rows do not divide into Q8_0's blocks of 32."""

    path: Path
    size: int
    tensors: int
    kept_in_float16: tuple[str, ...]


def write_gguf(
    model: Path, out: Path, kind: Kind, on_progress: Callable[[Progress], None] | None = None, *, name: str = ""
) -> WrittenGguf:
    """Writes a model folder as one GGUF file. `name` is the model's title in the file; no folder's name is put there.

    Raises:
        ModelError: the folder is damaged, its graph or tokenizer has no GGUF form, or a value is beyond the type's range.
        DiskFull: the file does not fit.
        InputError: the place cannot be written.
    """
    if out.suffix != ".gguf" or out.is_dir():
        raise InputError("is no name for a GGUF file", file=out, hint="name a file that ends in .gguf")
    spec, weights = read_spec(model), WeightFolder(model)
    check_shapes(spec, weights, model)
    tensors, vocabulary = placed_tensors(spec, kind), read_vocabulary(model, spec.vocab)
    metadata = about(spec, tensors, kind, name) | hyperparameters(spec) | vocabulary
    total = sum(tensor.size for tensor in tensors)
    require_space(out, total + HEADER_ROOM)
    meter = Meter(f"writing {kind}", total, on_progress)
    with whole_file(out, "gguf") as part:
        with NewFile(part, "gguf-block") as file:
            file.write(header(metadata, tensors))
            for tensor in tensors:
                for block in encoded_blocks(tensor, weights, spec.head_dim):
                    file.write(np.ascontiguousarray(block).data)
                    meter.add(block.nbytes)
                file.write(bytes(padding(tensor.size)))
        size = part.stat().st_size
    odd = tuple(tensor.name for tensor in tensors if kind == "Q8_0" and tensor.kind == "F16")
    return WrittenGguf(out, size, len(tensors), odd)


def about(spec: ModelSpec, tensors: list[PlacedTensor], kind: Kind, name: str) -> Metadata:
    """What the file says of itself before the model's numbers."""
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    keys: Metadata = {
        "general.architecture": architecture_of(spec).name,
        "general.type": "model",
        "general.size_label": gguf.size_label(count, count, 0, 0),
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    return keys | {"general.name": name} if name else keys


def placed_tensors(spec: ModelSpec, kind: Kind) -> list[PlacedTensor]:
    """What the file will hold, in its order. Vectors and norms stay in float32, as llama.cpp's graphs want them."""
    placed = [PlacedTensor(name, "F32", values.shape, values) for name, values in rope_tensors(spec.rope).items()]
    for tensor in named_tensors(spec):
        own: Kind = kind
        if len(tensor.shape) == 1:
            own = "F32"
        elif kind == "Q8_0" and tensor.shape[-1] % 32:
            own = "F16"
        placed.append(PlacedTensor(tensor.name, own, tensor.shape, tensor))
    return placed


def header(metadata: Metadata, tensors: list[PlacedTensor]) -> bytes:
    """Everything before the tensors' data: magic, version, counts, keys and values, and where each tensor will lie.

    Raises:
        ModelError: a number of the config is beyond what GGUF can hold.
    """
    parts = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        try:
            parts += [string(key), typed(value)]
        except (struct.error, OverflowError):
            message = f"{key} = {value} is beyond what GGUF can hold"
            raise ModelError(message, hint="config.json is damaged, or not of a real model") from None
    start = 0
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        count = len(tensor.shape)
        parts += [string(tensor.name), struct.pack(f"<I{count}QIQ", count, *reversed(tensor.shape), kind, start)]
        start += tensor.size + padding(tensor.size)
    joined = b"".join(parts)
    return joined + bytes(padding(len(joined)))


def string(text: str) -> bytes:
    """A text as GGUF stores it: its length in bytes, then UTF-8."""
    encoded = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(encoded)) + encoded


def typed(value: Any) -> bytes:
    """A value and before it its type, the one that llama.cpp expects of such a value."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", STRING) + string(value)
        case [] | [str(), *_]:
            return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(string, value))
        case _:
            numbers = np.array(value, np.int32 if isinstance(value[0], int) else np.float32)
            kind = 5 if numbers.dtype == np.int32 else 6
            return struct.pack("<IIQ", ARRAY, kind, len(numbers)) + numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def padding(size: int) -> int:
    """How many bytes are missing to the next place where a tensor may begin."""
    return -size % ALIGNMENT


def encoded_blocks(tensor: PlacedTensor, weights: WeightFolder, head_dim: int) -> Iterator[NDArray[Any]]:
    """A tensor's data in the file, a block of rows at a time."""
    if not isinstance(tensor.source, NamedTensor):
        yield tensor.source
        return
    info = weights.tensors[tensor.source.source]
    for block in row_blocks(info, head_dim if tensor.source.interleaved else 1):
        rows = interleave(block, head_dim) if tensor.source.interleaved else block
        if tensor.source.offset:
            yield encode(as_floats(rows) + tensor.source.offset, "F32", tensor.kind, tensor.source.source)
        else:
            yield encode(rows, info.dtype, tensor.kind, tensor.source.source)
