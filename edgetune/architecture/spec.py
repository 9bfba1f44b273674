"""What a model is, read from its config.json: every number and switch of a decoder, in one frozen record.

Both forms that exist are read: rope_theta and rope_scaling at the top (transformers 4), and rope_parameters (transformers 5).
A family is one entry of FAMILIES: what its config leaves unsaid.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edgetune.backend.ops import HeadShape
from edgetune.backend.rope import Rope, RopeKind
from edgetune.errors import ModelError, UnsupportedFamily
from edgetune.files import clean

CONFIG_LIMIT = 4_000_000  # bytes


@dataclass(frozen=True)
class ModelSpec:
    """A decoder's numbers. Shapes are in the axes of backend/ops.py; per-layer values are tuples of `layers` entries."""

    family: str  # Hugging Face's model_type
    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    norm_eps: float
    tied: bool  # the head is the embedding
    max_positions: int
    rope: Rope
    windows: tuple[int | None, ...]
    activation: str = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    dtype: str = "float32"  # what config.json says the weights are stored in

    def head_shape(self, layer: int) -> HeadShape:
        """How that layer's attention reads its projections."""
        return HeadShape(self.heads, self.kv_heads, self.head_dim, self.head_dim**-0.5, self.rope)

    def linear_shape(self, kind: str) -> tuple[int, int]:
        """(outputs, inputs) of a linear layer of that kind, "q_proj" for example."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "q_proj": (queries, self.dim),
            "k_proj": (keys, self.dim),
            "v_proj": (keys, self.dim),
            "o_proj": (self.dim, queries),
            "gate_proj": (self.hidden, self.dim),
            "up_proj": (self.hidden, self.dim),
            "down_proj": (self.dim, self.hidden),
        }
        return shapes[kind]

    def module_path(self, layer: int, kind: str) -> str:
        """Hugging Face's path of a linear layer."""
        block = "self_attn" if kind in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        return f"model.layers.{layer}.{block}.{kind}"

    @property
    def parameters(self) -> int:
        """How many numbers the model has, norms and biases left out."""
        kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        block = sum(math.prod(self.linear_shape(kind)) for kind in kinds)
        return self.layers * block + self.vocab * self.dim * (1 if self.tied else 2)


class Config:
    """A config.json with typed access: a wrong type is an error that names the key."""

    def __init__(self, values: Mapping[str, Any], file: Path):
        self.values, self.file = values, file

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key, which must be of that kind; the default where it is absent or null.

        Raises:
            ModelError: it is of another kind.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if kind is float and isinstance(value, dict):  # transformers writes infinities as {"__float__": "Infinity"}
            value = float(value.get("__float__", "nan"))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key, f"is {clean(repr(value)[:60])}, not {kind.__name__}")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """A whole number of at least one, and of less than a hundred million.

        Raises:
            ModelError: it is absent without a default, or out of bounds.
        """
        value = self.get(key, int, default)
        if value is None:
            raise self.wrong(key, "is missing")
        if not 1 <= value < 10**8:
            raise self.wrong(key, f"is {value}")
        return value

    def wrong(self, key: str, what: str) -> ModelError:
        """The error for a key."""
        return ModelError(f"{key} {what}", file=self.file, hint="the model folder is damaged, or not a decoder")


def read_config(folder: Path) -> Config:
    """The config.json of a model folder; a multimodal wrapper's text_config is merged into the root.

    Raises:
        ModelError: no folder, no config.json, not JSON, or one that asks for code of its own.
    """
    file = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(
            "no such model folder", file=folder, hint="give a folder, a hub id or a name from `edgetune models`"
        )
    try:
        if file.stat().st_size > CONFIG_LIMIT:
            raise ModelError("is too large to be a config", file=file)
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ModelError("has no config.json", file=folder, hint="is this a Hugging Face model folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"is not readable JSON: {clean(str(error))}", file=file, hint="get the model again") from None
    if not isinstance(values, dict):
        raise ModelError("is not a JSON object", file=file, hint="get the model again")
    if isinstance(values.get("text_config"), dict):
        values = {**values, **values["text_config"]}
    return Config(values, file)


def read_spec(folder: Path) -> ModelSpec:
    """The model's spec.

    Raises:
        ModelError: config.json is absent or wrong; the message names the key.
        UnsupportedFamily: a family that is not in the list.
    """
    config = read_config(folder)
    family = config.get("model_type", str, "")
    if family not in FAMILIES:
        named = clean(family) or "no family (model_type)"
        code = " with code of its own (auto_map)" if "auto_map" in config.values else ""
        raise UnsupportedFamily(
            f"{named}{code} is not supported", file=config.file, hint="supported: " + ", ".join(FAMILIES)
        )
    quantized = config.values.get("quantization") or config.values.get("quantization_config")
    if quantized:
        raise ModelError(
            "holds quantised weights", file=config.file, hint="take the un-quantised model; quantise when exporting"
        )
    heads = config.positive("num_attention_heads")
    dim = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    head_dim = config.positive("head_dim", 128 if family == "qwen3" else max(1, dim // heads))
    kv_heads = config.positive("num_key_value_heads", heads)
    if heads % kv_heads or layers > 1000 or head_dim % 2:
        raise config.wrong("num_key_value_heads, num_hidden_layers, head_dim", f"are {kv_heads}, {layers}, {head_dim}")
    activation = config.get("hidden_act", str, "silu")
    if activation not in ("silu", "swish"):
        raise config.wrong("hidden_act", f"is {clean(activation)}, which {family} models here do not use")
    common: dict[str, Any] = dict(
        family=family,
        vocab=config.positive("vocab_size"),
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=config.positive("intermediate_size"),
        norm_eps=config.get("rms_norm_eps", float, 1e-6),
        max_positions=config.positive("max_position_embeddings", 2048),
        rope=read_rope(config, head_dim),
        windows=(None,) * layers,
        dtype=config.get("dtype", str) or config.get("torch_dtype", str) or "float32",
    )
    return ModelSpec(**{**common, **FAMILIES[family](config, layers)})


def llama(config: Config, layers: int) -> dict[str, Any]:
    """Llama 2 and 3, SmolLM2, TinyLlama (arXiv:2302.13971)."""
    bias = config.get("attention_bias", bool, False)
    return dict(
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.get("mlp_bias", bool, False),
        tied=config.get("tie_word_embeddings", bool, False),
    )


def mistral(config: Config, layers: int) -> dict[str, Any]:
    """Mistral (arXiv:2310.06825): every layer sees a window, if the config names one."""
    window = config.get("sliding_window", int) if "sliding_window" in config.values else 4096  # transformers' default
    return dict(windows=(window,) * layers, tied=config.get("tie_word_embeddings", bool, False))


def qwen2(config: Config, layers: int) -> dict[str, Any]:
    """Qwen 2 and 2.5 (arXiv:2407.10671): biases on queries, keys and values that no key announces."""
    return dict(
        windows=qwen_windows(config, layers), qkv_bias=True, tied=config.get("tie_word_embeddings", bool, False)
    )


def qwen3(config: Config, layers: int) -> dict[str, Any]:
    """Qwen 3 (arXiv:2505.09388): a norm on every query and key head."""
    bias = config.get("attention_bias", bool, False)
    return dict(
        windows=qwen_windows(config, layers),
        qkv_bias=bias,
        output_bias=bias,
        query_key_norm=True,
        tied=config.get("tie_word_embeddings", bool, False),
    )


def qwen_windows(config: Config, layers: int) -> tuple[int | None, ...]:
    """Layers from max_window_layers on see a window, if windows are in use; layer_types says it layer by layer."""
    window = config.get("sliding_window", int, 4096) if config.get("use_sliding_window", bool, False) else None
    kinds = config.get("layer_types", list)
    if kinds is not None:
        if len(kinds) != layers:
            raise config.wrong("layer_types", f"names {len(kinds)} layers of {layers}")
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first = config.get("max_window_layers", int, 28)
    return tuple(window if layer >= first else None for layer in range(layers))


FAMILIES: dict[str, Callable[[Config, int], dict[str, Any]]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
}
SUPPORTED_FAMILIES = tuple(FAMILIES)


def read_rope(config: Config, head_dim: int) -> Rope:
    """The rotation, from rope_parameters, or from rope_theta and rope_scaling.

    Raises:
        ModelError: an unknown type, or a number that its type needs is missing.
    """
    given = config.get("rope_parameters", dict) or config.get("rope_scaling", dict) or {}
    rope = Config(given, config.file)
    kind = rope.get("rope_type", str) or rope.get("type", str) or "default"
    if kind not in get_args(RopeKind):
        raise config.wrong("rope_type", f"is {clean(kind)}; known: {', '.join(get_args(RopeKind))}")
    base = rope.get("rope_theta", float) or config.get("rope_theta", float, 10_000.0)
    partial = rope.get("partial_rotary_factor", float) or config.get("partial_rotary_factor", float, 1.0)
    max_positions = config.positive("max_position_embeddings", 2048)
    original = config.get("original_max_position_embeddings", int) or rope.get(
        "original_max_position_embeddings", int, max_positions
    )
    factor = rope.get("factor", float)
    if factor is None and kind in ("linear", "dynamic", "llama3"):
        raise config.wrong("rope_scaling.factor", f"is missing, which {kind} needs")
    factor = factor or max_positions / original
    if partial != 1:
        raise config.wrong("partial_rotary_factor", f"is {partial}, which {', '.join(FAMILIES)} models do not use")
    dim = head_dim
    if base <= 1 or factor <= 0 or original < 1:
        raise config.wrong("rope_parameters", "are out of bounds")
    return Rope(
        dim=dim,
        base=base,
        kind=kind,  # pyright: ignore[reportArgumentType]
        factor=factor,
        max_positions=max_positions,
        original_positions=original,
        low_freq_factor=rope.get("low_freq_factor", float, 1.0),
        high_freq_factor=rope.get("high_freq_factor", float, 4.0),
        beta_fast=rope.get("beta_fast", float) or 32.0,
        beta_slow=rope.get("beta_slow", float) or 1.0,
        truncate=rope.get("truncate", bool, True),
        short_factor=divisors(rope, "short_factor", dim, kind),
        long_factor=divisors(rope, "long_factor", dim, kind),
        scale=rope_scale(rope, kind, factor, original),
    )


def divisors(rope: Config, key: str, dim: int, kind: str) -> tuple[float, ...]:
    """LongRoPE's divisor for each pair of dimensions."""
    if kind != "longrope":
        return ()
    values = rope.get(key, list, [])
    if len(values) != dim // 2 or not all(isinstance(value, int | float) and value > 0 for value in values):
        raise rope.wrong(f"rope_scaling.{key}", f"is not {dim // 2} positive numbers")
    return tuple(float(value) for value in values)


def rope_scale(rope: Config, kind: str, factor: float, original: int) -> float:
    """What cos and sin are multiplied by: given, or as the papers of YaRN and LongRoPE suggest."""
    given = rope.get("attention_factor", float)
    if kind not in ("yarn", "longrope"):
        return 1.0
    if given is not None:
        return given
    if factor <= 1:
        return 1.0
    if kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original))
    upper, lower = rope.get("mscale", float), rope.get("mscale_all_dim", float)
    if upper and lower:
        return (0.1 * upper * math.log(factor) + 1) / (0.1 * lower * math.log(factor) + 1)
    return 0.1 * math.log(factor) + 1
