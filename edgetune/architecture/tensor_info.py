"""Where a tensor lies in a safetensors file, and what it is there."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgetune.backend.quantized import Packing

ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
PACKED_SIZES = {**ITEM_SIZES, "U32": 4, "U8": 1}  # what an MLX-quantised checkpoint may hold
STORED = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "U8": np.dtype("u1")}


class TensorInfo(NamedTuple):
    """Where one tensor lies: start and stop are bytes of the file. `packed`: a quantised matrix, which is read as floats."""

    dtype: str  # what its rows are read as: F32, F16 or BF16
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int
    packed: "PackedInfo | None" = None

    @property
    def row_bytes(self) -> int:
        """Bytes of each row, as it is stored."""
        return (self.stop - self.start) // max(self.shape[0] if self.shape else 1, 1)

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file."""
        return sum(part.stop - part.start for part in (self.packed.parts if self.packed else (self,)))

    @property
    def float_type(self) -> str:
        """The type of a copy in floats: F32, F16 or BF16."""
        return self.packed.float_type if self.packed else self.dtype


class PackedInfo(NamedTuple):
    """A quantised matrix: how, and where its parts lie."""

    packing: Packing
    parts: tuple[TensorInfo, ...]  # codes as bytes, scales, and in the affine mode biases
    float_type: str  # what it was before it was quantised
