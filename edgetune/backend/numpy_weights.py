"""How frozen matrices are kept in memory: in their stored precision, mapped from their file where they come from one.

`read` gives rows as floats; `fill` writes rows of floats into an array that is there already.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = slice | NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


class FrozenMatrix(Protocol):
    """A matrix (outputs, inputs) that gives its rows as floats. `view`: the whole of it, where it lies in memory as floats."""

    shape: tuple[int, int]

    @property
    def view(self) -> Floats | None:
        """(outputs, inputs), not to be written to; None where it is stored otherwise."""
        ...

    def read(self, rows: Rows) -> Floats:
        """(len(rows), inputs), as floats. It may be a view: it is not to be written to."""
        ...

    def fill(self, rows: slice, out: Floats) -> None:
        """Writes those rows as floats to `out`."""
        ...


class Plain:
    """float32, or float64 in tests: rows are views. float16: rows are converted."""

    def __init__(self, weight: NDArray[np.floating[Any]]):
        self.weight, self.shape = weight, (weight.shape[0], weight.shape[1])

    @property
    def view(self) -> Floats | None:
        """(outputs, inputs), unless it is float16."""
        return None if self.weight.dtype == np.float16 else self.weight

    def read(self, rows: Rows) -> Floats:
        """(len(rows), inputs), as floats."""
        part = self.weight[rows]
        return part.astype(np.float32) if part.dtype == np.float16 else part

    def fill(self, rows: slice, out: Floats) -> None:
        """Writes those rows as floats to `out`."""
        out[...] = self.weight[rows]


class BFloat16:
    """The upper halves of float32 numbers, which a shift brings back."""

    def __init__(self, bits: NDArray[np.uint16]):
        self.bits, self.shape = bits, (bits.shape[0], bits.shape[1])

    @property
    def view(self) -> None:
        """There is none."""
        return None

    def read(self, rows: Rows) -> Floats:
        """(len(rows), inputs), as floats."""
        wide = self.bits[rows].astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)

    def fill(self, rows: slice, out: Floats) -> None:
        """Writes those rows as floats to `out`."""
        out[...] = self.read(rows)
