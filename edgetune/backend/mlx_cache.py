"""The ops on MLX for a text that grows: what was seen before is kept as keys and values."""

from collections.abc import Mapping

import numpy as np

from edgetune.backend.mlx_ops import Array, Constants, Layout, MlxOps, bend, mx
from edgetune.backend.numpy_attention import rotation
from edgetune.backend.ops import Spans
from edgetune.backend.rope import Rope


class MlxCachedOps(MlxOps):
    """The ops for tokens that continue what was seen before: keys and values of every layer are kept."""

    def __init__(self, parameters: Mapping[str, Array], constants: Constants):
        super().__init__(parameters, constants)
        self.keys: list[Array] = []  # (1, kv_heads, seen, head_dim) of each layer
        self.values: list[Array] = []
        self.position = self.layer = 0
        self.length = 0  # of the text when its keys were last turned

    def rotation(self, rope: Rope | None, layout: Layout) -> tuple[Array, Array] | None:
        """Positions go on from those in the cache."""
        if rope is None:
            return None
        angles = rotation(((0, layout.positions.shape[1]),), rope, np.float32, self.position)
        cos, sin = (mx.array(each.swapaxes(0, 1)[None]) for each in angles)
        return cos, sin

    def attention(self, q: Array, k: Array, v: Array, spans: Spans | Layout, window: int | None, cap: float | None) -> Array:
        """The new queries over all keys, old and new."""
        if self.layer == len(self.keys):
            self.keys.append(k)
            self.values.append(v)
        else:
            self.keys[self.layer] = mx.concatenate([self.keys[self.layer], k], axis=2)
            self.values[self.layer] = mx.concatenate([self.values[self.layer], v], axis=2)
        keys, values = self.keys[self.layer], self.values[self.layer]
        self.layer += 1
        sees = self.sees(q.shape[2], window)
        if cap is None:
            mixed = mx.fast.scaled_dot_product_attention(q, keys, values, scale=1.0, mask=sees)
        else:
            grouped = q.astype(mx.float32).reshape(1, keys.shape[1], -1, *q.shape[2:])
            scores = bend(grouped @ keys[:, :, None].astype(mx.float32).swapaxes(-1, -2), cap)
            p = mx.softmax(mx.where(sees, scores, -1e9), axis=-1)
            mixed = (p @ values[:, :, None].astype(mx.float32)).reshape(q.shape).astype(v.dtype)
        return mixed.swapaxes(1, 2).reshape(q.shape[2], -1)

    def sees(self, time: int, window: int | None) -> Array:
        """(time, seen + time): whether a new token sees a token."""
        seen = self.position + time
        behind = np.arange(self.position, seen)[:, None] - np.arange(seen)
        return mx.array((behind >= 0) & (behind < (window or seen)))

    def advance(self, time: int) -> None:
        """The tokens that just went through are behind us now."""
        self.position, self.layer = self.position + time, 0
        self.length = self.position

    def rewind(self, position: int) -> None:
        """Forgets the tokens from that position on."""
        self.keys = [keys[:, :, :position] for keys in self.keys]
        self.values = [values[:, :, :position] for values in self.values]
        self.position = position
