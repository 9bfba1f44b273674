"""The ops on NumPy: for one row of tokens, on one thread, each forward with its backward beneath it.

Nearly all the time goes into products of matrices. What keeps the rest small: elementwise work is done on blocks of rows
that stay in the cache, and scores and logits exist only as tiles.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.dora import magnitude_gradient, row_lengths
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.backend.numpy_tape import Floats, Tape, Value
from edgetune.backend.ops import Adapter, HeadShape, Joint, Linear, Norm, Spans, Tokens
from edgetune.backend.rope import Rope

BLOCK = 64  # rows of an elementwise pass
QUERIES = 128  # queries whose scores exist at once
VOCABULARY = 2048  # tokens whose logits exist at once

Run = Callable[[Any, Value], Value]
NormBackward = Callable[[Floats], Floats]


class DropoutKey(NamedTuple):
    """What dropout depends on, and nothing else: the same key leaves out the same inputs, in every process."""

    seed: int
    step: int
    row: int


class NumpyOps:
    """One worker's ops: its tape, and the gradients that it has added up.

    `parameters` maps names to the trained arrays; the gradients have the same names and shapes. With `learning` off nothing
    is recorded and no dropout happens. `folded` is where workers share their weights; without it each makes its own.
    """

    def __init__(
        self,
        parameters: Mapping[str, Floats],
        dtype: type[np.floating[Any]] = np.float32,
        folded: FoldedWeights | None = None,
    ):
        self.parameters, self.dtype, self.folded = parameters, dtype, folded
        self.gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.tape = Tape()
        self.learning = True
        self.recording = True
        self.dropout_key = DropoutKey(0, 0, 0)

    def record(self, data: Any, inputs: list[Value], backward: Any) -> Value:
        """A new value, and the backward that leads from its gradient to those of the inputs."""
        output = Value(data)
        if self.learning and self.recording:
            self.tape.record([output], inputs, backward)
        return output

    def backward(self, value: Value, gradient: Any) -> None:
        """Plays the tape from `value`, whose own gradient is given. Trained arrays' gradients are added up."""
        value.gradient.array = gradient
        self.tape.play_back()

    # ---- the stream --------------------------------------------------------------------------------------------------

    def embed(self, table: Linear, tokens: Tokens, scale: float) -> Value:
        """Rows of the table."""
        x = table.weight.read(tokens) * self.dtype(scale)
        name = f"{table.name}.weight"
        if name not in self.gradients:
            return Value(x, wanted=False)

        def backward(d: Floats) -> tuple[None]:
            np.add.at(self.gradients[name], tokens, d * self.dtype(scale))
            return (None,)

        return self.record(x, [Value(None)], backward)

    def add(self, x: Value, y: Value, norm: Norm | None = None, scale: float = 1.0) -> Value:
        """x + scale * norm(y)."""
        y_normed, back = self.normed(y.data, norm)
        if scale != 1:
            y_normed = y_normed * self.dtype(scale)

        def backward(d: Floats) -> tuple[Floats, Floats]:
            return d, back(d if scale == 1 else d * self.dtype(scale))

        return self.record(x.data + y_normed, [x, y], backward)

    def normed(self, x: Floats, norm: Norm | None) -> tuple[Floats, NormBackward]:
        """x / rms(x) * weight * scale over the last axis, and the backward of that. Without a norm, x."""
        if norm is None:
            return x, lambda d: d
        rstd = 1 / np.sqrt(np.vecdot(x, x)[..., None] / x.shape[-1] + norm.eps)
        rstd = rstd.astype(x.dtype, copy=False)
        y = x * rstd
        y *= norm.weight
        if norm.scale != 1:
            y *= x.dtype.type(norm.scale)

        def backward(d: Floats) -> Floats:
            if norm.scale != 1:
                d = d * x.dtype.type(norm.scale)
            if norm.name in self.gradients:
                self.gradients[norm.name] += (d * x * rstd).reshape(-1, x.shape[-1]).sum(0)
            d = d * norm.weight
            d -= x * (np.vecdot(d, x)[..., None] * rstd**2 / x.shape[-1])
            d *= rstd
            return d

        return y, backward

    def keep(self, x: Value, positions: NDArray[np.intp]) -> Value:
        """The rows of x at those positions."""
        shape = x.data.shape

        def backward(d: Floats) -> tuple[Floats]:
            dx = np.zeros(shape, self.dtype)
            dx[positions] = d
            return (dx,)

        return self.record(x.data[positions], [x], backward)

    # ---- linear layers and their adapters ----------------------------------------------------------------------------

    def project(self, x: Value, joint: Joint, norm: Norm | None = None) -> Value:
        """The joint layers of norm(x). The normed input is made again in the backward, as x is kept anyway."""
        h, _ = self.normed(x.data, norm)
        y = h @ self.weight(joint).T
        for part, outputs in outputs_of(joint):
            if part.bias is not None:
                y[:, outputs] += part.bias
            if part.adapter is not None and self.drops(part.adapter):
                y[:, outputs] += self.updated(self.dropped(h, part), part)
        kept = y if any(self.folds(part) and self.is_dora(part) for part in joint.parts) else None

        def backward(d: Floats) -> tuple[Floats | None]:
            h, back = self.normed(x.data, norm)
            self.learn(joint, h, d, kept)
            if not x.wanted and norm is None:
                return (None,)
            dh = d @ self.weight(joint)
            for part, outputs in outputs_of(joint):
                if part.adapter is not None and self.drops(part.adapter):
                    dh += self.updated_back(d[:, outputs], part) * self.dropout_mask(h, part)
            return (back(dh),)

        return self.record(y, [x], backward)

    def weight(self, joint: Joint) -> Floats:
        """(outputs, inputs): W + scale B A. Folded in, adapters cost the products of y and dx nothing."""
        if not any(self.folds(part) for part in joint.parts):
            if joint.stacked is not None:
                return joint.stacked
            if len(joint.parts) == 1 and (floats := joint.parts[0].weight.view) is not None:
                return floats
        if self.folded is not None:
            return self.folded.get(joint.parts[0].name, lambda before: self.fold(joint, before))
        return self.fold(joint, None)

    def fold(self, joint: Joint, before: Floats | None) -> Floats:
        """(outputs, inputs) as floats, block by block, in the array that it was in before or in a new one."""
        height = sum(part.weight.shape[0] for part in joint.parts)
        weight = np.empty((height, joint.parts[0].weight.shape[1]), self.dtype) if before is None else before
        for part, outputs in outputs_of(joint):
            own = weight[outputs]
            for rows in blocks(len(own), BLOCK):
                if self.folds(part):
                    self.fill_adapted(part, rows, own[rows])
                else:
                    part.weight.fill(rows, own[rows])
        return weight

    def folds(self, part: Linear) -> bool:
        """Whether this layer's adapter goes into its weight."""
        return part.adapter is not None and not self.drops(part.adapter)

    def fill_adapted(self, part: Linear, rows: slice, out: Floats) -> None:
        """Writes those rows of a layer's weight, its adapter folded in, to `out`."""
        self.fill_updated(part, rows, out)
        if self.is_dora(part):
            out *= (self.magnitude(part)[rows] / row_lengths(out))[:, None]

    def fill_updated(self, part: Linear, rows: slice, out: Floats) -> None:
        """Writes those rows of W + scale B A to `out`."""
        assert part.adapter is not None
        a, b = self.factors(part)
        part.weight.fill(rows, out)
        out += part.adapter.scale * b[rows] @ a

    def updated(self, h: Floats, part: Linear) -> Floats:
        """(time, inputs) -> (time, outputs): what an adapter adds that is not folded in."""
        assert part.adapter is not None
        if part.adapter.dora:
            return h @ self.change(part).T
        a, b = self.factors(part)
        return h @ a.T @ (part.adapter.scale * b).T

    def updated_back(self, d: Floats, part: Linear) -> Floats:
        """The gradient by the input of `updated`."""
        assert part.adapter is not None
        if part.adapter.dora:
            return d @ self.change(part)
        a, b = self.factors(part)
        return d @ (part.adapter.scale * b) @ a

    def learn(self, joint: Joint, h: Floats, d: Floats, y: Floats | None) -> None:
        """Adds up the gradients of what is trained in these layers, from their input h and their output's gradient d.

        y += scale h A.T B.T has the gradients scale (d B).T h by A, and scale d.T (h A.T) by B. DoRA also needs what came
        out, y, where its adapter was folded in.
        """
        for part, outputs in outputs_of(joint):
            own = d[:, outputs]
            if part.adapter is not None:
                a, b = self.factors(part)
                seen = self.dropped(h, part) if self.drops(part.adapter) else h
                direct = self.learn_magnitude(part, seen, own, y if y is None else y[:, outputs])
                self.gradients[f"{part.name}.lora_A"] += part.adapter.scale * ((direct @ b).T @ seen)
                self.gradients[f"{part.name}.lora_B"] += part.adapter.scale * (direct.T @ (seen @ a.T))
            if f"{part.name}.weight" in self.gradients:
                self.gradients[f"{part.name}.weight"] += own.T @ h
            if f"{part.name}.bias" in self.gradients:
                self.gradients[f"{part.name}.bias"] += own.sum(0)

    def factors(self, part: Linear) -> tuple[Floats, Floats]:
        """A (rank, inputs) and B (outputs, rank)."""
        return self.parameters[f"{part.name}.lora_A"], self.parameters[f"{part.name}.lora_B"]

    # ---- DoRA --------------------------------------------------------------------------------------------------------

    def is_dora(self, part: Linear) -> bool:
        """Whether the rows of this layer's adapted weight have lengths that are trained."""
        return part.adapter is not None and part.adapter.dora

    def magnitude(self, part: Linear) -> Floats:
        """(outputs,): those lengths."""
        return self.parameters[f"{part.name}.lora_magnitude_vector"]

    def gain(self, part: Linear) -> Floats:
        """(outputs,): what each row of W + scale B A is multiplied with; shared as weights are."""
        if self.folded is not None:
            return self.folded.get(f"{part.name}.gain", lambda before: self.new_gain(part))
        return self.new_gain(part)

    def new_gain(self, part: Linear) -> Floats:
        """The magnitude by the rows' lengths, for which the adapted weight is made once more, a block at a time."""
        gain, scratch = self.magnitude(part).copy(), np.empty((BLOCK, part.weight.shape[1]), self.dtype)
        for rows in blocks(len(gain), BLOCK):
            own = scratch[: rows.stop - rows.start]
            self.fill_updated(part, rows, own)
            gain[rows] /= row_lengths(own)
        return gain

    def learn_magnitude(self, part: Linear, seen: Floats, d: Floats, y: Floats | None) -> Floats:
        """Adds up the magnitude's gradient; gives the gradient of h (W + scale B A).T, from which A and B learn.

        Where dropout keeps the adapter from being folded in, y is made here: W' of what the adapter has seen.
        """
        if not self.is_dora(part):
            return d
        bias = part.bias
        if not self.folds(part):
            y, bias, scratch = np.empty_like(d), None, np.empty((BLOCK, seen.shape[1]), self.dtype)
            for rows in blocks(d.shape[1], BLOCK):
                own = scratch[: rows.stop - rows.start]
                self.fill_adapted(part, rows, own)
                y[:, rows] = seen @ own.T
        assert y is not None
        self.gradients[f"{part.name}.lora_magnitude_vector"] += magnitude_gradient(y, d, bias, self.magnitude(part))
        return d * self.gain(part)

    def change(self, part: Linear) -> Floats:
        """(outputs, inputs): W' - W. PEFT's rule for dropout: the base sees the whole input, this what is left of it."""
        change = np.empty(part.weight.shape, self.dtype)
        for rows in blocks(len(change), BLOCK):
            self.fill_adapted(part, rows, change[rows])
            change[rows] -= part.weight.read(rows)
        return change

    # ---- dropout -----------------------------------------------------------------------------------------------------

    def drops(self, adapter: Adapter) -> bool:
        """Whether dropout is at work: then the adapter cannot be folded into the weight."""
        return adapter.dropout > 0 and self.learning

    def dropped(self, h: Floats, part: Linear) -> Floats:
        """The adapter's input with some entries left out and the others raised to make up for them."""
        return h * self.dropout_mask(h, part)

    def dropout_mask(self, h: Floats, part: Linear) -> Floats:
        """0 or 1 / (1 - dropout) for each entry of h, from the key and the layer's name alone (arXiv:1207.0580)."""
        assert part.adapter is not None
        key = np.array([self.dropout_key.seed, self.dropout_key.step << 32 | self.dropout_key.row], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key, counter=crc32(part.name.encode()) << 64))
        kept = random.random(h.shape, np.float32) >= part.adapter.dropout
        return kept * self.dtype(1 / (1 - part.adapter.dropout))

    # ---- attention ---------------------------------------------------------------------------------------------------

    def heads(
        self, qkv: Value, shape: HeadShape, query_norm: Norm | None, key_norm: Norm | None, spans: Spans
    ) -> tuple[Value, Value, Value]:
        """Splits, norms, rotates and scales."""
        time, kv_heads, group, head_dim = len(qkv.data), shape.kv_heads, shape.group, shape.head_dim
        ends = [kv_heads * group * head_dim, kv_heads * (group + 1) * head_dim]
        cos, sin = self.rotation(spans, shape)
        scale = self.dtype(shape.query_scale)
        q_cos, q_sin = cos[:, None] * scale, sin[:, None] * scale
        q_in, k_in, v_in = np.split(qkv.data, ends, axis=1)
        q_normed, q_back = self.heads_normed(q_in, query_norm)
        k_normed, k_back = self.heads_normed(k_in, key_norm)

        q = Value(np.empty((kv_heads, time, group, head_dim), self.dtype))
        k, v = (Value(np.empty((kv_heads, time, head_dim), self.dtype)) for _ in range(2))
        rotate(q_normed.reshape(time, kv_heads, group, head_dim), q_cos, q_sin, scale, out=q.data.swapaxes(0, 1))
        rotate(k_normed.reshape(time, kv_heads, head_dim), cos, sin, 1, out=k.data.swapaxes(0, 1))
        v.data[:] = v_in.reshape(time, kv_heads, head_dim).swapaxes(0, 1)

        def backward(dq: Floats, dk: Floats, dv: Floats) -> tuple[Floats]:
            d = np.empty((time, kv_heads * (group + 2) * head_dim), self.dtype)
            dq_in, dk_in, dv_in = np.split(d, ends, axis=1)
            rotate(dq.swapaxes(0, 1), q_cos, -q_sin, scale, out=dq_in.reshape(time, kv_heads, group, head_dim))
            rotate(dk.swapaxes(0, 1), cos, -sin, 1, out=dk_in.reshape(time, kv_heads, head_dim))
            dv_in.reshape(time, kv_heads, head_dim)[:] = dv.swapaxes(0, 1)
            q_back(dq_in)
            k_back(dk_in)
            return (d,)

        if self.learning and self.recording:
            self.tape.record([q, k, v], [qkv], backward)
        return q, k, v

    def heads_normed(self, x: Floats, norm: Norm | None) -> tuple[Floats, Callable[[Floats], None]]:
        """The norm is as wide as its weight: a head (Qwen 3) or all of them (OLMo 2). Its backward works in place."""
        if norm is None:
            return x, lambda d: None
        shape = (len(x), -1, len(norm.weight))
        y, back = self.normed(x.reshape(shape), norm)

        def backward(d: Floats) -> None:
            d.reshape(shape)[:] = back(d.reshape(shape))

        return y, backward

    def rotation(self, spans: Spans, shape: HeadShape) -> tuple[Floats, Floats]:
        """cos and sin (time, 1, turned / 2) of the angles at each position of its span."""
        return rotation(spans, shape.rope, self.dtype)

    def attention(self, q: Value, k: Value, v: Value, spans: Spans, window: int | None, cap: float | None) -> Value:
        """Tile by tile; the backward makes each tile's probabilities again from the log-sum-exp."""
        kv_heads, time, group, head_dim = q.data.shape
        mixed, log_sum = (
            np.empty((time, kv_heads, group, head_dim), self.dtype),
            np.empty((kv_heads, time, group), self.dtype),
        )
        for head, queries, keys in tiles(kv_heads, spans, window):
            p, _ = scores(q.data[head, queries], k.data[head, keys], queries.start - keys.start, window, cap)
            top = p.max(-1, keepdims=True)
            p -= top
            np.exp(p, out=p)
            total = p.sum(-1, keepdims=True)
            mixed[queries, head] = (p @ v.data[head, keys] / total).reshape(-1, group, head_dim)
            log_sum[head, queries] = (np.log(total) + top).reshape(-1, group)

        def backward(d: Floats) -> tuple[Floats, Floats, Floats]:
            d = d.reshape(time, kv_heads, group, head_dim)
            dq, dk, dv = np.empty_like(q.data), np.zeros_like(k.data), np.zeros_like(v.data)
            for head, queries, keys in tiles(kv_heads, spans, window):
                p, slope = scores(q.data[head, queries], k.data[head, keys], queries.start - keys.start, window, cap)
                p -= log_sum[head, queries].reshape(-1, 1)
                np.exp(p, out=p)
                d_mixed = d[queries, head].reshape(-1, head_dim)
                ds = d_mixed @ v.data[head, keys].T
                ds -= np.vecdot(d_mixed, mixed[queries, head].reshape(-1, head_dim))[:, None]
                ds *= p
                if slope is not None:
                    ds *= slope
                dv[head, keys] += p.T @ d_mixed
                dk[head, keys] += ds.T @ q.data[head, queries].reshape(-1, head_dim)
                np.matmul(ds, k.data[head, keys], out=dq[head, queries].reshape(-1, head_dim))
            return dq, dk, dv

        return self.record(mixed.reshape(time, -1), [q, k, v], backward)

    # ---- the MLP -----------------------------------------------------------------------------------------------------

    def gated(self, gate_up: Value, activation: str) -> Value:
        """activation(gate) * up, a block of rows at a time."""
        act, y = ACTIVATIONS[activation], gate_up.data
        time, hidden = len(y), y.shape[1] // 2
        out = np.empty((time, hidden), self.dtype)
        for rows in blocks(time, BLOCK):
            np.multiply(act(y[rows, :hidden])[0], y[rows, hidden:], out=out[rows])

        def backward(d: Floats) -> tuple[Floats]:
            dy = np.empty_like(y)
            for rows in blocks(time, BLOCK):
                value, slope = act(y[rows, :hidden])
                np.multiply(d[rows], value, out=dy[rows, hidden:])
                slope *= y[rows, hidden:]
                np.multiply(d[rows], slope, out=dy[rows, :hidden])
            return (dy,)

        return self.record(out, [gate_up], backward)

    # ---- the loss ----------------------------------------------------------------------------------------------------

    def loss(self, x: Value, norm: Norm, head: Linear, targets: Tokens, cap: float | None) -> Value:
        """Sum of the cross-entropies. Its gradient comes from the same walk, or, where the head is trained, from a second."""
        h, back = self.normed(x.data, norm)
        trains_head = f"{head.name}.weight" in self.gradients
        walk = self.walk(h, head, targets, cap, pulls=self.learning and not trains_head)

        def backward(weight: float) -> tuple[Floats]:
            dh = (
                self.learn_head(h, head, targets, cap, walk.log_total, weight)
                if trains_head
                else walk.pull * self.dtype(weight)
            )
            return (back(dh),)

        value = np.sum(walk.log_total, dtype=float) - np.sum(walk.right_logit, dtype=float)
        return self.record(value, [x], backward)

    def log_probabilities(self, x: Value, norm: Norm, head: Linear, targets: Tokens, cap: float | None) -> Floats:
        """(kept,) log p(target), natural logarithm, without a gradient."""
        walk = self.walk(self.normed(x.data, norm)[0], head, targets, cap, pulls=False)
        return walk.right_logit - walk.log_total[:, 0]

    def walk(self, h: Floats, head: Linear, targets: Tokens, cap: float | None, pulls: bool) -> "Walk":
        """One walk over the vocabulary in tiles, with a running maximum (arXiv:1805.02867)."""
        right = head.weight.read(targets)
        right_logit = np.vecdot(h, right)
        right_slope = bend(right_logit, cap)
        top, total, pull = (
            np.full((len(h), 1), -np.inf, self.dtype),
            np.zeros((len(h), 1), self.dtype),
            np.zeros_like(h),
        )
        for rows in blocks(head.weight.shape[0], VOCABULARY):
            e = head.weight.read(rows)
            p = h @ e.T
            slope = bend(p, cap)
            higher = np.maximum(top, p.max(-1, keepdims=True))
            fade, top = np.exp(top - higher), higher
            p -= top
            np.exp(p, out=p)
            total = total * fade + p.sum(-1, keepdims=True)
            if pulls:
                if slope is not None:
                    p *= slope
                pull *= fade
                pull += p @ e
        if pulls:
            pull /= total
            pull -= right if right_slope is None else right * right_slope[:, None]
        return Walk(np.log(total) + top, right_logit, pull)

    def learn_head(
        self, h: Floats, head: Linear, targets: Tokens, cap: float | None, log_total: Floats, weight: float
    ) -> Floats:
        """Adds up the gradient of a trained head, and gives that of its input: (kept, dim)."""
        gradient, dh = self.gradients[f"{head.name}.weight"], np.zeros_like(h)
        for rows in blocks(head.weight.shape[0], VOCABULARY):
            e = head.weight.read(rows)
            p = h @ e.T
            slope = bend(p, cap)
            p -= log_total
            np.exp(p, out=p)
            own = np.flatnonzero((targets >= rows.start) & (targets < rows.stop))
            p[own, targets[own] - rows.start] -= 1
            p *= self.dtype(weight)
            if slope is not None:
                p *= slope
            gradient[rows] += p.T @ h
            dh += p @ e
        return dh

    def logits(self, x: Value, norm: Norm, head: Linear, cap: float | None) -> Floats:
        """(kept, vocab), tile by tile, so that the head is never whole in floats."""
        h, _ = self.normed(x.data, norm)
        logits = np.empty((len(h), head.weight.shape[0]), self.dtype)
        for rows in blocks(head.weight.shape[0], VOCABULARY):
            np.matmul(h, head.weight.read(rows).T, out=logits[:, rows])
        bend(logits, cap)
        return logits

    # ---- memory for time ---------------------------------------------------------------------------------------------

    def recompute(self, run: Run, x: Value) -> Value:
        """Runs without keeping anything but x; the backward runs again on a tape of its own, and plays that."""
        data = self.frozen(run, x).data

        def backward(d: Floats) -> tuple[Floats | None]:
            outer, self.tape = self.tape, Tape()
            again = Value(x.data, x.wanted)
            self.backward(run(self, again), d)
            self.tape = outer
            return (again.gradient.array,)

        return self.record(data, [x], backward)

    def frozen(self, run: Run, x: Value) -> Value:
        """Runs without recording."""
        before, self.recording = self.recording, False
        data = run(self, x).data
        self.recording = before
        return Value(data, wanted=False)


class Walk(NamedTuple):
    """What a walk over the vocabulary gives: (kept, 1) log-sum-exp, (kept,) the target's logit, (kept, dim) gradient."""

    log_total: Floats
    right_logit: Floats
    pull: Floats


def outputs_of(joint: Joint) -> Iterator[tuple[Linear, slice]]:
    """Each layer of a joint one, and where its outputs lie."""
    start = 0
    for part in joint.parts:
        stop = start + part.weight.shape[0]
        yield part, slice(start, stop)
        start = stop


def blocks(length: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `length`."""
    return [slice(start, min(length, start + size)) for start in range(0, length, size)]


def tiles(kv_heads: int, spans: Spans, window: int | None) -> Iterator[tuple[int, slice, slice]]:
    """Blocks of queries with all the keys that some of them see: (head, queries, keys)."""
    for head in range(kv_heads):
        for start, stop in spans:
            for query in range(start, stop, QUERIES):
                last = min(stop, query + QUERIES)
                yield head, slice(query, last), slice(max(start, query + 1 - window) if window else start, last)


def scores(q: Floats, k: Floats, before: int, window: int | None, cap: float | None) -> tuple[Floats, Floats | None]:
    """q (queries, group, head_dim), k (keys, head_dim) -> (queries * group, keys), bent and masked, and the bend's slope.

    `before` keys precede the first query.
    """
    s = q.reshape(-1, k.shape[1]) @ k.T
    slope = bend(s, cap)
    hidden = mask(len(q), before, window, s.dtype)
    tile = s.reshape(len(q), -1, len(k))[..., -hidden.shape[-1] :]
    tile += hidden
    return s, slope


@lru_cache(maxsize=32)
def mask(queries: int, before: int, window: int | None, dtype: Any) -> Floats:
    """What to add to the scores of the last keys, after those that all queries see. Without a window that is the triangle."""
    first = 0 if window else before
    behind = np.arange(before, before + queries)[:, None] - np.arange(first, before + queries)
    hidden = (behind < 0) | (behind >= (window or np.inf))
    return np.where(hidden, -1e9, 0).astype(dtype)[:, None]


def bend(s: Floats, cap: float | None) -> Floats | None:
    """s = cap tanh(s / cap), in place; the slope of that."""
    if cap is None:
        return None
    s /= cap
    np.tanh(s, out=s)
    slope = 1 - s * s
    s *= cap
    return slope


@lru_cache(maxsize=8)
def rotation(spans: Spans, rope: Rope | None, dtype: type[np.floating[Any]], offset: int = 0) -> tuple[Floats, Floats]:
    """cos and sin (time, 1, turned / 2) of the angles at each position of its span. Without a rope nothing turns."""
    if rope is None:
        time = sum(stop - start for start, stop in spans)
        return np.ones((time, 1, 0), dtype), np.zeros((time, 1, 0), dtype)
    angles = np.concatenate(
        [
            np.arange(offset, offset + stop - start)[:, None, None] * rope.frequencies(offset + stop - start)
            for start, stop in spans
        ]
    )
    return (np.cos(angles) * rope.scale).astype(dtype), (np.sin(angles) * rope.scale).astype(dtype)


def rotate(x: Floats, cos: Floats, sin: Floats, scale: Any, out: Floats) -> None:
    """The halves of the turned dimensions are the real and the imaginary part of what is multiplied by cos + i sin.

    The other dimensions are multiplied by `scale`, which cos and sin hold already.
    """
    half = cos.shape[-1]
    real, imaginary = x[..., :half], x[..., half : 2 * half]
    out_real, out_imaginary = out[..., :half], out[..., half : 2 * half]
    np.multiply(real, cos, out=out_real)
    out_real -= imaginary * sin
    np.multiply(imaginary, cos, out=out_imaginary)
    out_imaginary += real * sin
    if 2 * half < x.shape[-1]:
        np.multiply(x[..., 2 * half :], scale, out=out[..., 2 * half :])


def silu(x: Floats) -> tuple[Floats, Floats]:
    """x sigmoid(x), and its slope. A sigmoid by tanh takes half the time of one by exp."""
    sigmoid = x * x.dtype.type(0.5)
    np.tanh(sigmoid, out=sigmoid)
    sigmoid *= 0.5
    sigmoid += 0.5
    value = x * sigmoid
    slope = value * sigmoid
    np.subtract(value, slope, out=slope)
    slope += sigmoid
    return value, slope


def gelu(x: Floats) -> tuple[Floats, Floats]:
    """0.5 x (1 + tanh(u)), the usual approximation (arXiv:1606.08415), and its slope."""
    t = np.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x)


ACTIVATIONS = {"silu": silu, "gelu": gelu}
