"""The ops on NumPy: for one row of tokens, on one thread, each forward with its backward beneath it.

Nearly all the time goes into products of matrices. What keeps the rest small: elementwise work is done on blocks of rows
that stay in the cache, and scores and logits exist only as tiles.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from edgetune.backend.numpy_attention import AttentionOps
from edgetune.backend.numpy_linear import LinearOps
from edgetune.backend.numpy_loss import LossOps
from edgetune.backend.numpy_stream import blocks
from edgetune.backend.numpy_tape import Floats, Tape, Value
from edgetune.backend.sizes import BLOCK

Run = Callable[[Any, Value], Value]


class NumpyOps(LinearOps, AttentionOps, LossOps):
    """One worker's ops: those of its parts, the gated MLP, and what trades memory for time."""

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
    square = x * x
    t = np.tanh(0.7978845608 * x * (1 + 0.044715 * square))
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * square)


ACTIVATIONS = {"silu": silu, "gelu": gelu}
