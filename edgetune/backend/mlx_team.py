"""A team over MLX's collectives: TCP rings, Thunderbolt, NCCL or MPI, whatever `mlx.launch` set up."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.launch import is_launched
from edgetune.backend.mlx_ops import Array, mx


class MlxTeam:
    """The processes that were launched together; without a launch, this one."""

    def __init__(self) -> None:
        self.group = mx.distributed.init() if is_launched() else None
        self.rank: int = self.group.rank() if self.group else 0
        self.size: int = self.group.size() if self.group else 1

    def sums(self, number: float, arrays: dict[str, Array]) -> tuple[float, dict[str, Array]]:
        """A number and arrays, added up over all processes in one message."""
        if self.size == 1:
            return number, arrays
        flat = mx.concatenate([array.flatten() for array in arrays.values()] + [mx.array([number], mx.float32)])
        flat = mx.distributed.all_sum(flat, group=self.group)
        ends = np.cumsum([array.size for array in arrays.values()]).tolist()
        *parts, last = mx.split(flat, ends)
        total = {name: part.reshape(arrays[name].shape) for name, part in zip(arrays, parts, strict=True)}
        mx.eval(total, last)
        return last.item(), total

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        return bool(self.sums(float(flag), {})[0] > 0)

    def told(self, data: bytes) -> bytes:
        """What the first process gives."""
        if self.size == 1:
            return data
        length = int(mx.distributed.all_sum(mx.array([len(data) if self.rank == 0 else 0]), group=self.group).item())
        numbers = np.frombuffer(data, np.uint8).astype(np.int32) if self.rank == 0 else np.zeros(length, np.int32)
        return np.array(mx.distributed.all_sum(mx.array(numbers), group=self.group)).astype(np.uint8).tobytes()

    def arrays(self, arrays: Mapping[str, NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
        """The first process's arrays of those names and shapes."""
        if self.size == 1:
            return arrays
        own = {name: mx.array(array if self.rank == 0 else np.zeros_like(array)) for name, array in arrays.items()}
        return {name: np.array(array) for name, array in self.sums(0.0, own)[1].items()}
