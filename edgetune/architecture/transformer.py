"""The decoder, written once. `ops` decides what it runs on: MLX with its own gradients, or NumPy with ours.

Families differ in data only: which norms, biases, windows and caps a layer holds.
"""

from typing import NamedTuple

import numpy as np

from edgetune.backend.ops import HeadShape, Joint, Linear, Norm, Ops, Row, Value


class Layer(NamedTuple):
    """One block's weights and switches."""

    query_key_value: Joint
    output: Joint
    gate_up: Joint
    down: Joint
    shape: HeadShape
    window: int | None  # how many tokens back attention sees; None: all
    attention_cap: float | None  # Gemma 2: 50
    activation: str  # "silu" or "gelu"
    attention_norm: Norm | None
    mlp_norm: Norm | None
    attention_post_norm: Norm | None  # Gemma 2 and 3, OLMo 2
    mlp_post_norm: Norm | None
    query_norm: Norm | None  # Qwen 3, Gemma 3
    key_norm: Norm | None
    residual_scale: float = 1.0  # Granite: what a block adds to the stream is multiplied by it


class Model(NamedTuple):
    """A decoder's weights. The head is the embedding itself where the two are tied."""

    embedding: Linear
    embedding_scale: float  # Gemma: sqrt(dim); Granite names one
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear
    logit_cap: float | None  # Gemma 2: 30
    frozen_layers: int = 0  # the first layers, which no trained array reaches


def loss(ops: Ops, model: Model, row: Row, recompute: bool = False, start: Value | None = None) -> Value:
    """Sum of the cross-entropy, in nats, over the trained positions of a row. `start`: the frozen stream, where it is known."""
    x = hidden(ops, model, row, row.kept, recompute, start)
    return ops.loss(x, model.final_norm, model.head, row.kept_targets, model.logit_cap)


def log_probabilities(ops: Ops, model: Model, row: Row) -> Value:
    """(kept,) log p(target given the tokens before it) at the trained positions of a row, without a gradient."""
    x = hidden(ops, model, row, row.kept)
    return ops.log_probabilities(x, model.final_norm, model.head, row.kept_targets, model.logit_cap)


def logits(ops: Ops, model: Model, row: Row, kept: np.ndarray) -> Value:
    """(kept, vocab) of what follows each of those positions."""
    return ops.logits(hidden(ops, model, row, kept), model.final_norm, model.head, model.logit_cap)


def frozen_stream(ops: Ops, model: Model, row: Row) -> Value:
    """(time, dim) after the layers that no trained array reaches: a constant of the row."""

    def prefix(ops: Ops, x: Value) -> Value:
        for layer in model.layers[: model.frozen_layers]:
            x = block(ops, layer, row, x)
        return x

    x = ops.embed(model.embedding, row.tokens, model.embedding_scale)
    return ops.frozen(prefix, x) if model.frozen_layers else x


def hidden(ops: Ops, model: Model, row: Row, kept: np.ndarray, recompute: bool = False, start: Value | None = None) -> Value:
    """(kept, dim) after the last block, before the final norm."""
    x = frozen_stream(ops, model, row) if start is None else start
    for layer in model.layers[model.frozen_layers :]:
        last = kept if layer is model.layers[-1] else None

        def run(ops: Ops, x: Value, layer: Layer = layer, last: np.ndarray | None = last) -> Value:
            return block(ops, layer, row, x, last)

        x = ops.recompute(run, x) if recompute else run(ops, x)
    return x if model.frozen_layers < len(model.layers) else ops.keep(x, kept)


def block(ops: Ops, layer: Layer, row: Row, x: Value, kept: np.ndarray | None = None) -> Value:
    """Attention, then the gated MLP; each reads the normed stream and adds to it. After the last block's attention mixes
    positions, only those that are kept go on."""
    qkv = ops.project(x, layer.query_key_value, layer.attention_norm)
    q, k, v = ops.heads(qkv, layer.shape, layer.query_norm, layer.key_norm, row.spans)
    mixed = ops.attention(q, k, v, row.spans, layer.window, layer.attention_cap)
    if kept is not None and len(kept) < len(row.tokens):
        x, mixed = ops.keep(x, kept), ops.keep(mixed, kept)
    x = ops.add(x, ops.project(mixed, layer.output), layer.attention_post_norm, layer.residual_scale)

    gate_up = ops.project(x, layer.gate_up, layer.mlp_norm)
    gated = ops.gated(gate_up, layer.activation)
    return ops.add(x, ops.project(gated, layer.down), layer.mlp_post_norm, layer.residual_scale)
