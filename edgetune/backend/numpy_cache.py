"""The ops on NumPy for a text that grows: what was seen before is kept as keys and values."""

from collections.abc import Mapping

import numpy as np

from edgetune.backend.numpy_attention import QUERIES, rotation, scores
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_stream import blocks
from edgetune.backend.numpy_tape import Floats, Value
from edgetune.backend.ops import HeadShape, Spans


class CachedOps(NumpyOps):
    """The ops for tokens that continue what was seen before: keys and values of every layer are kept."""

    def __init__(self, parameters: Mapping[str, Floats], folded: FoldedWeights | None = None):
        super().__init__({}, folded=folded)
        self.parameters, self.learning = parameters, False
        self.keys: list[Floats] = []
        self.values: list[Floats] = []
        self.position = self.layer = 0
        self.length = 0  # of the text when its keys were last turned

    def rotation(self, spans: Spans, shape: HeadShape) -> tuple[Floats, Floats]:
        """Positions go on from those in the cache."""
        return rotation(spans, shape.rope, self.dtype, self.position)

    def attention(self, q: Value, k: Value, v: Value, spans: Spans, window: int | None, cap: float | None) -> Value:
        """The new queries over all keys, old and new."""
        if self.layer == len(self.keys):
            self.keys.append(k.data)
            self.values.append(v.data)
        else:
            self.keys[self.layer] = np.concatenate([self.keys[self.layer], k.data], axis=1)
            self.values[self.layer] = np.concatenate([self.values[self.layer], v.data], axis=1)
        keys, values = self.keys[self.layer], self.values[self.layer]
        self.layer += 1
        kv_heads, time, group, head_dim = q.data.shape
        mixed = np.empty((time, kv_heads, group, head_dim), self.dtype)
        for head in range(kv_heads):
            for rows in blocks(time, QUERIES):
                last = self.position + rows.stop
                first = max(0, self.position + rows.start + 1 - window) if window else 0
                p, _ = scores(q.data[head, rows], keys[head, first:last], self.position + rows.start - first, window, cap)
                p -= p.max(-1, keepdims=True)
                np.exp(p, out=p)
                p /= p.sum(-1, keepdims=True)
                mixed[rows, head] = (p @ values[head, first:last]).reshape(-1, group, head_dim)
        return Value(mixed.reshape(time, -1), wanted=False)

    def advance(self, time: int) -> None:
        """The tokens that just went through are behind us now."""
        self.position, self.layer = self.position + time, 0
        self.length = self.position

    def rewind(self, position: int) -> None:
        """Forgets the tokens from that position on."""
        self.keys = [keys[:, :position] for keys in self.keys]
        self.values = [values[:, :position] for values in self.values]
        self.position = position
