"""A model folder becomes a GGUF file: header first, then every tensor in a stream, whole or absent.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file holds what the model is and nothing of where it
was made: no paths, no names of people or machines.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.load import check_shapes
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.errors import InputError
from edgetune.events import Progress
from edgetune.export.gguf_names import (
    Metadata,
    NamedTensor,
    architecture_of,
    hyperparameters,
    interleave,
    named_tensors,
    rope_divisors,
)
from edgetune.export.gguf_vocabulary import read_vocabulary
from edgetune.export.tensor_blocks import Meter, encode, row_blocks
from edgetune.files import fault, require_space, whole_file

Kind = Literal["F32", "F16", "BF16", "Q8_0"]
FILE_TYPES: dict[Kind, int] = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}  # llama.cpp's llama_ftype
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
    general: Metadata = {"general.type": "model", "general.file_type": FILE_TYPES[kind]}
    metadata = general | ({"general.name": name} if name else {}) | hyperparameters(spec) | vocabulary
    total = sum(tensor.size for tensor in tensors)
    require_space(out, total + HEADER_ROOM)
    meter = Meter(f"writing {kind}", total, on_progress)
    with whole_file(out, "gguf") as part:
        write_header(part, architecture_of(spec).name, metadata, tensors)
        with part.open("ab") as file:
            file.write(bytes(-file.tell() % ALIGNMENT))
            for tensor in tensors:
                for block in encoded_blocks(tensor, weights, spec.head_dim):
                    fault("gguf-block")
                    file.write(np.ascontiguousarray(block).data)
                    meter.add(block.nbytes)
                file.write(bytes(-tensor.size % ALIGNMENT))
        size = part.stat().st_size
    odd = tuple(tensor.name for tensor in tensors if kind == "Q8_0" and tensor.kind == "F16")
    return WrittenGguf(out, size, len(tensors), odd)


def placed_tensors(spec: ModelSpec, kind: Kind) -> list[PlacedTensor]:
    """What the file will hold, in its order. Vectors and norms stay in float32, as llama.cpp's graphs want them."""
    placed: list[PlacedTensor] = []
    divisors = rope_divisors(spec.rope)
    if divisors is not None:
        placed.append(PlacedTensor("rope_freqs.weight", "F32", divisors.shape, divisors))
    for tensor in named_tensors(spec):
        own: Kind = kind
        if len(tensor.shape) == 1:
            own = "F32"
        elif kind == "Q8_0" and tensor.shape[-1] % 32:
            own = "F16"
        placed.append(PlacedTensor(tensor.name, own, tensor.shape, tensor))
    return placed


def write_header(part: Path, architecture: str, metadata: Metadata, tensors: list[PlacedTensor]) -> None:
    """Everything before the tensors' data: magic, keys and values, and where each tensor will lie."""
    writer = gguf.GGUFWriter(part, architecture)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.size, raw_dtype=kind)
    writer.add_string("general.size_label", gguf.size_label(*writer.get_total_parameter_count()))
    for key, value in metadata.items():
        add(writer, key, value)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One key and its value, in the type that llama.cpp expects of such a value."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def encoded_blocks(tensor: PlacedTensor, weights: WeightFolder, head_dim: int) -> Iterator[NDArray[Any]]:
    """A tensor's data in the file, a block of rows at a time."""
    if not isinstance(tensor.source, NamedTensor):
        yield tensor.source
        return
    info = weights.tensors[tensor.source.source]
    for block in row_blocks(info, head_dim if tensor.source.interleaved else 1):
        rows = interleave(block, head_dim) if tensor.source.interleaved else block
        yield encode(rows, info.dtype, tensor.kind, tensor.source.source)
