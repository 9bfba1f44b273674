"""Every core has a worker with its own ops and tape, which plays row after row. They share only what is frozen.

Which worker gets which row follows from the rows alone, never from timing: sums are made in the same order in every run,
so that a resumed run ends bit for bit where an uninterrupted one does.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from edgetune.backend.numpy_cache import CachedOps
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_stream import DropoutKey
from edgetune.backend.numpy_tape import Floats, Value
from edgetune.backend.ops import Row
from edgetune.backend.team import Alone
from edgetune.config import TrainingConfig

Result = TypeVar("Result")
LossOfRow = Callable[[NumpyOps, Row], Any]  # a Value, or an array that nothing is learned from


class NumpyRunner:
    """Plays rows on `workers` threads. `parameters` are the trained arrays: name -> array, changed in place by an optimiser.

    With `share_weights` the weights of a step are made once for all rows, which takes the memory of the layers in float32.
    The numbers are the same either way.
    """

    def __init__(
        self,
        parameters: Mapping[str, Floats],
        workers: int,
        dtype: type[np.floating[Any]] = np.float32,
        share_weights: bool = False,
    ):
        self.team = Alone()
        self.parameters, self.folded = parameters, FoldedWeights() if share_weights else None
        self.workers = [NumpyOps(parameters, dtype, self.folded) for _ in range(workers)]
        self.pool, self.blas = ThreadPoolExecutor(workers, "row"), ThreadpoolController()

    def loss_and_gradients(
        self, loss: LossOfRow, rows: Sequence[Row], seed: int = 0, step: int = 0
    ) -> tuple[float, dict[str, Floats]]:
        """The mean loss over the trained tokens of all rows, in nats, and its gradient by each trained array.

        The arrays belong to the runner and are overwritten by the next call.
        """
        weight = 1 / sum(row.trained_tokens for row in rows)
        for ops in self.workers:
            for gradient in ops.gradients.values():
                gradient.fill(0)

        def learn(ops: NumpyOps, index: int, row: Row) -> float:
            ops.dropout_key = DropoutKey(seed, step, index)
            value = loss(ops, row)
            ops.backward(value, weight)
            return float(value.data)

        total = sum(self.each(rows, learn)) * weight
        first, *others = self.workers
        for name, gradient in first.gradients.items():
            for ops in others:
                gradient += ops.gradients[name]
        return total, first.gradients

    def each(self, rows: Sequence[Row], play: Callable[[NumpyOps, int, Row], Result]) -> list[Result]:
        """play(ops, index, row) of every row, in the rows' order."""
        shares = shared_out([len(row.tokens) for row in rows], len(self.workers))
        if self.folded:
            self.folded.renew()

        def work(ops: NumpyOps, share: list[int]) -> list[tuple[int, Result]]:
            # A training that diverges is found by its loss and its gradient, not by warnings. NumPy asks this of every thread.
            with np.errstate(over="ignore", invalid="ignore"):
                return [(index, play(ops, index, rows[index])) for index in share]

        # The workers are the threads. Only where rows are fewer does BLAS get the cores left over.
        with self.blas.limit(limits=max(1, len(self.workers) // max(1, len(rows))), user_api="blas"):
            results = [result for part in self.pool.map(work, self.workers, shares) for result in part]
        return [result for _, result in sorted(results, key=lambda pair: pair[0])]

    def evaluate(self, rows: Sequence[Row], play: Callable[[NumpyOps, int, Row], Result]) -> list[Result]:
        """As `each`, with nothing recorded and no dropout."""
        for ops in self.workers:
            ops.learning = False
        try:
            return self.each(rows, play)
        finally:
            for ops in self.workers:
                ops.learning = True

    def compute(self, play: LossOfRow, rows: Sequence[Row]) -> list[Floats]:
        """What `play` gives of every row without dropout: a number, or an array whose first axis is `kept`."""

        def data(ops: NumpyOps, index: int, row: Row) -> Floats:
            value = play(ops, row)
            return value.data if isinstance(value, Value) else value

        return self.evaluate(rows, data)

    def optimizer(self, config: TrainingConfig, ratios: Mapping[str, float]) -> None:
        """None: the trained arrays are changed in place."""
        return None

    def trained(self) -> Mapping[str, Floats]:
        """The trained arrays themselves."""
        return self.parameters

    def reload(self) -> None:
        """They are what is computed with."""

    def cached_ops(self) -> CachedOps:
        """Ops for one text that grows. The weights that rows share are kept in the same memory."""
        if self.folded:
            self.folded.renew()
        return CachedOps(self.parameters, self.folded)

    def peak_memory(self) -> int:
        """Nothing apart from the process's memory."""
        return 0


def shared_out(lengths: Sequence[int], workers: int) -> list[list[int]]:
    """Indices for each worker: the longest row first, always to the one with the least to do."""
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += lengths[index]
    return shares
