"""What llama.cpp calls a model's numbers and tensors: one entry per family, and what its graph of that name cannot express.

Keys and tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and gguf's own tensor map.
"""

import math
from typing import Any, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.load import offset_of, parameter_shapes
from edgetune.architecture.spec import ModelSpec
from edgetune.backend.rope import Rope
from edgetune.errors import ModelError, UnsupportedFamily

Metadata = dict[str, Any]  # str, bool, int, float, or a list of one of them, by GGUF key


class Architecture(NamedTuple):
    """One of llama.cpp's graphs, and what it can do."""

    name: str  # general.architecture
    interleaved: bool = False  # its rotation pairs neighbours (2i, 2i+1), where Hugging Face pairs (i, i + head_dim/2)
    llama3_rope: bool = False  # it reads rope_freqs.weight
    output_bias: bool = False
    mlp_bias: bool = False
    free_head_dim: bool = True  # heads * head_dim may differ from dim
    counts_vocab: bool = False  # the converter writes vocab_size and rope.dimension_count for it
    unturned_every: int = 0  # every layer of that number turns nothing; 0: all turn
    own_scales: bool = False  # it reads the multipliers of Granite
    long_rope: bool = False  # it turns a part of a head if it must, by LongRoPE's factors
    window_but: int = 0  # all layers but every one of that number see a window; 0: it looks at every token
    local_rope: bool = False  # layers with a window turn by a base of their own
    attention_cap: bool = False  # it always bends scores
    logit_cap: tuple[bool, ...] = (False,)  # whether it bends logits: never, always, or as the model does
    tied: bool = False  # it has no head of its own
    wide_scale_at: int = 0  # with that many layers it scales attention by the width's share and not by the head's size


LLAMA = Architecture("llama", interleaved=True, llama3_rope=True, output_bias=True, mlp_bias=True, counts_vocab=True)
ARCHITECTURES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": Architecture("qwen2", free_head_dim=False),
    "qwen3": Architecture("qwen3"),
    "smollm3": Architecture("smollm3", interleaved=True, counts_vocab=True, unturned_every=4),
    "gemma2": Architecture("gemma2", window_but=2, attention_cap=True, logit_cap=(True,), tied=True, wide_scale_at=46),
    "gemma3_text": Architecture("gemma3", window_but=6, local_rope=True, logit_cap=(True, False), wide_scale_at=62),
    "phi3": Architecture("phi3", free_head_dim=False, long_rope=True),
    "granite": LLAMA._replace(name="granite", llama3_rope=False, own_scales=True),
}


class NamedTensor(NamedTuple):
    """A tensor's name in GGUF and in the model folder. `interleaved`: its rows go from (i, i + half) to neighbouring pairs.

    `offset` is added to its values: Gemma's norms are stored as w for 1 + w, and GGUF has the sum.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    interleaved: bool
    offset: np.float32


def architecture_of(spec: ModelSpec) -> Architecture:
    """The graph that computes this model.

    Raises:
        UnsupportedFamily: there is no entry for the family.
        ModelError: the graph lacks something that the model has; exported, it would answer differently.
    """
    architecture = ARCHITECTURES.get(spec.family)
    if architecture is None:
        raise UnsupportedFamily(f"{spec.family} has no GGUF form here", hint="exported families: " + ", ".join(ARCHITECTURES))
    missing = [what for what, lacks in lacking(architecture, spec).items() if lacks]
    if missing:
        message = f"llama.cpp's {architecture.name} graph has no {', no '.join(missing)}"
        raise ModelError(message, hint="this model can be trained and merged, but not exported to GGUF")
    return architecture


def lacking(architecture: Architecture, spec: ModelSpec) -> dict[str, bool]:
    """What a model may have, and whether it has it and the graph does not."""
    every, partial = architecture.unturned_every, spec.rope.dim != spec.head_dim
    turned = [spec.head_shape(layer).rope is not None for layer in range(spec.layers)]
    assumed = [not every or (layer + 1) % every != 0 for layer in range(spec.layers)]
    return {
        "bias on the attention's output": spec.output_bias and not architecture.output_bias,
        "biases in the MLP": spec.mlp_bias and not architecture.mlp_bias,
        f"heads of {spec.head_dim}": spec.heads * spec.head_dim != spec.dim and not architecture.free_head_dim,
        f"rotation of {spec.rope.dim} of {spec.head_dim} dimensions": partial and not architecture.long_rope,
        f"{spec.rope.kind} rotation": not can_rotate(architecture, spec.rope),
        f"{spec.rope.kind} rotation of layers that see a window": architecture.local_rope and not rotates_locally(spec),
        "such choice of layers without rotation": turned != assumed,
        "such choice of layers that see a window": not chooses_windows(architecture, spec),
        f"attention scale of {spec.query_scale:g}": not architecture.own_scales and not scales_so(architecture, spec),
        "cap on attention": spec.attention_cap is not None and not architecture.attention_cap,
        "attention without a cap": spec.attention_cap is None and architecture.attention_cap,
        "cap on logits": spec.logit_cap is not None and True not in architecture.logit_cap,
        "logits without a cap": spec.logit_cap is None and False not in architecture.logit_cap,
        "head of its own": architecture.tied and not spec.tied,
        "multipliers of Granite's": not architecture.own_scales and (spec.residual_scale, spec.logit_scale) != (1, 1),
    }


def chooses_windows(architecture: Architecture, spec: ModelSpec) -> bool:
    """Whether the layers that see a window are those that the graph takes; one that knows no windows has a shorter context."""
    every, sliding = architecture.window_but, [window is not None for window in spec.windows]
    if not every or (architecture.local_rope and not any(sliding)):  # Gemma 3's graph may also have none
        return True
    return sliding == [layer % every < every - 1 for layer in range(spec.layers)]


def scales_so(architecture: Architecture, spec: ModelSpec) -> bool:
    """Whether queries are multiplied with what the graph assumes."""
    wide = spec.layers == architecture.wide_scale_at
    return math.isclose(spec.query_scale, (spec.dim // spec.heads if wide else spec.head_dim) ** -0.5)


def local_ropes(spec: ModelSpec) -> list[Rope]:
    """The rotation of each layer that sees a window."""
    shapes = (spec.head_shape(layer) for layer, window in enumerate(spec.windows) if window is not None)
    return [shape.rope for shape in shapes if shape.rope is not None]


def rotates_locally(spec: ModelSpec) -> bool:
    """Gemma 3's graph stretches the layers without a window only, and linearly."""
    return spec.rope.kind in ("default", "linear") and all(rope.kind == "default" for rope in local_ropes(spec))


def can_rotate(architecture: Architecture, rope: Rope) -> bool:
    """Whether the graph turns heads by this rule. Its YaRN has fixed betas."""
    match rope.kind:
        case "default" | "linear" | "dynamic":
            return True
        case "llama3":
            return architecture.llama3_rope
        case "longrope":
            return architecture.long_rope
        case "yarn":
            return rope.truncate and (rope.beta_fast, rope.beta_slow) == (32.0, 1.0)


def named_tensors(spec: ModelSpec) -> list[NamedTensor]:
    """Every tensor of the model under its GGUF name, in the model's order; a tied head is not written twice."""
    architecture = architecture_of(spec)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture.name], spec.layers)
    tensors: list[NamedTensor] = []
    for source, shape in parameter_shapes(spec).items():
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"llama.cpp's {architecture.name} graph has no tensor for {source}")
        turned = architecture.interleaved and source.rpartition(".")[0].endswith(("q_proj", "k_proj"))
        tensors.append(NamedTensor(name, source, shape, turned, offset_of(spec, source)))
    return tensors


def hyperparameters(spec: ModelSpec) -> Metadata:
    """The model's numbers under GGUF's keys.

    Most of these graphs look at every token before the present one. Where the model sees a window only, the context ends with
    the window: up to there both are the same. In the same way dynamic NTK scaling ends where it would begin. LongRoPE's long
    factors serve every text in a context that is longer than the original one, where we ask how long the text is.
    """
    architecture = architecture_of(spec)
    windows = [window for window in spec.windows if window is not None]
    values: Metadata = {
        "block_count": spec.layers,
        "context_length": spec.max_positions if architecture.window_but else min([spec.max_positions, *windows]),
        "embedding_length": spec.dim,
        "feed_forward_length": spec.hidden,
        "attention.head_count": spec.heads,
        "attention.head_count_kv": spec.kv_heads,
        "attention.key_length": spec.head_dim,
        "attention.value_length": spec.head_dim,
        "attention.layer_norm_rms_epsilon": spec.norm_eps,
        "rope.freq_base": spec.rope.base,
        **rope_scaling(spec.rope),
    }
    if architecture.window_but and windows:
        values |= {"attention.sliding_window": windows[0]}
    if spec.attention_cap is not None:
        values |= {"attn_logit_softcapping": spec.attention_cap}
    if spec.logit_cap is not None:
        values |= {"final_logit_softcapping": spec.logit_cap}
    if architecture.local_rope and windows:
        values |= {"rope.freq_base_swa": local_ropes(spec)[0].base}
    if architecture.own_scales:
        values |= {"attention.scale": spec.query_scale, "embedding_scale": spec.embedding_scale}
        values |= {"residual_scale": spec.residual_scale, "logit_scale": 1 / spec.logit_scale}
    if architecture.long_rope:
        values |= {"rope.dimension_count": spec.rope.dim, "rope.scaling.original_context_length": spec.rope.original_positions}
        values |= {"attention.sliding_window": min(windows, default=0)}
    if architecture.counts_vocab:
        values |= {"vocab_size": spec.vocab, "rope.dimension_count": spec.rope.dim}
    return {f"{architecture.name}.{key}": value for key, value in values.items()}


def rope_scaling(rope: Rope) -> Metadata:
    """The keys of a stretched rotation. llama.cpp gives YaRN the paper's attention factor; the key says what differs."""
    if rope.kind == "longrope":
        return {"rope.scaling.attn_factor": rope.scale}
    if rope.kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.kind != "yarn":
        return {}
    keys: Metadata = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": rope.original_positions,
    }
    papers = 0.1 * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0
    return keys if math.isclose(rope.scale, papers) else {**keys, "rope.scaling.attn_factor": rope.scale / papers}


def rope_tensors(rope: Rope) -> dict[str, NDArray[np.float32]]:
    """What Llama 3's rule, or LongRoPE, divides the plain frequencies by: (turned / 2,) each, by GGUF name."""
    if rope.kind == "llama3":
        plain = rope.base ** -(np.arange(0, rope.dim, 2) / rope.dim)
        return {"rope_freqs.weight": (plain / rope.frequencies(rope.original_positions)).astype(np.float32)}
    if rope.kind == "longrope":
        factors = {"long": rope.long_factor, "short": rope.short_factor}
        return {f"rope_factors_{name}.weight": np.array(values, np.float32) for name, values in factors.items()}
    return {}


def interleave(rows: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """(heads * head_dim, ...) -> the same shape, each head's rows i and i + head_dim/2 made neighbours."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
