"""Loss and perplexity on the trained tokens of held-out rows, and the log-probability of each of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetune.adapters.attach import AdaptedModel
from edgetune.backend.choice import NUMPY, Backend
from edgetune.text.batches import to_row
from edgetune.text.dataset import Example
from edgetune.training.loss import log_probabilities

ROWS = 32  # that are scored between two signs of life


@dataclass(frozen=True)
class RowScore:
    """One row. logprobs[i] is log p(token i given those before it); None for the first token and for untrained ones."""

    file: str
    line: int
    logprobs: tuple[float | None, ...]

    @property
    def loss(self) -> float:
        """The mean over the row's trained tokens, in nats."""
        known = [value for value in self.logprobs if value is not None]
        return -sum(known) / len(known)


@dataclass(frozen=True)
class Evaluation:
    """All rows together: the mean loss over trained tokens, in nats."""

    loss: float
    tokens: int
    rows: tuple[RowScore, ...]

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite where that is beyond what floats hold."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate(
    model: AdaptedModel,
    examples: Sequence[Example],
    workers: int,
    backend: Backend = NUMPY,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Evaluation:
    """Scores every row by itself, without packing. `on_rows` is told how many are done."""
    runner = backend.runner(model.parameters, workers)
    scored: list[NDArray[np.float32]] = []
    for start in range(0, len(examples), ROWS):
        scored += log_probabilities(runner, model.model, [to_row([each]) for each in examples[start : start + ROWS]])
        on_rows(len(scored))
    rows: list[RowScore] = []
    for example, values in zip(examples, scored, strict=True):
        known = iter(values.tolist())
        targets = [False, *example.trained[1:].tolist()]
        rows.append(RowScore(example.file, example.line, tuple(next(known) if trained else None for trained in targets)))
    tokens = sum(len(values) for values in scored)
    return Evaluation(-sum(float(values.sum(dtype=float)) for values in scored) / tokens, tokens, tuple(rows))
