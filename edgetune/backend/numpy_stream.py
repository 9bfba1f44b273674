"""What all ops on NumPy stand on: a worker's tape and gradients, the stream of a row, and norms."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.backend.numpy_tape import Floats, Tape, Value
from edgetune.backend.numpy_weights import Rows
from edgetune.backend.ops import Linear, Norm, Tokens
from edgetune.backend.trained_rows import ROWS

NormBackward = Callable[[Floats], Floats]


class DropoutKey(NamedTuple):
    """What dropout depends on, and nothing else: the same key leaves out the same inputs, in every process."""

    seed: int
    step: int
    row: int


class StreamOps:
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
        x = self.read(table, tokens) * self.dtype(scale)
        where, places = (np.arange(len(tokens)), tokens) if table.rows is None else table.rows.among(tokens)
        name = f"{table.name}.{'weight' if table.rows is None else ROWS}"
        if name not in self.gradients:
            return Value(x, wanted=False)

        def backward(d: Floats) -> tuple[None]:
            np.add.at(self.gradients[name], places, d[where] * self.dtype(scale))
            return (None,)

        return self.record(x, [Value(None)], backward)

    def read(self, table: Linear, rows: Rows) -> Floats:
        """Those rows of the embedding or the head, as they are now. Not to be written to."""
        frozen = table.weight.read(rows)
        where, places = ((), ()) if table.rows is None else table.rows.among(rows)
        if not len(where):
            return frozen
        mixed = np.array(frozen, self.dtype)
        mixed[where] = self.parameters[f"{table.name}.{ROWS}"][places]
        return mixed

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


def blocks(length: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `length`."""
    return [slice(start, min(length, start + size)) for start in range(0, length, size)]


def bend(s: Floats, cap: float | None) -> Floats | None:
    """s = cap tanh(s / cap), in place; the slope of that."""
    if cap is None:
        return None
    s /= cap
    np.tanh(s, out=s)
    slope = 1 - s * s
    s *= cap
    return slope
