"""The loss of rows, with and without gradients, and the log-probability of every trained token."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture import transformer
from edgetune.architecture.transformer import Model
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_runner import LossOfRow, NumpyRunner
from edgetune.backend.numpy_tape import Value
from edgetune.backend.ops import Row
from edgetune.training.prefix import Start

LOGIT_ROWS = 64  # positions whose logits over the whole vocabulary exist at once


class RowLoss(NamedTuple):
    """Sum over a row's trained tokens, in nats, and how many they are."""

    total: float
    tokens: int


def row_loss(model: Model, recompute: bool = False, start: Start | None = None) -> LossOfRow:
    """What a runner plays for each row of a training step. `start` gives the stream after the frozen layers."""

    def play(ops: NumpyOps, row: Row) -> Value:
        return transformer.loss(ops, model, row, recompute, start(ops, row) if start else None)

    return play


def mean_loss(runner: NumpyRunner, model: Model, rows: Sequence[Row], start: Start | None = None) -> tuple[float, int]:
    """The mean over all trained tokens of all rows, in nats, and how many they are."""
    play = row_loss(model, start=start)
    losses = runner.evaluate(rows, lambda ops, index, row: RowLoss(float(play(ops, row).data), row.trained_tokens))
    tokens = sum(loss.tokens for loss in losses)
    return sum(loss.total for loss in losses) / tokens, tokens


def log_probabilities(runner: NumpyRunner, model: Model, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
    """For each row (trained tokens,): log p(target given the tokens before it), natural logarithm."""

    def play(ops: NumpyOps, index: int, row: Row) -> NDArray[np.float32]:
        kept = np.flatnonzero(row.targets >= 0)
        x = transformer.hidden(ops, model, row, kept)
        return ops.log_probabilities(x, model.final_norm, model.head, row.targets[kept], model.logit_cap)

    return runner.evaluate(rows, play)


def trained_logits(runner: NumpyRunner, model: Model, row: Row) -> NDArray[np.float32]:
    """(trained tokens, vocab): the logits at every trained position of one row, to compare models by."""

    def play(ops: NumpyOps, index: int, row: Row) -> NDArray[np.float32]:
        kept = np.flatnonzero(row.targets >= 0)
        x = transformer.hidden(ops, model, row, kept)
        parts = [
            ops.logits(Value(x.data[start : start + LOGIT_ROWS]), model.final_norm, model.head, model.logit_cap)
            for start in range(0, len(kept), LOGIT_ROWS)
        ]
        return np.concatenate(parts)

    return runner.evaluate([row], play)[0]
