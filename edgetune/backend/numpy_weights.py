"""How frozen matrices are kept in memory: in their stored precision, mapped from their file where they come from one.

`read` gives rows as floats; `fill` writes rows of floats into an array that is there already.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.quantized import SCALES, Packing, dequantize

Rows = slice | NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
BLOCK = 64  # rows that are de-quantised at once: they stay in the cache


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
        return from_bfloat16(self.bits[rows])

    def fill(self, rows: slice, out: Floats) -> None:
        """Writes those rows as floats to `out`."""
        out[...] = self.read(rows)


class Quantized:
    """Codes of a few bits, and a scale for every group of them: see backend/quantized.py. Never whole in floats here.

    codes: (outputs, bytes). scales, and biases in the affine mode: (outputs, groups), as they are stored.
    """

    def __init__(self, packing: Packing, codes: NDArray[np.uint8], scales: NDArray[Any], biases: NDArray[Any] | None = None):
        self.packing, self.codes, self.scales, self.biases = packing, codes, scales, biases
        self.shape = (codes.shape[0], codes.shape[1] * 8 // packing.bits)

    @property
    def view(self) -> None:
        """There is none."""
        return None

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.biases is None else self.biases.nbytes)

    def read(self, rows: Rows) -> Floats:
        """(len(rows), inputs), as floats."""
        count = len(range(*rows.indices(self.shape[0]))) if isinstance(rows, slice) else len(rows)
        out = np.empty((count, self.shape[1]), np.float32)
        self.write(rows, out)
        return out

    def fill(self, rows: slice, out: Floats) -> None:
        """Writes those rows as floats to `out`."""
        if out.dtype == np.float32 and out.flags.c_contiguous:
            self.write(rows, out)
        else:
            out[...] = self.read(rows)

    def write(self, rows: Rows, out: Floats) -> None:
        """Writes those rows to `out`, a block at a time."""
        codes, scales = self.codes[rows], self.scales[rows]
        biases = None if self.biases is None else self.biases[rows]
        for start in range(0, len(codes), BLOCK):
            part = slice(start, start + BLOCK)
            bias = None if biases is None else as_floats(biases[part])
            dequantize(codes[part], self.as_scales(scales[part]), bias, self.packing, out[part])

    def as_scales(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Scales as floats: in the affine mode they are floats, else bytes."""
        return as_floats(stored) if self.packing.mode == "affine" else SCALES[self.packing.mode][stored]


def as_floats(stored: NDArray[Any]) -> NDArray[np.float32]:
    """float32 of what is stored: float32 itself, float16, or uint16 that holds bfloat16."""
    return from_bfloat16(stored) if stored.dtype == np.uint16 else stored.astype(np.float32, copy=False)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exact: a bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
