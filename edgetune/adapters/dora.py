"""DoRA's magnitudes (arXiv:2402.09353) at their beginning: the lengths that the adapted rows have anyway."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from edgetune.adapters.lora import Floats, LoraAdapter, LoraFactors
from edgetune.backend.dora import row_lengths
from edgetune.backend.numpy_weights import FrozenMatrix

BLOCK = 256  # rows that are in memory as floats at once


def with_magnitudes(adapter: LoraAdapter, matrix: Callable[[str], FrozenMatrix]) -> LoraAdapter:
    """The same adapter as one of DoRA that computes the same. `matrix` gives a weight of the base by its name."""

    def begun(path: str, factors: LoraFactors) -> LoraFactors:
        return factors._replace(magnitude=lengths(matrix(f"{path}.weight"), factors))

    return replace(adapter, factors={path: begun(path, factors) for path, factors in adapter.factors.items()})


def lengths(weight: FrozenMatrix, factors: LoraFactors) -> Floats:
    """(outputs,): the length of each row of W + scale * B @ A, zero where the row is."""
    found = np.empty(len(factors.b), np.float32)
    for rows in row_slices(len(found)):
        adapted = weight.read(rows) + np.float32(factors.scale) * factors.b[rows] @ factors.a
        found[rows] = np.where(adapted.any(1), row_lengths(adapted), 0)
    return found


def row_slices(count: int) -> Iterator[slice]:
    """Blocks of rows that cover a matrix."""
    return (slice(start, min(count, start + BLOCK)) for start in range(0, count, BLOCK))
