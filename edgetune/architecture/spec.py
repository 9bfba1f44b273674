"""What a model is, read from its config.json: every number and switch of a decoder, in one frozen record.

A family is one entry of FAMILIES: what its config leaves unsaid.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from edgetune.architecture.config_json import Config, read_config
from edgetune.architecture.layer_config import read_cap, read_scale, read_window, sliding_layers, turned_layers
from edgetune.architecture.quantization import read_quantization
from edgetune.architecture.rope_config import read_rope, read_ropes
from edgetune.backend.ops import HeadShape
from edgetune.backend.rope import Rope
from edgetune.errors import UnsupportedFamily
from edgetune.files import clean

# Which linear layers read the same input, and are computed as one.
SEPARATE = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
FUSED = (("qkv_proj",), ("o_proj",), ("gate_up_proj",), ("down_proj",))
FUSED_IN = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


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
    layer_ropes: tuple[Rope | None, ...] = ()  # where they differ: each layer's, None for one that turns nothing
    activation: str = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    fused: bool = False  # q, k and v are stored as one layer, gate and up as another
    query_key_norm: bool = False
    post_norms: bool = False  # what attention and MLP give is normed, too, before it joins the stream
    norm_offset: float = 0.0  # added to every stored norm weight: Gemma stores w for 1 + w
    attention_scale: float | None = None  # None: 1 / sqrt(head_dim)
    attention_cap: float | None = None
    logit_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    dtype: str = "float32"  # what config.json says the weights are stored in

    @property
    def query_scale(self) -> float:
        """What queries are multiplied with."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def head_shape(self, layer: int) -> HeadShape:
        """How that layer's attention reads its projections."""
        rope = self.layer_ropes[layer] if self.layer_ropes else self.rope
        return HeadShape(self.heads, self.kv_heads, self.head_dim, self.query_scale, rope)

    @property
    def joints(self) -> tuple[tuple[str, ...], ...]:
        """The kinds of a block's linear layers; those that read the same input stand together."""
        return FUSED if self.fused else SEPARATE

    @property
    def linear_kinds(self) -> tuple[str, ...]:
        """The same, one after the other."""
        return tuple(kind for joint in self.joints for kind in joint)

    def kinds_of(self, targets: Iterable[str]) -> tuple[str, ...]:
        """The kinds that go by those names: "q_proj" is a part of "qkv_proj" where the model has them fused."""
        wanted = {FUSED_IN.get(kind, kind) if self.fused else kind for kind in targets}
        return tuple(kind for kind in self.linear_kinds if kind in wanted)

    def linear_shape(self, kind: str) -> tuple[int, int]:
        """(outputs, inputs) of a linear layer of that kind, "q_proj" for example."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "qkv_proj": (queries + 2 * keys, self.dim),
            "gate_up_proj": (2 * self.hidden, self.dim),
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
        block = "self_attn" if kind in ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj") else "mlp"
        return f"model.layers.{layer}.{block}.{kind}"

    @property
    def parameters(self) -> int:
        """How many numbers the model has, norms and biases left out."""
        block = sum(math.prod(self.linear_shape(kind)) for kind in self.linear_kinds)
        return self.layers * block + self.vocab * self.dim * (1 if self.tied else 2)


class Family(NamedTuple):
    """What a family's config.json leaves unsaid."""

    switches: Callable[[Config, int], dict[str, Any]]  # from the config and the number of layers: fields of ModelSpec
    defaults: Mapping[str, Any] = MappingProxyType({})  # keys that may be absent
    activation: tuple[str, Mapping[str, str]] = ("hidden_act", MappingProxyType({"silu": "silu", "swish": "silu"}))


def read_spec(folder: Path) -> ModelSpec:
    """The model's spec.

    Raises:
        ModelError: config.json is absent or wrong, or of weights quantised in a foreign form; the message names the key.
        UnsupportedFamily: a family that is not in the list.
    """
    config = read_config(folder)
    name = config.get("model_type", str, "")
    if name not in FAMILIES:
        named = clean(name) or "no family (model_type)"
        code = " with code of its own (auto_map)" if "auto_map" in config.values else ""
        raise UnsupportedFamily(f"{named}{code} is not supported", file=config.file, hint="supported: " + ", ".join(FAMILIES))
    read_quantization(config)  # refuses what no reader here knows
    return spec_of(name, Config({**FAMILIES[name].defaults, **config.values}, config.file, config.wrapper))


def known_spec(family: str, values: Mapping[str, Any]) -> ModelSpec:
    """The spec of a model by the keys of its config.json, without its folder.

    Raises:
        ModelError: a key is absent or wrong.
        UnsupportedFamily: a family that is not in the list.
    """
    if family not in FAMILIES:
        raise UnsupportedFamily(f"{clean(family)} is not supported", hint="supported: " + ", ".join(FAMILIES))
    return spec_of(family, Config({**FAMILIES[family].defaults, **values}, Path("config.json")))


def spec_of(name: str, config: Config) -> ModelSpec:
    """The spec of a config whose family is known."""
    family = FAMILIES[name]
    heads, layers, head_dim = config.positive("num_attention_heads"), config.positive("num_hidden_layers"), head_dim_of(config)
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
    key, known = family.activation
    activation = config.get(key, str, next(iter(known)))
    if activation not in known:
        raise config.wrong(key, f"is {clean(activation)}, which {name} models here do not use")
    switches = family.switches(config, layers)
    common: dict[str, Any] = dict(
        family=name,
        vocab=config.positive("vocab_size"),
        dim=config.positive("hidden_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=config.positive("intermediate_size"),
        norm_eps=norm_eps,
        tied=config.get("tie_word_embeddings", bool, False),
        max_positions=config.positive("max_position_embeddings", 2048),
        rope=switches.get("rope") or read_rope(config, head_dim),
        windows=(None,) * layers,
        activation=known[activation],
        dtype=config.get("dtype", str) or config.get("torch_dtype", str) or "float32",
    )
    return ModelSpec(**{**common, **switches})


def head_dim_of(config: Config) -> int:
    """The size of a head: named, or the width shared out."""
    return config.positive("head_dim", max(1, config.positive("hidden_size") // config.positive("num_attention_heads")))


def llama(config: Config, layers: int) -> dict[str, Any]:
    """Llama 2 and 3, SmolLM2, TinyLlama (arXiv:2302.13971)."""
    bias = config.get("attention_bias", bool, False)
    return dict(qkv_bias=bias, output_bias=bias, mlp_bias=config.get("mlp_bias", bool, False))


def mistral(config: Config, layers: int) -> dict[str, Any]:
    """Mistral (arXiv:2310.06825): every layer sees a window, if the config names one."""
    return dict(windows=(read_window(config),) * layers)


def qwen2(config: Config, layers: int) -> dict[str, Any]:
    """Qwen 2 and 2.5 (arXiv:2407.10671): biases on queries, keys and values that no key announces.

    Layers from max_window_layers on see a window, if windows are in use.
    """
    window = read_window(config, 4096) if config.get("use_sliding_window", bool, False) else None
    first = config.get("max_window_layers", int, 28)
    sliding = sliding_layers(config, layers, lambda layer: layer >= first)
    return dict(windows=tuple(window if slides else None for slides in sliding), qkv_bias=True)


def qwen3(config: Config, layers: int) -> dict[str, Any]:
    """Qwen 3 (arXiv:2505.09388): a norm on every query and key head."""
    bias = config.get("attention_bias", bool, False)
    return qwen2(config, layers) | dict(qkv_bias=bias, output_bias=bias, query_key_norm=True)


def smollm3(config: Config, layers: int) -> dict[str, Any]:
    """SmolLM3: a Llama of which some layers do not turn their heads (NoPE, arXiv:2501.18795); only those may have windows."""
    turned = turned_layers(config, layers)
    rope = read_rope(config, head_dim_of(config))
    window = read_window(config) if config.get("use_sliding_window", bool, False) else None
    sliding = sliding_layers(config, layers, lambda layer: not turned[layer])
    return llama(config, layers) | dict(
        layer_ropes=tuple(rope if turns else None for turns in turned),
        windows=tuple(window if slides else None for slides in sliding),
    )


def granite(config: Config, layers: int) -> dict[str, Any]:
    """Granite 3 (arXiv:2505.08699): a Llama with four multipliers, after muP (arXiv:2203.03466)."""
    return llama(config, layers) | dict(
        embedding_scale=read_scale(config, "embedding_multiplier"),
        attention_scale=read_scale(config, "attention_multiplier"),
        residual_scale=read_scale(config, "residual_multiplier"),
        logit_scale=1 / read_scale(config, "logits_scaling"),
    )


def phi3(config: Config, layers: int) -> dict[str, Any]:
    """Phi-3, 3.5 and 4 mini (arXiv:2404.14219): q, k and v are one layer, gate and up another; a part of a head may turn."""
    rope = read_rope(config, head_dim_of(config), partial=True)
    if rope.kind not in ("default", "longrope"):
        raise config.wrong("rope_type", f"is {rope.kind}, which phi3 models here do not use")
    return dict(fused=True, rope=rope, windows=(read_window(config),) * layers)


def gemma2(config: Config, layers: int) -> dict[str, Any]:
    """Gemma 2 (arXiv:2408.00118): four norms a block, bent scores and logits, every other layer sees a window."""
    sliding = sliding_layers(config, layers, lambda layer: layer % 2 == 0)
    return gemma(config, sliding) | dict(attention_cap=read_cap(config, "attn_logit_softcapping"))


def gemma3(config: Config, layers: int) -> dict[str, Any]:
    """Gemma 3's text model (arXiv:2503.19786): norms on queries and keys; layers with a window turn by a base of their own."""
    if config.wrapper and config.get("final_logit_softcapping", float) is not None:
        raise config.wrong("final_logit_softcapping", "is set in a model that also sees, and its readers differ about that")
    pattern = config.positive("sliding_window_pattern", 6)
    sliding = sliding_layers(config, layers, lambda layer: (layer + 1) % pattern != 0)
    rope, local = read_ropes(config, head_dim_of(config))
    ropes = tuple(local if slides else rope for slides in sliding)
    return gemma(config, sliding) | dict(query_key_norm=True, rope=rope, layer_ropes=ropes)


def gemma(config: Config, sliding: Sequence[bool]) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common. In bfloat16 transformers rounds sqrt(dim) to it; in float32, ours, it does not."""
    if config.get("use_bidirectional_attention", bool, False):
        raise config.wrong("use_bidirectional_attention", "is true, which is not supported")
    window, bias = read_window(config), config.get("attention_bias", bool, False)
    if window is None and any(sliding):
        raise config.wrong("sliding_window", "is missing")
    return dict(
        windows=tuple(window if slides else None for slides in sliding),
        qkv_bias=bias,
        output_bias=bias,
        post_norms=True,
        norm_offset=1.0,
        embedding_scale=math.sqrt(config.positive("hidden_size")),
        attention_scale=read_scale(config, "query_pre_attn_scalar", 256.0) ** -0.5,
        logit_cap=read_cap(config, "final_logit_softcapping"),
    )


GEMMA: dict[str, Any] = {
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True
}  # fmt: skip
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GELU = ("hidden_activation", MappingProxyType({"gelu_pytorch_tanh": "gelu"}))
FAMILIES: dict[str, Family] = {
    "llama": Family(llama),
    "mistral": Family(mistral, {"sliding_window": 4096}),
    "qwen2": Family(qwen2),
    "qwen3": Family(qwen3, {"head_dim": 128}),
    "smollm3": Family(smollm3, {"tie_word_embeddings": True, "rope_theta": 2e6, "max_position_embeddings": 32_768}),
    "granite": Family(granite),
    "phi3": Family(phi3, {"original_max_position_embeddings": 4096, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}),
    "gemma2": Family(gemma2, {**GEMMA, **CAPS, "max_position_embeddings": 8192}, GELU),
    "gemma3_text": Family(
        gemma3, {**GEMMA, "vocab_size": 262_208, "max_position_embeddings": 131_072, "rope_theta": 1e6}, GELU
    ),
}
SUPPORTED_FAMILIES = tuple(FAMILIES)
