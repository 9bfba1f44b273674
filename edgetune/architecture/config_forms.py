"""A config.json in every form that readers know: transformers 5's, and that of transformers 4 and everything older.

Tools that know only one form would silently run with another rotation, or another choice of layers.
"""

from collections.abc import Mapping
from typing import Any

from edgetune.architecture.rope_config import is_nested
from edgetune.architecture.spec import FAMILIES

Values = dict[str, Any]
FIRST_PATTERN = 6  # Gemma 3's


def both_forms(config: Mapping[str, Any]) -> Values:
    """The config with the rope in both forms: transformers 5 reads rope_parameters, everything older the top-level keys."""
    config = {key: value for key, value in config.items() if key != "_name_or_path"}  # a path on somebody's machine
    if config.get("model_type") == "gemma3_text":
        return config | layer_forms(config) | local_forms(config)
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling, theta = parts(given, config.get("rope_theta") or default_theta(config))
    forms: Values = {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": {**scaling, "rope_theta": theta}}
    if scaling["rope_type"] == "default":
        forms["rope_scaling"] = None
    return config | (phi3_forms(config, forms) if config.get("model_type") == "phi3" else forms)


def default_theta(config: Mapping[str, Any]) -> float:
    """What the family's readers take where no base is named."""
    family = FAMILIES.get(config.get("model_type", ""))
    return family.defaults.get("rope_theta", 10_000.0) if family else 10_000.0


def parts(given: Mapping[str, Any], theta: float) -> tuple[Values, float]:
    """A set of rope parameters without its base, the type under its newer name; and the base."""
    kind = given.get("rope_type") or given.get("type") or "default"
    rest = {key: value for key, value in given.items() if key not in ("rope_theta", "type")}
    return {**rest, "rope_type": "longrope" if kind == "su" else kind}, given.get("rope_theta") or theta


def phi3_forms(config: Mapping[str, Any], forms: Values) -> Values:
    """Phi-3's: transformers 4 takes three keys as rope_scaling and no more, and the others at the top."""
    rotation = forms["rope_parameters"]
    share = rotation.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    forms |= {"partial_rotary_factor": share, "rope_parameters": {**rotation, "partial_rotary_factor": share}}
    if rotation["rope_type"] == "longrope":
        original = config.get("original_max_position_embeddings") or rotation.get("original_max_position_embeddings", 4096)
        forms["original_max_position_embeddings"] = original
        forms["rope_parameters"]["original_max_position_embeddings"] = original
        forms["rope_scaling"] = {"type": "longrope"} | {key: rotation[key] for key in ("short_factor", "long_factor")}
    return forms


def local_forms(config: Mapping[str, Any]) -> Values:
    """Gemma 3's two rotations: a set for each kind of layer, or a base for each and the scaling of the wider one."""
    given = config.get("rope_parameters") or {}
    full = (given.get("full_attention") if is_nested(given) else None) or config.get("rope_scaling") or {}
    sliding = (given.get("sliding_attention") if is_nested(given) else None) or {}
    scaling, theta = parts(full, config.get("rope_theta") or default_theta(config))
    local_scaling, local = parts(sliding, config.get("rope_local_base_freq") or 10_000.0)
    return {
        "rope_theta": theta,
        "rope_local_base_freq": local,
        "rope_scaling": None if scaling["rope_type"] == "default" else scaling,
        "rope_parameters": {
            "full_attention": {**scaling, "rope_theta": theta},
            "sliding_attention": {**local_scaling, "rope_theta": local},
        },
    }


def layer_forms(config: Mapping[str, Any]) -> Values:
    """Gemma 3's choice of layers with a window: by name, and by the distance of those without one, where they have one."""
    layers, pattern = config.get("num_hidden_layers", 0), config.get("sliding_window_pattern")
    kinds = config.get("layer_types")
    if kinds is None:
        return {"layer_types": kinds_of(layers, pattern or FIRST_PATTERN)}
    distances = (FIRST_PATTERN, *range(1, layers + 2))
    found = next((distance for distance in distances if kinds_of(layers, distance) == kinds), None)
    return {"sliding_window_pattern": found} if found else {}


def kinds_of(layers: int, pattern: int) -> list[str]:
    """layer_types where every layer of that number sees everything."""
    return ["full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)]
