"""DoRA's magnitudes (arXiv:2402.09353) at their beginning: the lengths that the adapted rows have anyway."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from edgetune.adapters.lora import Floats, LoraAdapter, LoraFactors
from edgetune.architecture.transformer import Model
from edgetune.backend.dora import row_lengths
from edgetune.backend.numpy_weights import FrozenMatrix

BLOCK = 256  # rows that are in memory as floats at once


def matrices_of(model: Model) -> dict[str, FrozenMatrix]:
    """The linear layers' weights by module path, in the precision that is computed with."""
    joints = [joint for each in model.layers for joint in (each.query_key_value, each.output, each.gate_up, each.down)]
    return {part.name: part.weight for joint in joints for part in joint.parts}


def with_magnitudes(adapter: LoraAdapter, matrices: Mapping[str, FrozenMatrix]) -> LoraAdapter:
    """The same adapter as one of DoRA that computes the same on weights of these module paths."""
    begun = {path: factors._replace(magnitude=lengths(matrices[path], factors)) for path, factors in adapter.factors.items()}
    return replace(adapter, factors=begun)


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
