"""The loss of rows, with and without gradients, and the log-probability of every trained token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture import transformer
from edgetune.architecture.transformer import Model
from edgetune.backend.ops import Ops, Row, Value
from edgetune.backend.runner import Play, Runner
from edgetune.training.prefix import Start


@dataclass(frozen=True, eq=False)
class OfModel:
    """Something that is made of a row by one model. Two of the same kind over the same model are equal."""

    model: Model

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.model is self.model

    def __hash__(self) -> int:
        return hash((type(self), id(self.model)))


class LossOfRow(OfModel):
    """The sum of the cross-entropy over the trained positions."""

    def __call__(self, ops: Ops, row: Row) -> Value:
        """-> a number, in nats."""
        return transformer.loss(ops, self.model, row)


class RecomputedLoss(OfModel):
    """The same; the backward makes the activations of each block again."""

    def __call__(self, ops: Ops, row: Row) -> Value:
        """-> a number, in nats."""
        return transformer.loss(ops, self.model, row, recompute=True)


@dataclass(frozen=True, eq=False)
class ContinuedLoss(OfModel):
    """The same from the stream after the frozen layers on, which `start` gives."""

    start: Start
    recompute: bool

    def __call__(self, ops: Ops, row: Row) -> Value:
        """-> a number, in nats."""
        return transformer.loss(ops, self.model, row, self.recompute, self.start(ops, row))


class LogProbabilities(OfModel):
    """The log-probability of every target."""

    def __call__(self, ops: Ops, row: Row) -> Value:
        """-> (kept,)."""
        return transformer.log_probabilities(ops, self.model, row)


class Logits(OfModel):
    """The logits at every trained position."""

    def __call__(self, ops: Ops, row: Row) -> Value:
        """-> (kept, vocab)."""
        return transformer.logits(ops, self.model, row, row.kept)


def row_loss(model: Model, recompute: bool = False, start: Start | None = None) -> Play:
    """What a runner plays for each row of a training step. `start`: what gives the stream after the frozen layers."""
    if start is not None:
        return ContinuedLoss(model, start, recompute)
    return RecomputedLoss(model) if recompute else LossOfRow(model)


def mean_loss(runner: Runner, model: Model, rows: Sequence[Row], start: Start | None = None) -> tuple[float, int]:
    """The mean over all trained tokens of all rows, in nats, and how many they are."""
    tokens = sum(row.trained_tokens for row in rows)
    return sum(float(loss) for loss in runner.compute(row_loss(model, start=start), rows)) / tokens, tokens


def log_probabilities(runner: Runner, model: Model, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
    """For each row (trained tokens,): log p(target given the tokens before it), natural logarithm."""
    return runner.compute(LogProbabilities(model), rows)


def trained_logits(runner: Runner, model: Model, row: Row) -> NDArray[np.float32]:
    """(trained tokens, vocab): the logits at every trained position of one row, to compare models by."""
    return runner.compute(Logits(model), [row])[0]
