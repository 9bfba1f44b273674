"""PEFT's adapter folder, the native form on disk: adapter_config.json and adapter_model.safetensors.

Keys are base_model.model.PATH.lora_A.weight (rank, inputs), .lora_B.weight (outputs, rank) and, with use_dora,
.lora_magnitude_vector (outputs,). The scale is lora_alpha / r, or / sqrt(r) with use_rslora, where rank_pattern and
alpha_pattern may name other ranks and alphas per module. What we do not implement is refused by name: a scale is never guessed.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from edgetune.adapters.lora import Floats, LoraAdapter, LoraFactors, alpha_of, scale_of
from edgetune.architecture.weights import load_arrays, save_arrays
from edgetune.errors import AdapterError
from edgetune.files import clean, write_file

PREFIX = "base_model.model."
WEIGHTS_FILE = "adapter_model.safetensors"
MAGNITUDE = "lora_magnitude_vector"
KEY = re.compile(rf"base_model\.model\.(?P<path>{MODULE_PATH})\.(?:(?P<factor>lora_[AB])\.weight|{MAGNITUDE})")
# Plain names, the simplest wildcards, and one group of alternatives: nothing that can take a matcher long.
PATTERN = re.compile(r"\^?(?:[\w.|*+-]|\\[.dw]|\[[\w-]+\]|\((?:\?:)?(?:[\w.|-]|\\[.dw])+\)(?![*+]))+\$?")
WILDCARDS, WILD_PATTERNS = 2, 8  # repetitions in one pattern, and patterns that have any
# Each may be present with a value that means "not used"; any other value is a feature that changes the arithmetic.
UNUSED_IF = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "exclude_modules": (None, []),
    # The others (pissa, olora, corda, loftq) change the base's weights when PEFT loads the adapter.
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva", "mica"),
}
# These say how an adapter was begun, what it was called or how it is trained; they do not change what it means.
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r", "target_modules", "lora_alpha",
    "lora_dropout", "use_rslora", "use_dora", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "runtime_config", "qalora_group_size",
    "ensure_weight_tying", "peft_version", "lora_ga_config",
}  # fmt: skip


def read_peft(folder: Path) -> LoraAdapter:
    """The adapter of a PEFT folder.

    Raises:
        AdapterError: a file is absent or damaged, the adapter is pickled, or it uses a feature that we do not implement.
    """
    config = read_config(folder)
    ranks, alphas = (read_patterns(config, key, folder / CONFIG_FILE) for key in ("rank_pattern", "alpha_pattern"))
    file = folder / WEIGHTS_FILE
    if not file.exists():
        if (folder / "adapter_model.bin").exists():
            raise AdapterError("is pickled (adapter_model.bin), which can run code", file=folder, hint="save it as safetensors")
        raise AdapterError(f"has no {WEIGHTS_FILE}", file=folder, hint="is this an adapter folder, and complete?")
    arrays = load_arrays(file, AdapterError)
    check_tensors(arrays, file)
    factors: dict[str, LoraFactors] = {}
    for key in arrays:
        path, leaf = module_and_leaf(key, file)
        if leaf != "lora_A":
            continue
        a, b, magnitude = module_arrays(arrays, path, bool(config.get("use_dora")), file)
        said = first_match(ranks, path, config.get("r")), first_match(alphas, path, config.get("lora_alpha"))
        scale = module_scale(path, *said, len(a), bool(config.get("use_rslora")), file)
        factors[path] = LoraFactors(a, b, scale, magnitude)
    adapter = LoraAdapter(
        factors,
        clean(str(config.get("base_model_name_or_path") or ""))[:200],
        dropout_of(config.get("lora_dropout"), "lora_dropout", folder / CONFIG_FILE),
        bool(config.get("use_rslora")),
    )
    check_whole(adapter, len(arrays), file)
    return adapter


def module_and_leaf(key: str, file: Path) -> tuple[str, str]:
    """A tensor's module path, and what it is of it: lora_A, lora_B or lora_magnitude_vector.

    Raises:
        AdapterError: it is of another kind.
    """
    match = KEY.fullmatch(key)
    if match is None:
        message = f"holds {clean(key[:100])}, a kind of update that is not supported"
        raise AdapterError(message, file=file, hint="supported: LoRA and DoRA on linear layers")
    return match["path"], match["factor"] or MAGNITUDE


def module_arrays(arrays: Mapping[str, Floats], path: str, is_dora: bool, file: Path) -> tuple[Floats, Floats, Floats | None]:
    """A, B and, where the adapter is one of DoRA, the magnitude of a module.

    Raises:
        AdapterError: one is missing, or they are of shapes that do not belong together.
    """
    a, b = arrays[f"{PREFIX}{path}.lora_A.weight"], arrays.get(f"{PREFIX}{path}.lora_B.weight")
    magnitude = arrays.get(f"{PREFIX}{path}.{MAGNITUDE}")
    if a.ndim != 2 or b is None or b.ndim != 2 or b.shape[1] != a.shape[0]:
        raise AdapterError(f"lora_A and lora_B of {path} do not belong together", file=file, hint="the file is damaged")
    if is_dora != (magnitude is not None) or (magnitude is not None and magnitude.shape != b.shape[:1]):
        message = f"use_dora is {is_dora}, the {MAGNITUDE} of {path} is {'absent' if magnitude is None else magnitude.shape}"
        raise AdapterError(message, file=file, hint="the config does not belong to these weights")
    return a, b, magnitude


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, with every feature that we do not implement refused."""
    file, config = folder / CONFIG_FILE, read_object(folder)
    for key, value in config.items():
        allowed = UNUSED_IF.get(key)
        unknown = allowed is None and key not in HARMLESS and value not in (None, False, [], {}, "")
        if unknown or (allowed is not None and value not in allowed):
            raise AdapterError(
                f"uses {clean(key)} = {clean(json.dumps(value))[:60]}, which is not supported",
                file=file,
                hint="supported: LoRA and DoRA on linear layers, rsLoRA, ranks and alphas per module; or merge it with PEFT",
            )
    for key in ("use_rslora", "use_dora"):
        if config.get(key) not in (None, False, True):
            raise AdapterError(f"{key} is {clean(str(config[key]))[:60]}", file=file, hint="get the adapter again")
    return config


def read_patterns(config: Mapping[str, Any], key: str, file: Path) -> list[tuple[re.Pattern[str], Any]]:
    """PEFT's patterns for the ends of module paths, in their order, each with the rank or alpha that it gives.

    A pattern is a regular expression that anybody may have written: only what cannot run for long is taken.

    Raises:
        AdapterError: there is no table of them, or one that is not taken.
    """
    given = config.get(key) or {}
    if not isinstance(given, dict):
        raise AdapterError(f"{key} is not a table", file=file, hint="get the adapter again")
    wild = [pattern for pattern in given if "*" in pattern or "+" in pattern]
    patterns: list[tuple[re.Pattern[str], Any]] = []
    for pattern, value in given.items():
        simple = len(pattern) <= 200 and PATTERN.fullmatch(pattern) and pattern.count("(") <= 1
        if not simple or pattern.count("*") + pattern.count("+") > WILDCARDS or len(wild) > WILD_PATTERNS:
            message = f"{key} has {clean(pattern)[:60]!r}, which is not supported"
            raise AdapterError(message, file=file, hint="use plain module names")
        try:
            patterns.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except re.error as error:
            message = f"{key} has {clean(pattern)[:60]!r}: {error}"
            raise AdapterError(message, file=file, hint="use plain module names") from None
    return patterns


def first_match(patterns: Sequence[tuple[re.Pattern[str], Any]], path: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that ends the path wins."""
    return next((value for pattern, value in patterns if pattern.match(path)), default)


def module_scale(path: str, said: Any, alpha: Any, rank: int, rslora: bool, file: Path) -> float:
    """A module's scale, from the rank and alpha that the config says it has.

    Raises:
        AdapterError: they are no positive finite numbers, or the rank is not the tensor's.
    """
    if type(alpha) not in (int, float) or not 0 < alpha < LARGEST_SCALE or said != rank or rank < 1:
        raise AdapterError(
            f"{path}: rank {clean(str(said))[:60]}, alpha {clean(str(alpha))[:60]}, tensor of rank {rank}",
            file=file,
            hint="the config does not belong to these weights",
        )
    return scale_of(float(alpha), rank, rslora)


def write_peft(folder: Path, adapter: LoraAdapter, base_model: str = "") -> None:
    """Writes adapter_config.json and adapter_model.safetensors into an existing folder, as PEFT itself would.

    Modules of one rank and scale need no patterns; others are named. A local path of the base is not written down: it would
    tell who trained where.
    """
    (rank, scale), _ = Counter((len(factors.a), factors.scale) for factors in adapter.factors.values()).most_common(1)[0]
    others = {path: factors for path, factors in adapter.factors.items() if (len(factors.a), factors.scale) != (rank, scale)}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": public_name(base_model or adapter.base_model),
        "revision": None,
        "r": rank,
        "lora_alpha": alpha_of(scale, rank, adapter.rslora),
        "lora_dropout": adapter.dropout,
        "target_modules": sorted({path.rpartition(".")[2] for path in adapter.factors}),
        "layers_to_transform": layers_if_not_all(adapter),
        "layers_pattern": "layers" if layers_if_not_all(adapter) else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": adapter.rslora,
        "use_dora": adapter.is_dora,
        "rank_pattern": {path: len(factors.a) for path, factors in others.items()},
        "alpha_pattern": {path: alpha_of(factors.scale, len(factors.a), adapter.rslora) for path, factors in others.items()},
        "modules_to_save": None,
    }
    arrays = {
        f"{PREFIX}{name}{'' if name.endswith(MAGNITUDE) else '.weight'}": array
        for name, array in adapter.trained_arrays().items()
    }
    write_file(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n", "adapter-config")
    save_arrays(folder / WEIGHTS_FILE, arrays, {"format": "pt"}, point="adapter-weights")


def layers_if_not_all(adapter: LoraAdapter) -> list[int] | None:
    """The layers that carry an adapter, where some before the last one do not and no module lies outside of them."""
    layers = layers_of(adapter.factors)
    inside = all(LAYER.fullmatch(path) for path in adapter.factors)
    return layers if inside and layers != list(range(len(layers))) else None
