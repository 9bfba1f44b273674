"""LoRA adapters as GGUF files, which llama.cpp adds to a model that it has open.

A module is two tensors, NAME.weight.lora_a (rank, inputs) and .lora_b (outputs, rank). NAME and the order of B's rows are those
of the base's graph: without the base neither is known. llama.cpp multiplies by adapter.lora.alpha / rank, rank being each
module's own; an alpha of zero means a scale of one. Format: llama.cpp's convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.adapters.folder import LARGEST_SCALE, check_tensors, check_whole, public_name
from edgetune.adapters.folding import folded
from edgetune.adapters.lora import Floats, LoraAdapter, LoraFactors
from edgetune.architecture.spec import ModelSpec
from edgetune.architecture.tensor_info import ITEM_SIZES, STORED
from edgetune.architecture.weights import from_bfloat16
from edgetune.errors import AdapterError, InputError
from edgetune.export.gguf_file import PlacedTensor, header, padding
from edgetune.export.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from edgetune.export.gguf_names import Metadata, NamedTensor, architecture_of, interleave, named_tensors
from edgetune.files import NewFile, clean, require_space, whole_file

BASE_NAME = "general.base_model.0.name"
ALPHA, ALORA = "adapter.lora.alpha", "adapter.alora.invocation_tokens"
HEADER_ROOM = 4_000_000  # bytes: more than the names of all modules take
MERGE = "merge the adapter instead, and export the merged model"


class ScaledFactors(NamedTuple):
    """Modules by path, and the alpha that goes with all of them."""

    factors: Mapping[str, LoraFactors]
    alpha: float


# ---- writing -----------------------------------------------------------------------------------------------------------


def write_gguf_adapter(out: Path, adapter: LoraAdapter, spec: ModelSpec) -> None:
    """Writes an adapter of that base in float32, whole or absent. Nothing of where it was made is in it.

    Raises:
        AdapterError: llama.cpp's graph cannot express it, or it is of another base.
        ModelError: the base itself has no GGUF form.
        DiskFull: the file does not fit.
        InputError: the place cannot be written.
    """
    if out.suffix != ".gguf" or out.is_dir():
        raise InputError("is no name for a GGUF file", file=out, hint="name a file that ends in .gguf")
    placed = place_modules(adapter, spec)
    scaled = with_one_alpha(adapter)
    tensors: list[PlacedTensor] = []
    for path, tensor in placed.items():
        a, b, _, _ = scaled.factors[path]
        b = interleave(b, spec.head_dim) if tensor.interleaved else b
        pair = (("lora_a", a), ("lora_b", b))
        tensors += [PlacedTensor(f"{tensor.name}.{leaf}", "F32", array.shape, array) for leaf, array in pair]
    require_space(out, sum(tensor.size for tensor in tensors) + HEADER_ROOM)
    with whole_file(out, "gguf-adapter") as part, NewFile(part, "gguf-adapter-block") as file:
        file.write(header(about(adapter, spec, scaled.alpha), tensors))
        for tensor in tensors:
            file.write(np.ascontiguousarray(tensor.source, "<f4").data)
            file.write(bytes(padding(tensor.size)))


def about(adapter: LoraAdapter, spec: ModelSpec, alpha: float) -> Metadata:
    """What the file says of itself."""
    keys: Metadata = {
        "general.type": "adapter",
        "general.architecture": architecture_of(spec).name,
        "general.file_type": 0,
        "adapter.type": "lora",
        ALPHA: alpha,
    }
    base = clean(public_name(adapter.base_model))
    return keys | {"general.base_model.count": 1, BASE_NAME: base} if base else keys


def place_modules(adapter: LoraAdapter, spec: ModelSpec) -> dict[str, NamedTensor]:
    """The tensor of llama.cpp's graph that each module changes.

    Raises:
        AdapterError: there is none, it is of another shape, or the change is none that llama.cpp can make.
    """
    if adapter.is_dora:
        raise AdapterError("the adapter is one of DoRA, which llama.cpp cannot add to an open model", hint=MERGE)
    known = {tensor.source: tensor for tensor in named_tensors(spec)}
    placed: dict[str, NamedTensor] = {}
    for path, factors in adapter.factors.items():
        tensor = known.get(f"{path}.weight")
        if tensor is None and path == "lm_head" and spec.tied:
            raise AdapterError(
                "the adapter changes lm_head, which is the embedding in this model and no tensor of its GGUF", hint=MERGE
            )
        if tensor is None:
            hint = f"{MERGE}; or it was made for another base"
            raise AdapterError(f"the adapter changes {clean(path)}, for which llama.cpp's graph has no tensor", hint=hint)
        shape = (len(factors.b), factors.a.shape[1])
        if shape != tensor.shape:
            message = f"{path} is {tensor.shape} here, {shape} there"
            raise AdapterError(f"the adapter was made for another base: {message}", hint="use the base that it was trained on")
        placed[path] = tensor
    return placed


def with_one_alpha(adapter: LoraAdapter) -> ScaledFactors:
    """The factors as they are where alpha = scale * rank is the same in all modules, else with their scales in B."""
    alphas = {factors.scale * len(factors.a) for factors in adapter.factors.values()}
    alpha = alphas.pop()
    if not alphas and 1e-30 < alpha < LARGEST_SCALE:
        return ScaledFactors(adapter.factors, alpha)
    return ScaledFactors({path: folded(path, factors) for path, factors in adapter.factors.items()}, 0.0)


# ---- reading -----------------------------------------------------------------------------------------------------------


def read_gguf_adapter(file: Path, spec: ModelSpec) -> LoraAdapter:
    """The adapter of a GGUF file for that base.

    Raises:
        ModelError: the file is absent, damaged or hostile, or the base has no GGUF form.
        AdapterError: it is no LoRA adapter, of another base, or changes what we do not implement.
    """
    opened = read_gguf_header(file)
    alpha = alpha_in(opened, spec)
    known = {tensor.name: tensor for tensor in named_tensors(spec)}
    arrays: dict[str, Floats] = {}
    for name, tensor in opened.tensors.items():
        base, _, leaf = name.rpartition(".")
        if base not in known or leaf not in ("lora_a", "lora_b") or tensor.kind not in ITEM_SIZES:
            message = f"holds {clean(name)[:80]} of type {tensor.kind}, which is not supported for this base"
            raise AdapterError(message, file=file, hint="supported: LoRA on linear layers in F32, F16 and BF16")
        arrays[name] = read_tensor(file, tensor)
    check_tensors(arrays, file)
    factors: dict[str, LoraFactors] = {}
    for name in [name.removesuffix(".lora_a") for name in arrays if name.endswith(".lora_a")]:
        path = known[name].source.removesuffix(".weight")
        factors[path] = module_of(known[name], arrays[f"{name}.lora_a"], arrays.get(f"{name}.lora_b"), alpha, spec, file)
    base = opened.metadata.get(BASE_NAME)
    adapter = LoraAdapter(factors, clean(base)[:200] if isinstance(base, str) else "")
    check_whole(adapter, len(arrays), file)
    return adapter


def alpha_in(opened: GgufHeader, spec: ModelSpec) -> float:
    """The alpha of a LoRA adapter's file.

    Raises:
        AdapterError: it is no such file, or for another graph than that of the base.
    """
    values, ours = opened.metadata, architecture_of(spec).name
    kinds = values.get("general.type"), values.get("adapter.type")
    if kinds != ("adapter", "lora") or ALORA in values:
        what = "an activated LoRA" if ALORA in values else clean(" ".join(str(kind)[:40] for kind in kinds))
        raise AdapterError(f"is no LoRA adapter: {what}", file=opened.file, hint="give a GGUF of general.type adapter")
    if opened.architecture != ours:
        message = f"is for a {clean(opened.architecture)[:60]}, the base is a {ours}"
        raise AdapterError(message, file=opened.file, hint="use the base that it was trained on")
    alpha = values.get(ALPHA)
    if not isinstance(alpha, float) or not 0 <= alpha < LARGEST_SCALE:
        raise AdapterError(f"{ALPHA} is {clean(str(alpha))[:60]}", file=opened.file, hint="get or convert the adapter again")
    return alpha


def read_tensor(file: Path, tensor: GgufTensor) -> Floats:
    """A tensor in float32, in memory of its own."""
    with file.open("rb") as opened:
        opened.seek(tensor.start)
        raw: NDArray[Any] = np.frombuffer(opened.read(tensor.size), STORED[tensor.kind]).reshape(tensor.shape)
    return from_bfloat16(raw) if tensor.kind == "BF16" else raw.astype(np.float32)


def module_of(tensor: NamedTensor, a: Floats, b: Floats | None, alpha: float, spec: ModelSpec, file: Path) -> LoraFactors:
    """One module's factors, B's rows in Hugging Face's order.

    Raises:
        AdapterError: B is missing, or they are not of the base's shapes.
    """
    if b is None or a.ndim != 2 or b.ndim != 2 or (len(b), a.shape[1]) != tensor.shape or b.shape[1] != len(a):
        message = f"lora_a and lora_b of {tensor.name} are {a.shape} and {b if b is None else b.shape}"
        raise AdapterError(f"{message}, the base is {tensor.shape}", file=file, hint="use the base that it was trained on")
    rows = side_by_side(b, spec.head_dim) if tensor.interleaved else b
    return LoraFactors(a, rows, alpha / len(a) if alpha else 1.0)


def side_by_side(rows: Floats, head_dim: int) -> Floats:
    """(heads * head_dim, ...) -> the same shape, undoing `interleave`: each head's pairs become its two halves."""
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))
