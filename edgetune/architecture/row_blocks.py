"""Tensors in blocks of rows, read from their file and not mapped, so that memory does not grow with the model."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.weights import STORED, TensorInfo
from edgetune.backend.numpy_weights import Quantized
from edgetune.errors import ModelError
from edgetune.events import Progress

BLOCK = 1 << 20  # bytes: a block and its casts stay in the processor's cache


class Meter:
    """Tells how far a stream of bytes is, some two hundred times in all."""

    def __init__(self, stage: str, total: int, on_progress: Callable[[Progress], None] | None):
        self.stage, self.total, self.on_progress = stage, total, on_progress
        self.done = self.told = 0

    def add(self, count: int) -> None:
        """So many bytes more."""
        self.done += count
        if self.on_progress and (self.done - self.told >= self.total / 200 or self.done == self.total):
            self.told = self.done
            self.on_progress(Progress(stage=self.stage, done=self.done, total=self.total, unit="bytes"))


def row_blocks(info: TensorInfo, multiple: int = 1) -> Iterator[NDArray[Any]]:
    """The rows of a tensor as they are stored, a multiple of `multiple` rows at a time; each block overwrites the last.

    Rows of a quantised matrix come as float32, which is what its `dtype` says. They are read and not mapped: mapped pages
    count as this process's memory, and a file that is cut meanwhile kills it.

    Raises:
        ModelError: the file has become shorter.
    """
    if info.packed is None:
        yield from stored_blocks(info, rows_at_once(info.row_bytes, multiple))
        return
    step = rows_at_once(4 * info.shape[1], multiple)
    parts = [stored_blocks(part, step) for part in info.packed.parts]
    for codes, *rest in zip(*parts, strict=True):
        yield Quantized(info.packed.packing, codes, *rest).read(slice(None))


def rows_at_once(row_bytes: int, multiple: int) -> int:
    """How many rows make a block."""
    return max(1, BLOCK // max(row_bytes, 1) // multiple) * multiple


def stored_blocks(info: TensorInfo, step: int) -> Iterator[NDArray[Any]]:
    """So many rows of a tensor at a time, as they are stored."""
    rows = info.shape[0] if info.shape else 1
    row_bytes = info.row_bytes
    buffer = np.empty(min(step, rows) * row_bytes, np.uint8)
    with info.file.open("rb") as file:
        file.seek(info.start)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            block = buffer[: count * row_bytes]
            if file.readinto(block.data) != block.size:
                raise ModelError("became shorter while it was read", file=info.file, hint="get the model again")
            yield block.view(STORED[info.dtype]).reshape((count, *info.shape[1:]) if info.shape else ())
