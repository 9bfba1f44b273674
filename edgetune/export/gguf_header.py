"""What a GGUF file says of itself, read within bounds: keys, values, and where its tensors lie.

Nothing is believed before it is checked against the file's size, so that a hostile file costs neither memory nor time. What
llama.cpp would die of (it asserts where others return an error) is refused here, before a process opens the file.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from edgetune.errors import ModelError
from edgetune.files import clean

Value = str | bool | int | float | list[str] | NDArray[Any]
HEADER_LIMIT = 256_000_000  # bytes
STRING_LIMIT = 2_000_000  # strings in all arrays together: the largest vocabularies and their merges have 0.8 million
ENTRY_LIMIT = 65_536  # keys, and tensors
LAYER_LIMIT = 512  # llama.cpp's LLAMA_MAX_LAYERS
NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9
BYTE = 6  # a token's type
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
TENSOR_TYPES = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}


class GgufTensor(NamedTuple):
    """One tensor: `start` and `size` are bytes of the file, `shape` has the outputs first, as in NumPy."""

    kind: str  # F32, Q4_K, ...
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """A GGUF file without its numbers."""

    file: Path
    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]
    size: int  # bytes of the whole file

    @property
    def architecture(self) -> str:
        """The graph that llama.cpp computes it with; "" where the file does not say."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""

    @property
    def parameters(self) -> int:
        """How many numbers the tensors hold."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    def number(self, key: str) -> int | None:
        """A whole number of the architecture, "block_count" for example; None where there is none."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class Reader:
    """The bytes of a header, one after the other, never more than there are."""

    def __init__(self, opened: BinaryIO, file: Path, size: int):
        self.opened, self.file, self.size = opened, file, size
        self.position, self.strings = 0, 0

    def fail(self, what: str) -> ModelError:
        """The error for a place in the file."""
        return ModelError(f"is no GGUF file that can be trusted: {what}", file=self.file, hint="get or export the file again")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > min(self.size, HEADER_LIMIT) - self.position:
            raise self.fail(f"its header ends early, at byte {self.position} of {self.size}")
        self.position += count
        return self.opened.read(count)

    def number(self, code: str) -> Any:
        """One number in struct's notation."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        """A string; bytes that are not UTF-8 are shown as escapes."""
        return self.take(self.number("Q")).decode("utf-8", "backslashreplace")

    def value(self) -> Value:
        """The type of a value, and the value."""
        kind = self.number("I")
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        return self.numbers(kind, 1)[0].item()

    def array(self) -> Value:
        """A list of strings, or an array of numbers."""
        kind, count = self.number("I"), self.number("Q")
        if kind != STRING:
            return self.numbers(kind, count)
        self.strings += count
        if self.strings > STRING_LIMIT:
            raise self.fail(f"its arrays hold {self.strings} strings")
        return [self.string() for _ in range(count)]

    def numbers(self, kind: int, count: int) -> NDArray[Any]:
        """Numbers of one type."""
        if kind not in NUMBERS:
            raise self.fail(f"a value of the unknown type {kind}")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def read_gguf_header(file: Path) -> GgufHeader:
    """The keys, values and tensors of a GGUF file, all bounds verified.

    Raises:
        ModelError: the file is absent, truncated, damaged or hostile, or of a version that we do not read.
    """
    try:
        if not file.is_file():
            raise ModelError("no such file", file=file, hint="give the path of a .gguf file")
        with file.open("rb", buffering=1 << 18) as opened:
            return parse(Reader(opened, file, os.fstat(opened.fileno()).st_size))
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", file=file, hint="check the path and its permissions") from None


def parse(reader: Reader) -> GgufHeader:
    """A header from its first byte on."""
    magic = reader.take(4) if reader.size >= 4 else b""
    if magic != b"GGUF":
        raise reader.fail("it does not begin with GGUF")
    version = reader.number("I")
    if version not in (2, 3):
        big = version in (0x02000000, 0x03000000)
        raise reader.fail("it is big-endian" if big else f"version {version} is not 2 or 3")
    tensor_count, key_count = reader.number("Q"), reader.number("Q")
    if max(tensor_count, key_count) > ENTRY_LIMIT:
        raise reader.fail(f"it claims {tensor_count} tensors and {key_count} keys")
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = reader.string()
        if key in metadata:
            raise reader.fail(f"the key {clean(key[:80])} is there twice")
        metadata[key] = reader.value()
    return GgufHeader(reader.file, metadata, read_tensors(reader, tensor_count, metadata), reader.size)


def read_tensors(reader: Reader, count: int, metadata: dict[str, Value]) -> dict[str, GgufTensor]:
    """Where the tensors lie: one behind the other, aligned, and inside the file."""
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise reader.fail(f"an alignment of {clean(str(alignment)[:80])}")
    tensors: dict[str, GgufTensor] = {}
    end = 0
    for _ in range(count):
        name, tensor = read_tensor(reader)
        if name in tensors:
            raise reader.fail(f"the tensor {clean(name[:80])} is there twice")
        if tensor.start != end:
            raise reader.fail(f"the tensor {clean(name[:80])} lies at {tensor.start}, not at {end}")
        end += -(-tensor.size // alignment) * alignment
        tensors[name] = tensor
    data = -(-reader.position // alignment) * alignment
    placed = {name: tensor._replace(start=data + tensor.start) for name, tensor in tensors.items()}
    need = max((tensor.start + tensor.size for tensor in placed.values()), default=0)
    if need > reader.size:
        raise reader.fail(f"it holds {reader.size} bytes, its tensors need {need}")
    return placed


def read_tensor(reader: Reader) -> tuple[str, GgufTensor]:
    """A tensor's name, and the tensor, its start counted from the data's."""
    name, dimensions = reader.string(), reader.number("I")
    if not 1 <= dimensions <= 4 or len(name.encode()) > 63:
        raise reader.fail(f"the tensor {clean(name[:80])} has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
    kind, start = reader.number("I"), reader.number("Q")
    if kind not in TENSOR_TYPES:
        raise reader.fail(f"the tensor {clean(name[:80])} is of the unknown type {kind}")
    kind_name, per_block, block_bytes = TENSOR_TYPES[kind]
    if not all(1 <= length < 1 << 40 for length in shape) or shape[-1] % per_block:
        raise reader.fail(f"the tensor {clean(name[:80])} is {shape} in {kind_name}")
    return name, GgufTensor(kind_name, shape, start, math.prod(shape) // per_block * block_bytes)


def check_gguf(header: GgufHeader) -> None:
    """Refuses a model that llama.cpp would die of, or that is none.

    Raises:
        ModelError: it has no architecture, no possible numbers, no vocabulary or tensors, or a token twice.
    """
    reason = impossible_number(header) or impossible_tensor(header) or impossible_vocabulary(header)
    if reason:
        message = f"is no model that llama.cpp can run: {clean(reason[:300])}"
        raise ModelError(message, file=header.file, hint="get or export the file again")


def impossible_number(header: GgufHeader) -> str:
    """What is wrong with the model's numbers; "" where nothing is."""
    if not header.architecture:
        return "it names no architecture"
    for key in ("block_count", "context_length", "embedding_length", "attention.head_count"):
        value = header.number(key)
        if value is None or not 1 <= value <= (LAYER_LIMIT if key == "block_count" else 1 << 31):
            return f"{header.architecture}.{key} is {'missing' if value is None else value}"
    epsilon = header.metadata.get(f"{header.architecture}.attention.layer_norm_rms_epsilon", 0.0)
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        return f"{header.architecture}.attention.layer_norm_rms_epsilon is {epsilon}"
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    known = isinstance(scaling, str) and scaling in ROPE_SCALINGS
    return "" if known else f"{header.architecture}.rope.scaling.type is {scaling}"


def impossible_tensor(header: GgufHeader) -> str:
    """What is wrong with the tensors; "" where nothing is."""
    if "token_embd.weight" not in header.tensors:
        return "it has no embedding"
    norms = [name for name, tensor in header.tensors.items() if name.endswith("norm.weight") and tensor.kind != "F32"]
    return f"{norms[0]} is not in float32" if norms else ""


def impossible_vocabulary(header: GgufHeader) -> str:
    """What is wrong with the vocabulary; "" where nothing is. llama.cpp sees of a text what comes before a NUL."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        return "it has no vocabulary"
    twice = len(tokens) - len({token.partition("\0")[0] for token in tokens})
    if twice:
        return f"{twice} tokens of its vocabulary are there twice"
    types = header.metadata.get("tokenizer.ggml.token_type")
    bytes_ = np.flatnonzero(types[: len(tokens)] == BYTE) if isinstance(types, np.ndarray) else []
    odd = [tokens[at] for at in bytes_ if not re.fullmatch("<0x[0-9A-Fa-f]{2}>", tokens[at])]
    return f"the token {odd[0]!r} stands for no byte" if odd else ""
