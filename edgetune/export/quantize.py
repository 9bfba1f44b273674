"""A GGUF in full precision becomes a smaller one: llama.cpp's quantiser in a child process, the result checked.

The types: https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md.
"""

import difflib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

from edgetune import llamacpp
from edgetune.errors import ConfigError, InputError, ModelError, VerificationFailed
from edgetune.events import Progress
from edgetune.export.gguf_header import GgufHeader, GgufTensor, Value, check_gguf, read_gguf_header
from edgetune.faults import fault
from edgetune.files import clean, require_space, whole_file

FLOATS = ("F32", "F16", "BF16")
WIDEST_BITS = 8.5  # of Q8_0, the largest type that the quantiser falls back to
SMALL_BLOCK = 32
ROOM = 1.05


class QuantType(NamedTuple):
    """A type of file. `bits`: per weight, as llama.cpp measured them on Llama-3.1-8B, or of the type's blocks."""

    file_type: int  # llama.cpp's llama_ftype
    bits: float
    base: str  # the type of most tensors
    needs_imatrix: bool = False


TYPES: Mapping[str, QuantType] = {
    "Q8_0": QuantType(7, 8.50, "Q8_0"),
    "Q6_K": QuantType(18, 6.56, "Q6_K"),
    "Q5_K_M": QuantType(17, 5.70, "Q5_K"),
    "Q5_K_S": QuantType(16, 5.57, "Q5_K"),
    "Q5_1": QuantType(9, 6.00, "Q5_1"),
    "Q5_0": QuantType(8, 5.50, "Q5_0"),
    "Q4_K_M": QuantType(15, 4.89, "Q4_K"),
    "Q4_K_S": QuantType(14, 4.67, "Q4_K"),
    "IQ4_NL": QuantType(25, 4.68, "IQ4_NL"),
    "IQ4_XS": QuantType(30, 4.46, "IQ4_XS"),
    "Q4_1": QuantType(3, 5.00, "Q4_1"),
    "Q4_0": QuantType(2, 4.50, "Q4_0"),
    "Q3_K_L": QuantType(13, 4.30, "Q3_K"),
    "Q3_K_M": QuantType(12, 4.00, "Q3_K"),
    "Q3_K_S": QuantType(11, 3.64, "Q3_K"),
    "IQ3_M": QuantType(27, 3.76, "IQ3_S"),
    "IQ3_S": QuantType(26, 3.66, "IQ3_S"),
    "IQ3_XS": QuantType(22, 3.50, "IQ3_S", needs_imatrix=True),
    "IQ3_XXS": QuantType(23, 3.25, "IQ3_XXS", needs_imatrix=True),
    "Q2_K": QuantType(10, 3.16, "Q2_K"),
    "Q2_K_S": QuantType(21, 2.97, "Q2_K", needs_imatrix=True),
    "IQ2_M": QuantType(29, 2.93, "IQ2_S", needs_imatrix=True),
    "IQ2_S": QuantType(28, 2.74, "IQ2_XS", needs_imatrix=True),
    "IQ2_XS": QuantType(20, 2.59, "IQ2_XS", needs_imatrix=True),
    "IQ2_XXS": QuantType(19, 2.38, "IQ2_XXS", needs_imatrix=True),
    "TQ2_0": QuantType(37, 2.06, "TQ2_0"),
    "TQ1_0": QuantType(36, 1.69, "TQ1_0"),
    "IQ1_M": QuantType(31, 2.15, "IQ1_M", needs_imatrix=True),
    "IQ1_S": QuantType(24, 2.00, "IQ1_S", needs_imatrix=True),
}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


class Fallback(NamedTuple):
    """A tensor whose rows do not divide into the type's blocks, and the type that the quantiser took instead."""

    tensor: str
    columns: int
    kind: str


class QuantizedGguf(NamedTuple):
    """What was written: how many tensors of each type, and those that could not be of the type that was asked for."""

    path: Path
    size: int  # bytes
    kinds: dict[str, int]
    fallbacks: tuple[Fallback, ...]


def quantize(
    source: Path,
    out: Path,
    kind: str,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    threads: int | None = None,
) -> QuantizedGguf:
    """Writes `source`, an F32, F16 or BF16 GGUF, as a file of another type. `out` is whole or absent.

    Raises:
        ConfigError: there is no such type, or it needs an importance matrix.
        ModelError: `source` is no such model.
        InputError: `out` cannot be written, or is `source`.
        ChildFailed: llama.cpp refuses, or dies.
        DiskFull: the file does not fit.
        VerificationFailed: what llama.cpp wrote is not what it was asked for.
    """
    name, wanted = quant_type(kind)
    before = read_gguf_header(source)
    require_quantizable(before)
    if out.is_dir():
        raise InputError("is a folder, not a place for a file", file=out, hint="name a file that ends in .gguf")
    if out.resolve() == source.resolve() or (out.exists() and out.samefile(source)):
        raise InputError("would be read and overwritten at once", file=out, hint="give the quantised file another name")
    require_space(out, expected_size(before, wanted))

    def told(done: float, total: float) -> None:
        fault("quantize-tensor")
        if on_progress:
            on_progress(Progress(stage=f"quantising to {name}", done=done, total=total, unit="tensors"))

    with whole_file(out, "quantize") as part:
        llamacpp.quantize(source, part, wanted.file_type, threads=threads, on_progress=told)
        after = read_gguf_header(part)
        verify(before, after, wanted)
    kinds = Counter(tensor.kind for tensor in after.tensors.values())
    return QuantizedGguf(out, after.size, dict(kinds), tuple(fallbacks(before, after, wanted)))


def quant_type(kind: str) -> tuple[str, QuantType]:
    """A type by its name, in llama.cpp's spelling; capitals do not matter.

    Raises:
        ConfigError: there is no such type, or it needs an importance matrix.
    """
    name = ALIASES.get(kind.upper(), kind.upper())
    if name not in TYPES:
        near = difflib.get_close_matches(name, TYPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(usable_types())}"
        raise ConfigError(f"there is no type {clean(kind)} to quantise to", hint=hint)
    if TYPES[name].needs_imatrix:
        smallest = min(usable_types(), key=lambda each: abs(TYPES[each].bits - TYPES[name].bits))
        hint = f"the nearest type without one is {smallest}"
        raise ConfigError(f"{name} is garbage without an importance matrix, which cannot be made here yet", hint=hint)
    return name, TYPES[name]


def usable_types() -> list[str]:
    """The types that need no importance matrix, the largest first; the ternary ones are for models trained as such."""
    return [name for name, each in TYPES.items() if not each.needs_imatrix]


def require_quantizable(header: GgufHeader) -> None:
    """Refuses what the quantiser would spoil or die of.

    Raises:
        ModelError: it is no model, or one part of a file, or it has lost its precision already.
    """
    if header.metadata.get("general.type", "model") != "model":
        raise ModelError("is an adapter, not a model", file=header.file, hint="merge it first, then quantise the model")
    check_gguf(header)
    if int(plain(header.metadata.get("split.count", 1))) > 1:
        raise ModelError("is one part of several", file=header.file, hint="join them with llama-gguf-split --merge first")
    lossy = Counter(tensor.kind for tensor in header.tensors.values() if tensor.kind not in FLOATS)
    if lossy:
        message = f"is quantised already ({', '.join(lossy)}): another time would add to the loss"
        raise ModelError(message, file=header.file, hint="quantise the F16, BF16 or F32 file that it was made from")


def plain(value: Value) -> float:
    """A number of the metadata; 0 for what is none."""
    return value if isinstance(value, int | float) else 0


def expected_size(header: GgufHeader, wanted: QuantType) -> int:
    """Bytes that the result needs, a little generous."""
    matrices = [(name, tensor) for name, tensor in header.tensors.items() if len(tensor.shape) > 1]
    bits = sum(math.prod(tensor.shape) * expected_bits(name, tensor, wanted) for name, tensor in matrices)
    return math.ceil(bits / 8 * ROOM) + header.size - sum(tensor.size for _, tensor in matrices)


def expected_bits(name: str, tensor: GgufTensor, wanted: QuantType) -> float:
    """Per weight: embeddings and rows that do not divide into the type's blocks become Q8_0 at most, odd ones F16."""
    if tensor.shape[-1] % SMALL_BLOCK:
        return 16
    if name in ("token_embd.weight", "output.weight") or tensor.shape[-1] % block_size(wanted.base):
        return WIDEST_BITS
    return wanted.bits


def block_size(kind: str) -> int:
    """How many numbers of a row share a scale."""
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]


def fallbacks(before: GgufHeader, after: GgufHeader, wanted: QuantType) -> list[Fallback]:
    """The matrices that were meant to be quantised and whose rows do not divide into the type's blocks."""
    block = block_size(wanted.base)
    return [
        Fallback(name, tensor.shape[-1], tensor.kind)
        for name, tensor in after.tensors.items()
        if tensor.shape[-1] % block and (tensor.kind != before.tensors[name].kind or is_quantizable(name, tensor))
    ]


def is_quantizable(name: str, tensor: GgufTensor) -> bool:
    """Whether the quantiser touches it at all: weights of two dimensions that are no norms."""
    return len(tensor.shape) > 1 and name.endswith("weight") and "_norm" not in name


def verify(before: GgufHeader, after: GgufHeader, wanted: QuantType) -> None:
    """The same model, smaller, and llama.cpp evaluates it.

    Raises:
        VerificationFailed: tensors or metadata have changed, nothing got smaller, or the numbers are not finite.
        ChildFailed: llama.cpp cannot open what it wrote.
    """

    def fail(what: str) -> VerificationFailed:
        return VerificationFailed(f"llama.cpp's quantiser went wrong: {what}", hint="try again, or another type")

    if {name: each.shape for name, each in before.tensors.items()} != {n: t.shape for n, t in after.tensors.items()}:
        raise fail("the tensors are not those of the source")
    if after.metadata.get("general.file_type") != wanted.file_type:
        raise fail("the file is of another type")
    changed = {"general.file_type", "general.quantization_version"}
    for key in (before.metadata.keys() | after.metadata.keys()) - changed:
        if not same(before.metadata.get(key), after.metadata.get(key)):
            raise fail(f"{clean(key)} has changed")
    divisible = [name for name, tensor in after.tensors.items() if is_quantizable(name, tensor)]
    if not any(after.tensors[name].kind not in FLOATS for name in divisible):
        raise fail("no tensor is quantised")
    with llamacpp.LlamaChild(after.file, context=32) as child:
        if not np.isfinite(child.score([0], [0])).all():
            raise fail("the model's numbers are not finite any more")


def same(a: Value | None, b: Value | None) -> bool:
    """Whether two values of metadata are equal."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return type(a) is type(b) and a == b
