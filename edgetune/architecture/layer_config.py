"""What a config.json says layer by layer: which see a window only, which turn their heads; and the other optional numbers."""

from collections.abc import Callable

from edgetune.architecture.config_json import Config
from edgetune.files import clean

KINDS = ("full_attention", "sliding_attention")


def sliding_layers(config: Config, layers: int, rule: Callable[[int], bool]) -> tuple[bool, ...]:
    """Which layers see a window only: layer_types says it layer by layer, else the family's rule does.

    Raises:
        ModelError: layer_types names other kinds, or another number of layers.
    """
    kinds = config.get("layer_types", list)
    if kinds is None:
        return tuple(rule(layer) for layer in range(layers))
    if len(kinds) != layers:
        raise config.wrong("layer_types", f"names {len(kinds)} layers of {layers}")
    other = next((kind for kind in kinds if kind not in KINDS), None)
    if other is not None:
        raise config.wrong("layer_types", f"names {clean(str(other))[:60]}, which is not supported")
    return tuple(kind == "sliding_attention" for kind in kinds)


def read_window(config: Config, default: int | None = None) -> int | None:
    """How many tokens back attention sees.

    Raises:
        ModelError: none.
    """
    window = config.get("sliding_window", int, default)
    if window is not None and window < 1:
        raise config.wrong("sliding_window", f"is {window}")
    return window


def turned_layers(config: Config, layers: int) -> tuple[bool, ...]:
    """Which layers turn queries and keys by their position: no_rope_layers has a 1 for each, else every n-th does not.

    Raises:
        ModelError: no_rope_layers is too short, or holds something else.
    """
    flags = config.get("no_rope_layers", list)
    if flags is None:
        interval = config.positive("no_rope_layer_interval", 4)
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    if len(flags) < layers or any(flag not in (0, 1) for flag in flags):
        raise config.wrong("no_rope_layers", f"is not a 0 or 1 for each of {layers} layers")
    return tuple(bool(flag) for flag in flags[:layers])


def read_scale(config: Config, key: str, default: float = 1.0) -> float:
    """A number that something is multiplied with or divided by.

    Raises:
        ModelError: it is not above zero.
    """
    scale = config.get(key, float, default)
    if scale <= 0:
        raise config.wrong(key, f"is {scale}")
    return scale


def read_cap(config: Config, key: str) -> float | None:
    """What scores or logits are bent at; null: they are not."""
    return None if config.values.get(key) is None else read_scale(config, key)
