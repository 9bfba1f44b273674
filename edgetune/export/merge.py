"""A base and its adapter become one Hugging Face folder: W' = W + scale * B @ A in float32, cast once, in a stream.

With DoRA each row of that sum is brought to its magnitude. The folder says its rotation in both forms that readers expect,
carries the tokenizer and the chat template unchanged, and names no local path.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.adapters.lora import LoraAdapter, check_fits
from edgetune.adapters.open import open_adapter
from edgetune.architecture.load import check_shapes
from edgetune.architecture.row_blocks import Meter, row_blocks
from edgetune.architecture.save import copy_side_files
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import ITEM_SIZES, WeightFolder, save_safetensors
from edgetune.backend.dora import row_lengths
from edgetune.backend.numpy_weights import as_floats
from edgetune.errors import InputError
from edgetune.events import Event, Warned
from edgetune.export.tensor_blocks import encode
from edgetune.files import require_space, whole_folder, write_file

Dtype = Literal["float32", "float16", "bfloat16"]
STORED_AS: dict[Dtype, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
SHARDED_ABOVE = 5_000_000_000  # bytes; smaller models become one file, larger ones keep the base's division


class MergeResult(NamedTuple):
    """The merged folder, how many tensors it holds, and the type of its matrices."""

    out: Path
    tensors: int
    dtype: Dtype


def merge(
    model: Path, adapter: Path, out: Path, on_event: Callable[[Event], None] | None = None, *, dtype: Dtype | None = None
) -> MergeResult:
    """Writes the merged model to a new folder. Every tensor keeps its base's type unless `dtype` asks for another.

    A base that is quantised becomes floats, of the type that its scales have; a warning says so.

    Raises:
        ModelError: the base is damaged, or a merged value is beyond the type's range.
        AdapterError: the adapter is damaged, of another base, or of a kind that we do not implement.
        DiskFull: the folder does not fit.
        InputError: `out` is there already, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("is there already", file=out, hint="remove it, or name another folder")
    spec, weights, lora = read_spec(model), WeightFolder(model), open_adapter(adapter)
    check_shapes(spec, weights, model)
    check_fits(lora, spec)
    types = {name: STORED_AS[dtype] if dtype else info.float_type for name, info in weights.tensors.items()}
    sizes = {name: math.prod(info.shape) * ITEM_SIZES[types[name]] for name, info in weights.tensors.items()}
    total = sum(sizes.values())
    require_space(out, total + 64 * 1024 * 1024)
    meter = Meter("merging", total, on_event)
    if on_event and (warning := quantized_warning(weights)):
        on_event(warning)

    def blocks(name: str) -> Iterator[NDArray[Any]]:
        for block in merged_blocks(weights, lora, name, types[name]):
            yield block
            meter.add(block.nbytes)

    matrices = {types[name] for name in types if name.endswith("_proj.weight")}
    stored: Dtype = next(name for name, code in STORED_AS.items() if code in matrices)
    with whole_folder(out, "merge") as part:
        for file, names in files_of(weights, total).items():
            tensors = [(name, types[name], weights.tensors[name].shape) for name in names]
            save_safetensors(part / file, tensors, blocks, {"format": "pt"}, point="merge-block")
        write_index(part, files_of(weights, total), total)
        copy_side_files(model, part, STORED_AS[stored])
    return MergeResult(out, len(types), stored)


def quantized_warning(weights: WeightFolder) -> Warned | None:
    """What a person should know of a model that is made of a quantised base; None: the base is floats."""
    if weights.packing is None:
        return None
    message = f"the base is quantised, in {weights.packing.bits} bits: what comes of it are floats that keep its rounding"
    return Warned(message=message, hint="where you have the un-quantised model, merge the adapter into that")


def merged_blocks(weights: WeightFolder, lora: LoraAdapter, name: str, target: str) -> Iterator[NDArray[Any]]:
    """A tensor of the merged model, a block of rows at a time, in its stored form."""
    info = weights.tensors[name]
    factors = lora.factors.get(name.removesuffix(".weight"))
    first = 0
    for block in row_blocks(info):
        if factors is None:
            yield encode(block, info.dtype, target, name)
            continue
        update = factors.b[first : first + len(block)] @ factors.a
        update *= np.float32(factors.scale)
        update += as_floats(block)
        if factors.magnitude is not None:
            update *= (factors.magnitude[first : first + len(block)] / row_lengths(update))[:, None]
        first += len(block)
        yield encode(update, "F32", target, name)


def files_of(weights: WeightFolder, total: int) -> dict[str, list[str]]:
    """Which tensors go into which file: all into one, or a large model's as the base has them."""
    shards: dict[Path, list[str]] = {}
    for name, info in weights.tensors.items():
        shards.setdefault(info.file, []).append(name)
    if total <= SHARDED_ABOVE or len(shards) == 1:
        return {"model.safetensors": list(weights.tensors)}
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": shards[file] for number, file in enumerate(sorted(shards), 1)}


def write_index(folder: Path, files: dict[str, list[str]], total: int) -> None:
    """model.safetensors.index.json, where there is more than one file."""
    if len(files) > 1:
        places = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_file(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n", "merge-index")
