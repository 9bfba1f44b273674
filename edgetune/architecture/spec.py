"""What a model is, read from its config.json: every number and switch of a decoder, in one frozen record.

A family is one entry of FAMILIES: what its config leaves unsaid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune.architecture.config_json import Config, read_config
from edgetune.architecture.quantization import read_quantization
from edgetune.architecture.rope_config import read_rope
from edgetune.backend.ops import HeadShape
from edgetune.backend.rope import Rope
from edgetune.errors import UnsupportedFamily
from edgetune.files import clean


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


def read_spec(folder: Path) -> ModelSpec:
    """The model's spec.

    Raises:
        ModelError: config.json is absent or wrong, or of weights quantised in a foreign form; the message names the key.
        UnsupportedFamily: a family that is not in the list.
    """
    config = read_config(folder)
    family = config.get("model_type", str, "")
    if family not in FAMILIES:
        named = clean(family) or "no family (model_type)"
        code = " with code of its own (auto_map)" if "auto_map" in config.values else ""
        raise UnsupportedFamily(f"{named}{code} is not supported", file=config.file, hint="supported: " + ", ".join(FAMILIES))
    read_quantization(config)  # refuses what no reader here knows
    heads = config.positive("num_attention_heads")
    dim = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    head_dim = config.positive("head_dim", 128 if family == "qwen3" else max(1, dim // heads))
    kv_heads = config.positive("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"is {kv_heads}, which does not divide {heads} heads")
    if layers > 1000:
        raise config.wrong("num_hidden_layers", f"is {layers}")
    if head_dim % 2:
        raise config.wrong("head_dim", f"is {head_dim}, which is odd")
    norm_eps = config.get("rms_norm_eps", float, 1e-6)
    if norm_eps < 0:
        raise config.wrong("rms_norm_eps", f"is {norm_eps}")
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
        norm_eps=norm_eps,
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
    window = read_window(config) if "sliding_window" in config.values else 4096  # transformers' default
    return dict(windows=(window,) * layers, tied=config.get("tie_word_embeddings", bool, False))


def qwen2(config: Config, layers: int) -> dict[str, Any]:
    """Qwen 2 and 2.5 (arXiv:2407.10671): biases on queries, keys and values that no key announces."""
    return dict(windows=qwen_windows(config, layers), qkv_bias=True, tied=config.get("tie_word_embeddings", bool, False))


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
    window = read_window(config, 4096) if config.get("use_sliding_window", bool, False) else None
    kinds = config.get("layer_types", list)
    if kinds is not None:
        if len(kinds) != layers:
            raise config.wrong("layer_types", f"names {len(kinds)} layers of {layers}")
        other = next((kind for kind in kinds if kind not in ("full_attention", "sliding_attention")), None)
        if other is not None:
            raise config.wrong("layer_types", f"names {clean(str(other))[:60]}, which is not supported")
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first = config.get("max_window_layers", int, 28)
    return tuple(window if layer >= first else None for layer in range(layers))


def read_window(config: Config, default: int | None = None) -> int | None:
    """How many tokens back attention sees.

    Raises:
        ModelError: none.
    """
    window = config.get("sliding_window", int, default)
    if window is not None and window < 1:
        raise config.wrong("sliding_window", f"is {window}")
    return window


FAMILIES: dict[str, Callable[[Config, int], dict[str, Any]]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
}
SUPPORTED_FAMILIES = tuple(FAMILIES)
