"""Reverse-mode differentiation: every op leaves its backward on a tape, and the tape is played from its end."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Backward = Callable[..., tuple[Floats | None, ...]]


class Gradient:
    """Of the loss by a value: the sum over all its uses, once the backward has passed them."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Floats | None = None


class Value:
    """An array on its way through the ops. Its gradient lives apart: the tape needs that, but must not keep the array.

    `wanted` is False for what no trained array led to: nobody asks for its gradient.
    """

    __slots__ = ("data", "gradient", "wanted")

    def __init__(self, data: Any, wanted: bool = True):
        self.data, self.gradient, self.wanted = data, Gradient(), wanted


class Tape:
    """The backwards of the ops played so far, in their order."""

    def __init__(self) -> None:
        self.entries: list[tuple[list[Gradient], list[Gradient], Backward]] = []

    def record(self, outputs: Sequence[Value], inputs: Sequence[Value], backward: Backward) -> None:
        """backward(*gradients of the outputs) -> gradients of the inputs. The arrays it needs again, it keeps itself."""
        self.entries.append(([y.gradient for y in outputs], [x.gradient for x in inputs], backward))

    def play_back(self) -> None:
        """Plays every backward, last first. An entry is dropped once played, and with it the arrays that only it kept."""
        while self.entries:
            outputs, inputs, backward = self.entries.pop()
            for total, part in zip(inputs, backward(*(y.array for y in outputs)), strict=True):
                if part is not None:
                    total.array = part if total.array is None else total.array + part
