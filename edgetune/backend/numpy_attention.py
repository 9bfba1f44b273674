"""Attention on NumPy, tile by tile: scores exist for a block of queries at a time, forward and backward."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from edgetune.backend.numpy_stream import StreamOps, bend
from edgetune.backend.numpy_tape import Floats, Value
from edgetune.backend.ops import HeadShape, Norm, Spans
from edgetune.backend.rope import Rope
from edgetune.backend.sizes import QUERIES


class AttentionOps(StreamOps):
    """The attention of a worker's ops."""

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
