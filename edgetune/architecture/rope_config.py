"""The rotation that a config.json asks for, in both forms that exist.

transformers 4 writes rope_theta and rope_scaling at the top, transformers 5 writes rope_parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from edgetune.architecture.config_json import LARGEST, Config
from edgetune.backend.rope import Rope, RopeKind
from edgetune.files import clean


def read_rope(config: Config, head_dim: int, *, partial: bool = False) -> Rope:
    """The rotation, from rope_parameters, or from rope_theta and rope_scaling. `partial`: it may turn a part of a head.

    Raises:
        ModelError: an unknown type, or a number that its type needs is missing.
    """
    given = config.get("rope_parameters", dict) or config.get("rope_scaling", dict) or {}
    if is_nested(given):
        raise config.wrong("rope_parameters", "has a set for each kind of layer, which is not supported")
    return rope_of(config, Config(given, config.file), head_dim, partial)


def read_ropes(config: Config, head_dim: int) -> tuple[Rope, Rope]:
    """The rotations of layers that see everything, and of those that see a window (Gemma 3).

    transformers 5 writes a set for each in rope_parameters; transformers 4 wrote the first as others do, and the second's
    base as rope_local_base_freq.

    Raises:
        ModelError: as read_rope, or rope_parameters are of another form.
    """
    given = config.get("rope_parameters", dict) or {}
    if given and not is_nested(given):
        raise config.wrong("rope_parameters", "has no set for each kind of layer")
    sets = Config(given, config.file)
    full = sets.get("full_attention", dict) or config.get("rope_scaling", dict) or {}
    local = Config({**config.values, "rope_theta": config.get("rope_local_base_freq", float, 10_000.0)}, config.file)
    sliding = sets.get("sliding_attention", dict) or {}
    return rope_of(config, Config(full, config.file), head_dim), rope_of(local, Config(sliding, config.file), head_dim)


def is_nested(given: Mapping[str, Any]) -> bool:
    """Whether rope parameters come as a set for each kind of layer."""
    return any(isinstance(value, dict) for key, value in given.items() if key.endswith("attention"))


def rope_of(config: Config, rope: Config, head_dim: int, partial: bool = False) -> Rope:
    """The rotation that a set of rope parameters describes, with what stands at the config's root."""
    kind = rope.get("rope_type", str) or rope.get("type", str) or "default"
    kind = "longrope" if kind == "su" else kind  # as Phi-3 called it first
    if kind not in get_args(RopeKind):
        raise config.wrong("rope_type", f"is {clean(kind)}; known: {', '.join(get_args(RopeKind))}")
    share = rope.get("partial_rotary_factor", float, config.get("partial_rotary_factor", float, 1.0))
    if share != 1 and not (partial and 0 < share < 1):
        raise config.wrong("partial_rotary_factor", f"is {share}, which is not supported")
    dim = int(head_dim * share)
    if dim < 2 or dim % 2:
        raise config.wrong("partial_rotary_factor", f"is {share}, which turns {dim} of {head_dim} dimensions")
    max_positions = config.positive("max_position_embeddings", 2048)
    stretched_from = rope.positive("original_max_position_embeddings", max_positions)
    original = config.positive("original_max_position_embeddings", stretched_from)
    factor = rope.get("factor", float)
    if factor is None and kind in ("linear", "dynamic", "llama3"):
        raise config.wrong("rope_scaling.factor", f"is missing, which {kind} needs")
    read = Rope(
        dim=dim,
        base=rope.get("rope_theta", float, config.get("rope_theta", float, 10_000.0)),
        kind=kind,  # pyright: ignore[reportArgumentType]
        factor=max_positions / original if factor is None else factor,
        max_positions=max_positions,
        original_positions=original,
        low_freq_factor=rope.get("low_freq_factor", float, 1.0),
        high_freq_factor=rope.get("high_freq_factor", float, 4.0),
        beta_fast=rope.get("beta_fast", float, 32.0),
        beta_slow=rope.get("beta_slow", float, 1.0),
        truncate=rope.get("truncate", bool, True),
        short_factor=divisors(rope, "short_factor", dim, kind),
        long_factor=divisors(rope, "long_factor", dim, kind),
    )
    check_rope(read, config)
    return replace(read, scale=rope_scale(rope, read))


def check_rope(rope: Rope, config: Config) -> None:
    """The numbers must be such that every frequency is one.

    Raises:
        ModelError: they are not; the message names the key.
    """
    fine = {
        "rope_theta": rope.base > 1,
        "factor": rope.factor > 0,
        "high_freq_factor": rope.kind != "llama3" or rope.high_freq_factor > rope.low_freq_factor,
        "beta_fast": rope.kind != "yarn" or rope.beta_fast > 0,
        "beta_slow": rope.kind != "yarn" or rope.beta_slow > 0,
        "original_max_position_embeddings": rope.kind != "longrope" or rope.original_positions > 1,
        "head_dim": rope.kind != "dynamic" or rope.dim > 2,
    }
    for key in (key for key, holds in fine.items() if not holds):
        raise config.wrong(key, f"is out of bounds for a rope of type {rope.kind}")


def divisors(rope: Config, key: str, dim: int, kind: str) -> tuple[float, ...]:
    """LongRoPE's divisor for each pair of dimensions."""
    if kind != "longrope":
        return ()
    values = rope.get(key, list, [])
    if len(values) != dim // 2 or not all(isinstance(value, int | float) and 0 < value < LARGEST for value in values):
        raise rope.wrong(f"rope_scaling.{key}", f"is not {dim // 2} positive numbers")
    return tuple(float(value) for value in values)


def rope_scale(given: Config, rope: Rope) -> float:
    """What cos and sin are multiplied by: given, or as the papers of YaRN and LongRoPE suggest."""
    if rope.kind not in ("yarn", "longrope"):
        return 1.0
    scale = given.get("attention_factor", float)
    if scale is not None:
        return scale
    if rope.factor <= 1:
        return 1.0
    if rope.kind == "longrope":
        return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_positions))
    upper, lower = given.get("mscale", float), given.get("mscale_all_dim", float)
    if upper and lower:
        return (0.1 * upper * math.log(rope.factor) + 1) / (0.1 * lower * math.log(rope.factor) + 1)
    return 0.1 * math.log(rope.factor) + 1
