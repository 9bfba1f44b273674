"""Which rows each step learns from: epochs of shuffled micro-batches, a pure function of the config and the rows."""

import math
from collections.abc import Sequence
from functools import lru_cache

from edgetune.config import RunConfig
from edgetune.text.batches import BatchOrder

Sequences = list[tuple[int, ...]]  # the indices of the rows packed into each sequence


class StepOrder:
    """The steps of a run. An epoch's last step may have fewer micro-batches: no step crosses from one epoch to the next."""

    def __init__(self, lengths: Sequence[int], config: RunConfig):
        data, training = config.data, config.training
        self.accumulate = training.accumulate
        self.batches = BatchOrder(
            lengths,
            batch=training.batch,
            max_tokens=data.max_tokens,
            packing=data.packing,
            shuffle=data.shuffle,
            seed=training.seed,
        )
        self.starts = [0]  # the first step of each epoch met so far
        self.total = training.steps or self.steps_of_epochs(training.epochs)

    def steps_of_epochs(self, epochs: float) -> int:
        """How many steps that many passes take; a part of a pass is rounded up."""
        whole = math.floor(epochs)
        if epochs == whole:
            return self.start_of(whole)
        part = math.ceil(round((epochs - whole) * len(self.epoch(whole)), 6))  # 2.1 - 2 is a little more than 0.1
        return max(1, self.start_of(whole) + part)

    @lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its run
    def epoch(self, epoch: int) -> list[Sequences]:
        """The steps of one epoch, each all the sequences of its micro-batches."""
        batches = self.batches.epoch(epoch)
        groups = [batches[start : start + self.accumulate] for start in range(0, len(batches), self.accumulate)]
        return [[sequence for batch in group for sequence in batch] for group in groups]

    def start_of(self, epoch: int) -> int:
        """The first step of an epoch."""
        while len(self.starts) <= epoch:
            self.starts.append(self.starts[-1] + len(self.epoch(len(self.starts) - 1)))
        return self.starts[epoch]

    def step(self, step: int) -> Sequences:
        """The sequences that a step learns from, counted from 0."""
        epoch = 0
        while self.start_of(epoch + 1) <= step:
            epoch += 1
        return self.epoch(epoch)[step - self.start_of(epoch)]
