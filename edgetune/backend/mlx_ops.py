"""The ops on MLX: lazy arrays, which MLX differentiates itself, on Metal, on CUDA or on a CPU.

No other file imports mlx, and this one is imported only where MLX is asked for. Rows of one padded length may go through
together, laid end to end: `time` is then that of all of them, and only attention tells them apart. The stream, norms, loss
and gradients are float32; products are made in the precision of the weight.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import mlx.core  # pyright: ignore[reportMissingImports]
import numpy as np
from numpy.typing import NDArray

from edgetune.backend.numpy_weights import BFloat16, FrozenMatrix, Plain, Quantized
from edgetune.backend.ops import Adapter, HeadShape, Joint, Linear, Norm, Spans, Tokens
from edgetune.backend.quantized import Packing
from edgetune.backend.rope import Rope, frequencies
from edgetune.backend.sizes import NARROWEST, TILE_BYTES, tile_width
from edgetune.backend.trained_rows import ROWS, TrainedRows

mx: Any = mlx.core  # untyped: what is checked must not depend on whether MLX is installed
SQUARES = "squares"

Array = Any  # mx.array
Run = Callable[["MlxOps", Array], Array]


class Layout(NamedTuple):
    """Where each token of some rows of one padded length stands. Without `sequences`, every row is one sequence."""

    positions: Array  # (rows, length) in its sequence
    lengths: Array  # (rows, length) of its sequence
    sequences: Array | None  # (rows, length) a number for each of a row


class Dense(NamedTuple):
    """A matrix (outputs, inputs) of floats."""

    weight: Array

    def product(self, h: Array) -> Array:
        """h @ self.T in the precision of the weights. float16 ends at 65504, which some activations pass: float32 there."""
        return h.astype(mx.bfloat16 if self.weight.dtype == mx.bfloat16 else mx.float32) @ self.weight.T

    def read(self, rows: Any) -> Array:
        """Rows as float32."""
        return self.weight[rows].astype(mx.float32)


class Packed(NamedTuple):
    """A matrix (outputs, inputs) in a few bits: backend/quantized.py tells how, and MLX multiplies with it as it is."""

    codes: Array
    scales: Array
    biases: Array | None
    packing: Packing

    def product(self, h: Array) -> Array:
        """h @ self.T in the precision of the scales; where those are no floats, in bfloat16, which holds such weights."""
        own = mx.float32 if self.scales.dtype in (mx.float32, mx.float16) else mx.bfloat16
        scales, biases = (self.scales.astype(own), self.biases.astype(own)) if self.biases is not None else (self.scales, None)
        return mx.quantized_matmul(h.astype(own), self.codes, scales, biases, transpose=True, **self.form)

    def read(self, rows: Any) -> Array:
        """Rows as float32."""
        biases = None if self.biases is None else self.biases[rows].astype(mx.float32)
        scales = self.scales[rows] if biases is None else self.scales[rows].astype(mx.float32)
        return mx.dequantize(self.codes[rows], scales, biases, **self.form).astype(mx.float32)

    @property
    def form(self) -> dict[str, Any]:
        """What MLX is told of it."""
        return {"group_size": self.packing.group, "bits": self.packing.bits, "mode": self.packing.mode}


class Mixed(NamedTuple):
    """A matrix that is frozen but for some rows, which are trained."""

    frozen: "Frozen"
    trained: Array  # (tokens, inputs)
    rows: TrainedRows
    places: Array  # (outputs,) of each row in `trained`, or -1

    def product(self, h: Array) -> Array:
        """h @ self.T."""
        return h @ self.read(slice(0, len(self.places))).T

    def read(self, rows: Any) -> Array:
        """Rows as float32."""
        read = self.frozen.read(rows)
        if isinstance(rows, slice):
            where, places = self.rows.among(rows)
            if len(where):
                read[mx.array(where)] = self.trained[mx.array(places)]
            return read
        places = self.places[rows]
        return mx.where((places >= 0)[:, None], self.trained[mx.maximum(places, 0)], read)


Frozen = Dense | Packed
Matrix = Frozen | Mixed


class Constants:
    """What is frozen, as MLX arrays in its stored precision. Each is made once, and lives as long as this does."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, ...], tuple[Any, Array]] = {}

    def array(self, source: NDArray[np.float32]) -> Array:
        """A norm's weight or a bias."""
        return self.once((source,), lambda: mx.array(source))

    def matrix(self, parts: tuple[FrozenMatrix, ...]) -> "Frozen":
        """(outputs, inputs) of matrices of one kind that lie behind each other."""
        return self.once(parts, lambda: stacked(parts))

    def square_lengths(self, matrix: FrozenMatrix) -> Array:
        """(outputs,) the sum of the squares of each row."""
        return self.once((SQUARES, matrix), lambda: (self.matrix((matrix,)).read(slice(None)) ** 2).sum(-1))

    def places(self, rows: TrainedRows, count: int) -> Array:
        """(count,) the place of each row of a matrix among those that are trained, or -1."""
        return self.once((rows,), lambda: mx.array(rows.places(count)))

    def once(self, sources: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """An array, or some, by what they are made of. Evaluated at once: a traced function must not make them again."""
        key = tuple(id(source) for source in sources)
        if key not in self.made:
            array = make()
            mx.eval(array)
            self.made[key] = (sources, array)  # as long as the sources live, no others have their ids
        return self.made[key][1]


class MlxOps:
    """The ops over trained arrays by name, which may be those that a gradient is asked for.

    `dropout_key` (2,) says which inputs dropout leaves out; without one, nothing is learned and nothing left out.
    """

    def __init__(self, parameters: Mapping[str, Array], constants: Constants | None = None, dropout_key: Array | None = None):
        self.parameters, self.constants, self.dropout_key = parameters, constants or Constants(), dropout_key
        self.read: set[str] = set()  # the trained arrays that were asked for

    def trained(self, name: str) -> Array | None:
        """A trained array, if that one is trained."""
        if name not in self.parameters:
            return None
        self.read.add(name)
        return self.parameters[name]

    def parameter(self, name: str) -> Array:
        """A trained array that is there."""
        self.read.add(name)
        return self.parameters[name]

    # ---- the stream --------------------------------------------------------------------------------------------------

    def embed(self, table: Linear, tokens: Tokens, scale: float) -> Array:
        """Rows of the table."""
        return self.matrix(table).read(mx.array(tokens).flatten()) * scale

    def add(self, x: Array, y: Array, norm: Norm | None = None, scale: float = 1.0) -> Array:
        """x + scale * norm(y)."""
        y = self.normed(y, norm)
        return x + (y if scale == 1 else y * scale)

    def normed(self, x: Array, norm: Norm | None) -> Array:
        """x / rms(x) * weight * scale over the last axis. Without a norm, x."""
        if norm is None:
            return x
        weight = self.trained(norm.name)
        weight = self.constants.array(norm.weight) if weight is None else weight
        y = mx.fast.rms_norm(x.astype(mx.float32), weight, norm.eps)
        return y if norm.scale == 1 else y * norm.scale

    def keep(self, x: Array, positions: NDArray[np.intp]) -> Array:
        """The rows of x at those positions."""
        return x[mx.array(positions)]

    # ---- linear layers and their adapters ----------------------------------------------------------------------------

    def project(self, x: Array, joint: Joint, norm: Norm | None = None) -> Array:
        """The joint layers of norm(x), in the precision of their weights."""
        h = self.normed(x, norm)
        weights = tuple(part.weight for part in joint.parts)
        if any(f"{part.name}.weight" in self.parameters for part in joint.parts) or len({kind(each) for each in weights}) > 1:
            products = [self.matrix(part).product(h) for part in joint.parts]
        else:
            y = self.constants.matrix(weights).product(h)
            if not any(self.changes(part) for part in joint.parts):
                return y
            products = mx.split(y, np.cumsum([weight.shape[0] for weight in weights])[:-1].tolist(), axis=-1)
        h = h.astype(products[0].dtype)
        return mx.concatenate(
            [self.changed(y, h, part).astype(y.dtype) for y, part in zip(products, joint.parts, strict=True)], axis=-1
        )

    def changes(self, part: Linear) -> bool:
        """Whether a layer is more than its weight."""
        return part.bias is not None or part.adapter is not None

    def changed(self, y: Array, h: Array, part: Linear) -> Array:
        """y, which is h times the layer's weight, with the layer's adapter and bias."""
        if part.adapter is not None:
            y = self.adapted(y, h, part, part.adapter)
        if part.bias is None:
            return y
        bias = self.trained(f"{part.name}.bias")
        return y + (self.constants.array(part.bias) if bias is None else bias)

    def adapted(self, y: Array, h: Array, part: Linear, adapter: Adapter) -> Array:
        """y with what the adapter adds. PEFT's rule for DoRA with dropout: the base sees all of h, the change what is left."""
        a, b = self.parameter(f"{part.name}.lora_A"), self.parameter(f"{part.name}.lora_B")
        seen = self.dropped(h, part)
        low = seen @ a.T @ (adapter.scale * b).T
        if not adapter.dora:
            return y + low
        gain = self.parameter(f"{part.name}.lora_magnitude_vector") / mx.stop_gradient(self.row_lengths(part, adapter))
        if seen is h:
            return (y + low) * gain
        return y + self.matrix(part).product(seen) * (gain - 1) + low * gain

    def row_lengths(self, part: Linear, adapter: Adapter) -> Array:
        """(outputs,) of the rows w + scale b A: (w + s b A)^2 = w^2 + 2 s b (A w) + s^2 b (A A.T) b, without that matrix."""
        a, b = self.parameter(f"{part.name}.lora_A"), adapter.scale * self.parameter(f"{part.name}.lora_B")
        across = (b * self.matrix(part).product(a).T).sum(-1)
        return mx.sqrt(self.constants.square_lengths(part.weight) + 2 * across + ((b @ (a @ a.T)) * b).sum(-1))

    def dropped(self, h: Array, part: Linear) -> Array:
        """The adapter's input with some entries left out and the others raised to make up for them (arXiv:1207.0580)."""
        assert part.adapter is not None
        rate = part.adapter.dropout
        if not rate or self.dropout_key is None:
            return h
        key = self.dropout_key ^ mx.array([crc32(part.name.encode()), 0], mx.uint32)
        return h * (mx.random.uniform(shape=h.shape, key=key) >= rate).astype(h.dtype) / (1 - rate)

    def matrix(self, layer: Linear) -> Matrix:
        """(outputs, inputs) of one layer, trained or frozen."""
        weight = self.trained(f"{layer.name}.weight")
        if weight is not None:
            return Dense(weight)
        frozen = self.constants.matrix((layer.weight,))
        if layer.rows is None:
            return frozen
        places = self.constants.places(layer.rows, layer.weight.shape[0])
        return Mixed(frozen, self.parameter(f"{layer.name}.{ROWS}"), layer.rows, places)

    # ---- attention ---------------------------------------------------------------------------------------------------

    def heads(
        self, qkv: Array, shape: HeadShape, query_norm: Norm | None, key_norm: Norm | None, spans: Spans | Layout
    ) -> tuple[Array, Array, Array]:
        """Splits, norms, rotates and scales: q (rows, heads, length, head_dim), k and v (rows, kv_heads, length, head_dim)."""
        layout, size = laid_out(spans), shape.head_dim
        q, k, v = mx.split(qkv, [shape.heads * size, (shape.heads + shape.kv_heads) * size], axis=-1)
        turns = self.rotation(shape.rope, layout)
        q, k = (
            rotated(by_head(self.heads_normed(x, norm), layout, size), turns) for x, norm in ((q, query_norm), (k, key_norm))
        )
        return (q * shape.query_scale).astype(qkv.dtype), k.astype(qkv.dtype), by_head(v, layout, size)

    def rotation(self, rope: Rope | None, layout: Layout) -> tuple[Array, Array] | None:
        """cos and sin (rows, 1, length, turned / 2) of the angles at each position; None: nothing turns."""
        return None if rope is None else rotation(rope, layout)

    def heads_normed(self, x: Array, norm: Norm | None) -> Array:
        """The norm is as wide as its weight: a head (Qwen 3) or all of them (OLMo 2)."""
        return x if norm is None else self.normed(x.reshape(len(x), -1, len(norm.weight)), norm)

    def attention(self, q: Array, k: Array, v: Array, spans: Spans | Layout, window: int | None, cap: float | None) -> Array:
        """MLX's own fused attention, and with a cap, which that one does not know, all scores at once."""
        layout = laid_out(spans)
        rows, heads, length, size = q.shape
        if cap is None:
            causal = layout.sequences is None and window is None
            mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask="causal" if causal else seen(layout, window))
        else:
            q = q.astype(mx.float32).reshape(rows, k.shape[1], -1, length, size)
            scores = bend(q @ k[:, :, None].astype(mx.float32).swapaxes(-1, -2), cap)
            p = mx.softmax(mx.where(seen(layout, window)[:, :, None], scores, -1e9), axis=-1)
            mixed = (p @ v[:, :, None].astype(mx.float32)).reshape(rows, heads, length, size).astype(v.dtype)
        return mixed.swapaxes(1, 2).reshape(rows * length, -1)

    # ---- the MLP -----------------------------------------------------------------------------------------------------

    def gated(self, gate_up: Array, activation: str) -> Array:
        """activation(gate) * up."""
        gate, up = mx.split(gate_up, 2, axis=-1)
        return ACTIVATIONS[activation](gate) * up

    # ---- the loss ----------------------------------------------------------------------------------------------------

    def loss(self, x: Array, norm: Norm, head: Linear, targets: Tokens, cap: float | None) -> Array:
        """Sum of the cross-entropies. Where the head is frozen its gradient comes from the same walk, else from a second."""
        h, targets = self.normed(x, norm), mx.array(targets)
        if self.dropout_key is None:
            return -self.log_probabilities(x, norm, head, targets, cap).sum()
        if (matrix := self.matrix(head)) and isinstance(matrix, Mixed):
            return mixed_head_loss(h, matrix, targets, cap)
        if f"{head.name}.weight" in self.parameters:
            return trained_head_loss(h, self.parameter(f"{head.name}.weight"), targets, cap)
        return frozen_head_loss(h, self.matrix(head), head.weight.shape[0], targets, cap)

    def log_probabilities(self, x: Array, norm: Norm, head: Linear, targets: Tokens, cap: float | None) -> Array:
        """(kept,) log p(target), and 0 where there is no target."""
        targets = mx.array(targets)
        walked = walk(self.normed(x, norm), self.matrix(head), head.weight.shape[0], targets, cap, pulls=False)
        return mx.where(targets >= 0, walked.right_logit - walked.log_total, 0)

    def logits(self, x: Array, norm: Norm, head: Linear, cap: float | None) -> Array:
        """(kept, vocab)."""
        h, weight = self.normed(x, norm), self.matrix(head)
        return bend(mx.concatenate([h @ weight.read(rows).T for rows in tiles(len(h), head.weight.shape[0])], axis=1), cap)

    # ---- memory for time ---------------------------------------------------------------------------------------------

    def recompute(self, run: Run, x: Array) -> Array:
        """MLX's checkpoint. It has gradients by its arguments only: the trained arrays that `run` reads are among them."""
        if self.dropout_key is None:
            return run(self, x)
        looking = self.over(self.parameters)
        run(looking, x)  # lazy: never evaluated
        self.read |= looking.read

        def inner(own: dict[str, Array], x: Array) -> Array:
            return run(self.over(own), x)

        return mx.checkpoint(inner)({name: self.parameters[name] for name in sorted(looking.read)}, x)

    def frozen(self, run: Run, x: Array) -> Array:
        """Runs, and lets no gradient through."""
        return mx.stop_gradient(run(self, x))

    def over(self, parameters: Mapping[str, Array]) -> "MlxOps":
        """These ops over other trained arrays."""
        return MlxOps(parameters, self.constants, self.dropout_key)


def kind(matrix: FrozenMatrix) -> object:
    """Matrices of one kind can lie behind each other."""
    if isinstance(matrix, Quantized):
        return matrix.packing, matrix.scales.dtype, matrix.biases is None
    return type(matrix), matrix.weight.dtype if isinstance(matrix, Plain) else None


def stacked(parts: tuple[FrozenMatrix, ...]) -> Frozen:
    """Matrices of one kind as they are stored, behind each other; of a kind that MLX does not know, their floats."""
    if isinstance(parts[0], Quantized):
        packed = [part for part in parts if isinstance(part, Quantized)]
        codes = mx.concatenate([as_array(part.codes).view(mx.uint32) for part in packed])
        scales = mx.concatenate([as_array(part.scales) for part in packed])
        biases = [as_array(part.biases) for part in packed if part.biases is not None]
        return Packed(codes, scales, mx.concatenate(biases) if biases else None, parts[0].packing)
    return Dense(mx.concatenate([as_array(floats_of(part)) for part in parts]))


def floats_of(matrix: FrozenMatrix) -> NDArray[Any]:
    """What a matrix of floats is stored in."""
    if isinstance(matrix, BFloat16):
        return matrix.bits
    return matrix.weight if isinstance(matrix, Plain) else matrix.read(slice(None))


def as_array(stored: NDArray[Any]) -> Array:
    """Numbers as they are stored: uint16 is bfloat16. Views into a mapped file may lie at odd addresses."""
    array = mx.array(np.require(stored, requirements=["C", "ALIGNED"]))
    return array.view(mx.bfloat16) if stored.dtype == np.uint16 else array


# ---- attention ---------------------------------------------------------------------------------------------------------


def laid_out(spans: Spans | Layout) -> Layout:
    """The layout of one row from its spans."""
    if isinstance(spans, Layout):
        return spans
    sizes = [stop - start for start, stop in spans]
    positions = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    lengths, numbers = np.repeat(sizes, sizes).astype(np.int32), np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    return Layout(mx.array(positions[None]), mx.array(lengths[None]), mx.array(numbers[None]) if len(spans) > 1 else None)


def by_head(x: Array, layout: Layout, head_dim: int) -> Array:
    """(time, heads head_dim), or so many numbers in any shape -> (rows, heads, length, head_dim)."""
    return x.reshape(*layout.positions.shape, -1, head_dim).swapaxes(1, 2)


def rotated(x: Array, turns: tuple[Array, Array] | None) -> Array:
    """x (rows, heads, length, head_dim) in float32, its first dimensions turned, a half against the other."""
    x = x.astype(mx.float32)
    if turns is None:
        return x
    cos, sin = turns
    half = cos.shape[-1]
    real, imaginary = x[..., :half], x[..., half : 2 * half]
    return mx.concatenate([real * cos - imaginary * sin, imaginary * cos + real * sin, x[..., 2 * half :]], axis=-1)


def rotation(rope: Rope, layout: Layout) -> tuple[Array, Array]:
    """cos and sin (rows, 1, length, turned / 2) of the angles at each position.

    They are looked up in tables made in float64. Only a dynamic rope beyond its `max_positions` turns at another speed for
    every length of a sequence: its angles are float32.
    """
    regimes, radians = speeds(rope, layout.positions.shape[1])
    regime = mx.array(regimes)[layout.lengths]
    if len(radians) > 2:
        angles = layout.positions[..., None] * mx.array(radians.astype(np.float32))[regime]
        cos, sin = mx.cos(angles) * rope.scale, mx.sin(angles) * rope.scale
    else:
        angles = np.arange(layout.positions.shape[1])[:, None] * radians[:, None]  # (regimes, length, turned / 2)
        tables = (mx.array((f(angles) * rope.scale).astype(np.float32)) for f in (np.cos, np.sin))
        cos, sin = (table[regime, layout.positions] for table in tables)
    return cos[:, None], sin[:, None]


@lru_cache(maxsize=32)
def speeds(rope: Rope, longest: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """(longest + 1,) the regime of every length, and (regimes, turned / 2) the radians per position in each."""
    known, regimes = np.unique([rope.regime(length) for length in range(longest + 1)], return_inverse=True)
    return regimes.astype(np.int32), np.stack([frequencies(rope, int(regime)) for regime in known])


def seen(layout: Layout, window: int | None) -> Array:
    """(rows, 1, length, length): whether a query sees a key: in its sequence, not after it, not beyond the window."""
    length = layout.positions.shape[1]
    behind = mx.arange(length)[:, None] - mx.arange(length)
    near = (behind >= 0) & (behind < (window or length))
    if layout.sequences is None:
        return mx.broadcast_to(near, (layout.positions.shape[0], 1, length, length))
    return (near & (layout.sequences[:, :, None] == layout.sequences[:, None]))[:, None]


# ---- the loss ----------------------------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """What a walk over the vocabulary gives: (kept,) log-sum-exp, (kept,) the target's logit, (kept, dim) gradient."""

    log_total: Array
    right_logit: Array
    pull: Array


def walk(h: Array, weight: Matrix, vocab: int, targets: Array, cap: float | None, pulls: bool) -> Walk:
    """One walk over the vocabulary in tiles, with a running maximum (arXiv:1805.02867). Nothing is learned below target 0."""
    right = weight.read(mx.maximum(targets, 0))
    right_logit = bend((h * right).sum(-1), cap)
    top, total, pull = mx.full((len(h), 1), -mx.inf), mx.zeros((len(h), 1)), mx.zeros_like(h)
    for rows in tiles(len(h), vocab):
        (own,) = mx.depends([h], [total, pull])  # one tile after the other, not all at once
        e = weight.read(rows)
        logits = bend(own @ e.T, cap)
        higher = mx.maximum(top, logits.max(-1, keepdims=True))
        fade, top = mx.exp(top - higher), higher
        p = mx.exp(logits - top)
        total = total * fade + p.sum(-1, keepdims=True)
        if pulls:
            pull = pull * fade + sloped(p, logits, cap) @ e
    if pulls:
        pull = pull / total - sloped(right, right_logit[:, None], cap)
        pull = mx.where(targets[:, None] >= 0, pull, 0)
    return Walk((mx.log(total) + top)[:, 0], right_logit, pull)


def frozen_head_loss(h: Array, weight: Matrix, vocab: int, targets: Array, cap: float | None) -> Array:
    """The sum of the losses, with its gradient made beforehand: only (kept, dim) waits for the backward."""

    @mx.custom_function
    def total(h: Array) -> tuple[Array, Array]:
        walked = walk(h, weight, vocab, targets, cap, pulls=True)
        return mx.where(targets >= 0, walked.log_total - walked.right_logit, 0).sum(), walked.pull

    @total.vjp
    def backward(h: Array, cotangents: tuple[Array, Array], outputs: tuple[Array, Array]) -> Array:
        return cotangents[0] * outputs[1]

    return total(h)[0]


def trained_head_loss(h: Array, weight: Array, targets: Array, cap: float | None) -> Array:
    """The same where the head is trained: the second walk makes each tile's probabilities again from the log-sum-exp."""

    @mx.custom_function
    def total(h: Array, weight: Array) -> tuple[Array, Array]:
        walked = walk(h, Dense(weight), len(weight), targets, cap, pulls=False)
        return mx.where(targets >= 0, walked.log_total - walked.right_logit, 0).sum(), walked.log_total

    @total.vjp
    def backward(
        primals: tuple[Array, Array], cotangents: tuple[Array, Array], outputs: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        h, weight = primals
        share = mx.where(targets >= 0, cotangents[0], 0)[:, None]
        right = mx.maximum(targets, 0)
        right_share = sloped(share, bend((h * weight[right]).sum(-1, keepdims=True), cap), cap)
        dh, parts = -right_share * weight[right], []
        for rows in tiles(len(h), len(weight)):
            own, e = mx.depends([h, weight[rows]], [dh, *parts[-1:]])
            logits = bend(own @ e.T, cap)
            d = sloped(mx.exp(logits - outputs[1][:, None]), logits, cap) * share
            dh = dh + d @ e
            parts.append(d.T @ own)
        return dh, mx.concatenate(parts).at[right].add(-right_share * h)

    return total(h, weight)[0]


def mixed_head_loss(h: Array, head: Mixed, targets: Array, cap: float | None) -> Array:
    """The same where some rows are trained: a second, short walk makes their probabilities again from the log-sum-exp."""
    ids = mx.array(np.array(head.rows.ids, np.int32))

    @mx.custom_function
    def total(h: Array, trained: Array) -> tuple[Array, Array, Array]:
        walked = walk(h, head._replace(trained=trained), len(head.places), targets, cap, pulls=True)
        return mx.where(targets >= 0, walked.log_total - walked.right_logit, 0).sum(), walked.pull, walked.log_total

    @total.vjp
    def backward(
        primals: tuple[Array, Array], cotangents: tuple[Array, Array, Array], outputs: tuple[Array, Array, Array]
    ) -> tuple[Array, Array]:
        h, trained = primals
        share, parts = mx.where(targets >= 0, cotangents[0], 0)[:, None], []
        for rows in tiles(len(h), len(trained)):
            logits = bend(h @ trained[rows].T, cap)
            p = mx.exp(logits - outputs[2][:, None]) - (targets[:, None] == ids[rows])
            parts.append((sloped(p, logits, cap) * share).T @ h)
        return cotangents[0] * outputs[1], mx.concatenate(parts)

    return total(h, head.trained)[0]


def tiles(kept: int, vocab: int) -> list[slice]:
    """Tiles of the vocabulary whose logits for so many positions stay small."""
    size = tile_width(kept, TILE_BYTES, NARROWEST)
    return [slice(start, min(vocab, start + size)) for start in range(0, vocab, size)]


def bend(x: Array, cap: float | None) -> Array:
    """cap tanh(x / cap)."""
    return x if cap is None else cap * mx.tanh(x / cap)


def sloped(x: Array, bent: Array, cap: float | None) -> Array:
    """x times the derivative of `bend`, which follows from its result."""
    return x if cap is None else x * (1 - (bent / cap) ** 2)


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return x * mx.sigmoid(x)


def gelu(x: Array) -> Array:
    """0.5 x (1 + tanh(u)), the usual approximation (arXiv:1606.08415)."""
    return 0.5 * x * (1 + mx.tanh(0.7978845608 * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"silu": silu, "gelu": gelu}
