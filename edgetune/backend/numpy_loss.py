"""The loss on NumPy: one walk over the vocabulary in tiles, so that no array of positions x vocabulary exists."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.numpy_stream import StreamOps, bend, blocks
from edgetune.backend.numpy_tape import Floats, Value
from edgetune.backend.ops import Linear, Norm, Tokens
from edgetune.backend.sizes import VOCABULARY
from edgetune.backend.trained_rows import ROWS


class Walk(NamedTuple):
    """What a walk over the vocabulary gives: (kept, 1) log-sum-exp, (kept,) the target's logit, (kept, dim) gradient."""

    log_total: Floats
    right_logit: Floats
    pull: Floats


class LossOps(StreamOps):
    """The head and the loss of a worker's ops."""

    def loss(self, x: Value, norm: Norm, head: Linear, targets: Tokens, cap: float | None) -> Value:
        """Sum of the cross-entropies. Its gradient comes from the same walk, or, where the head is trained, from a second."""
        h, back = self.normed(x.data, norm)
        trains_head = f"{head.name}.weight" in self.gradients
        walk = self.walk(h, head, targets, cap, pulls=self.learning and not trains_head)

        def backward(weight: float) -> tuple[Floats]:
            if f"{head.name}.{ROWS}" in self.gradients:
                self.learn_rows(h, head, targets, cap, walk.log_total, weight)
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

    def walk(self, h: Floats, head: Linear, targets: Tokens, cap: float | None, pulls: bool) -> Walk:
        """One walk over the vocabulary in tiles, with a running maximum (arXiv:1805.02867)."""
        right = self.read(head, targets)
        right_logit = np.vecdot(h, right)
        right_slope = bend(right_logit, cap)
        top, total, pull = (
            np.full((len(h), 1), -np.inf, self.dtype),
            np.zeros((len(h), 1), self.dtype),
            np.zeros_like(h),
        )
        for rows in blocks(head.weight.shape[0], VOCABULARY):
            e = self.read(head, rows)
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
            own = np.flatnonzero((targets >= rows.start) & (targets < rows.stop))
            p = self.pulls(h, e, (own, targets[own] - rows.start), cap, log_total, weight)
            gradient[rows] += p.T @ h
            dh += p @ e
        return dh

    def learn_rows(self, h: Floats, head: Linear, targets: Tokens, cap: float | None, log_total: Floats, weight: float) -> None:
        """Adds up the gradient of those rows of the head that are trained."""
        assert head.rows is not None
        name, ids = f"{head.name}.{ROWS}", np.array(head.rows.ids)
        for rows in blocks(len(ids), VOCABULARY):
            own = np.nonzero(targets[:, None] == ids[rows])
            p = self.pulls(h, self.parameters[name][rows], own, cap, log_total, weight)
            self.gradients[name][rows] += p.T @ h

    def pulls(
        self, h: Floats, e: Floats, right: tuple[NDArray[np.intp], ...], cap: float | None, log_total: Floats, weight: float
    ) -> Floats:
        """(kept, rows) the loss's gradient by h @ e.T before it was bent; `right`: where the targets are among those."""
        p = h @ e.T
        slope = bend(p, cap)
        p -= log_total
        np.exp(p, out=p)
        p[right] -= 1
        p *= self.dtype(weight)
        if slope is not None:
            p *= slope
        return p

    def logits(self, x: Value, norm: Norm, head: Linear, cap: float | None) -> Floats:
        """(kept, vocab), tile by tile, so that the head is never whole in floats."""
        h, _ = self.normed(x.data, norm)
        logits = np.empty((len(h), head.weight.shape[0]), self.dtype)
        for rows in blocks(head.weight.shape[0], VOCABULARY):
            np.matmul(h, self.read(head, rows).T, out=logits[:, rows])
        bend(logits, cap)
        return logits
