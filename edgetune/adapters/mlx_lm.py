"""mlx-lm's adapter folder: adapter_config.json and adapters.safetensors.

Keys are PATH.lora_a (inputs, rank), PATH.lora_b (rank, outputs) and, for DoRA, PATH.m (outputs,). All modules have one rank and
one scale, which multiplies directly: lora_parameters.scale is no alpha. lora_parameters.keys are paths within a layer, and
num_layers counts from the last one. Format: https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/LORA.md
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.adapters.folder import (
    CONFIG_FILE,
    LARGEST_SCALE,
    LAYER,
    MODULE_PATH,
    check_tensors,
    check_whole,
    dropout_of,
    layers_of,
    public_name,
    read_object,
)
from edgetune.adapters.folding import with_one_rank, with_one_scale
from edgetune.adapters.lora import Floats, LoraAdapter, LoraFactors
from edgetune.architecture.weights import load_arrays, save_arrays
from edgetune.errors import AdapterError
from edgetune.files import clean, write_file

WEIGHTS_FILE = "adapters.safetensors"
KEY = re.compile(rf"(?P<path>{MODULE_PATH})\.(?P<leaf>lora_a|lora_b|m)")
ALL_LAYERS = -1  # of num_layers


def read_mlx_lm(folder: Path) -> LoraAdapter:
    """The adapter of an mlx-lm folder.

    Raises:
        AdapterError: a file is absent or damaged, they do not belong together, or it is no LoRA or DoRA of linear layers.
    """
    config, file = read_object(folder), folder / WEIGHTS_FILE
    kind, settings = read_kind(config, folder / CONFIG_FILE)
    if not file.exists():
        raise AdapterError(f"has no {WEIGHTS_FILE}", file=folder, hint="is this an mlx-lm adapter, and complete?")
    arrays = load_arrays(file, AdapterError)
    check_tensors(arrays, file)
    paths = [path for path, leaf in (module_and_leaf(key, file) for key in arrays) if leaf == "lora_a"]
    check_places(paths, config.get("num_layers", ALL_LAYERS), settings.get("keys"), folder / CONFIG_FILE)
    scale = scale_in(settings, folder / CONFIG_FILE)
    factors = {path: read_module(arrays, path, kind, settings.get("rank"), scale, file) for path in paths}
    adapter = LoraAdapter(
        factors,
        clean(str(config.get("model") or ""))[:200],
        dropout_of(settings.get("dropout"), "lora_parameters.dropout", folder / CONFIG_FILE),
    )
    check_whole(adapter, len(arrays), file)
    return adapter


def read_kind(config: Mapping[str, Any], file: Path) -> tuple[str, dict[str, Any]]:
    """lora or dora, and lora_parameters.

    Raises:
        AdapterError: it is a full fine-tune, or of a kind that we do not know.
    """
    kind, settings = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    if kind == "full":
        raise AdapterError(
            "is a full fine-tune: its file holds whole weights, no adapter",
            file=file,
            hint="fuse it with mlx-lm, and use the model folder that comes of it",
        )
    if kind not in ("lora", "dora"):
        message = f"fine_tune_type is {clean(str(kind))[:60]}, which is not supported"
        raise AdapterError(message, file=file, hint="supported: lora, dora")
    if not isinstance(settings, dict):
        raise AdapterError("has no lora_parameters", file=file, hint="is this an mlx-lm adapter, and complete?")
    return kind, settings


def scale_in(settings: Mapping[str, Any], file: Path) -> float:
    """The scale of all modules.

    Raises:
        AdapterError: there is none, and none is guessed.
    """
    scale: Any = settings.get("scale")
    if type(scale) not in (int, float) or not 0 < scale < LARGEST_SCALE:
        message = f"lora_parameters.scale is {clean(str(scale))[:60]}"
        raise AdapterError(message, file=file, hint="mlx-lm multiplies by scale; alpha does not count")
    return float(scale)


def module_and_leaf(key: str, file: Path) -> tuple[str, str]:
    """A tensor's module path, and what it is of it: lora_a, lora_b or m.

    Raises:
        AdapterError: it is of another kind, or of an embedding, whose factors mean something else.
    """
    match = KEY.fullmatch(key)
    if match is None or match["path"].endswith("embed_tokens"):
        message = f"holds {clean(key[:100])}, a kind of update that is not supported"
        raise AdapterError(message, file=file, hint="supported: LoRA and DoRA on linear layers")
    return match["path"], match["leaf"]


def read_module(arrays: Mapping[str, Floats], path: str, kind: str, rank: Any, scale: float, file: Path) -> LoraFactors:
    """One module's factors, in our orientation.

    Raises:
        AdapterError: an array is missing, or of a shape that the others and the config do not say.
    """
    a, b, m = (arrays.get(f"{path}.{leaf}") for leaf in ("lora_a", "lora_b", "m"))
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        shapes = [None if array is None else array.shape for array in (a, b)]
        message = f"lora_a and lora_b of {path} are {shapes[0]} and {shapes[1]}"
        raise AdapterError(message, file=file, hint="supported: LoRA and DoRA on linear layers")
    if type(rank) is not int or rank != a.shape[1] or rank < 1:
        message = f"{path}: rank {clean(str(rank))[:60]}, tensor of rank {a.shape[1]}"
        raise AdapterError(message, file=file, hint="the config does not belong to these weights")
    if (kind == "dora") != (m is not None) or (m is not None and m.shape != b.shape[1:]):
        message = f"fine_tune_type is {kind}, the m of {path} is {'absent' if m is None else m.shape}"
        raise AdapterError(message, file=file, hint="the config does not belong to these weights")
    return LoraFactors(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), scale, m)


def check_places(paths: list[str], layers: Any, keys: Any, file: Path) -> None:
    """mlx-lm looks for adapters only where the config says: what lies elsewhere it refuses to load.

    Raises:
        AdapterError: the config names other modules or fewer layers, or says neither in a form that can be meant.
    """
    if type(layers) is not int or not (keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))):
        message = f"num_layers is {clean(str(layers))[:60]}, lora_parameters.keys {clean(str(keys))[:60]}"
        raise AdapterError(message, file=file, hint="get the adapter again")
    numbers = layers_of(paths)
    elsewhere = sorted({inside_layer(path) for path in paths} - set(keys)) if keys is not None else []
    if elsewhere or (layers > 0 and numbers and numbers[-1] - numbers[0] >= layers):
        what = f"modules {', '.join(elsewhere)[:100]}" if elsewhere else f"layers {numbers[0]} to {numbers[-1]}"
        message = f"does not speak of the {what}, which the weights change"
        raise AdapterError(message, file=file, hint="the config does not belong to these weights")


def inside_layer(path: str) -> str:
    """A module's path within its layer, or the whole path where it is in none (lm_head)."""
    match = LAYER.fullmatch(path)
    return match["inside"] if match else path


def write_mlx_lm(folder: Path, adapter: LoraAdapter, model_layers: int | None = None) -> None:
    """Writes adapter_config.json and adapters.safetensors into an existing folder, as mlx-lm reads them.

    Several scales become one (see folding.py), several ranks the greatest. With `model_layers`, the number of layers of the
    base, mlx-lm puts an adapter only on those from the first that has one; without it on all, where it changes nothing.

    Raises:
        AdapterError: some modules have a magnitude and some have none, or a scale cannot be folded.
    """
    if adapter.is_dora and any(factors.magnitude is None for factors in adapter.factors.values()):
        raise AdapterError(
            "the adapter has magnitudes in some modules only", hint="mlx-lm knows DoRA in all modules or in none: merge it"
        )
    one = with_one_rank(with_one_scale(adapter))
    numbers = layers_of(one.factors)
    config = {
        "fine_tune_type": "dora" if one.is_dora else "lora",
        "model": public_name(one.base_model),
        "num_layers": model_layers - numbers[0] if model_layers and numbers else ALL_LAYERS,
        "lora_parameters": {
            "rank": one.rank,
            "scale": next(iter(one.factors.values())).scale,
            "dropout": one.dropout,
            "keys": sorted({inside_layer(path) for path in one.factors}),
        },
    }
    arrays: dict[str, Floats] = {}
    for path, factors in one.factors.items():
        arrays[f"{path}.lora_a"], arrays[f"{path}.lora_b"] = factors.a.T, factors.b.T
        if factors.magnitude is not None:
            arrays[f"{path}.m"] = factors.magnitude
    write_file(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n", "adapter-config")
    save_arrays(folder / WEIGHTS_FILE, arrays, {"format": "mlx"}, point="adapter-weights")
