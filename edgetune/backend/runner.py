"""What training and evaluation need of a backend: a runner, which plays rows, and what it is chosen by.

A runner holds the trained arrays while it works: `trained` gives them as they are now, in the NumPy arrays that it was made
with, and `reload` takes what those hold.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.ops import Cached, Row, Value
from edgetune.backend.team import Team
from edgetune.config import TrainingConfig

Floats = NDArray[np.floating[Any]]
Arrays = Mapping[str, NDArray[np.float32]]
Gradients = Mapping[str, Any]  # arrays of the backend
Play = Callable[[Any, Any], Value]  # (ops, row): what is made of a row. What was compiled of one serves all that equal it


class Optimizer(Protocol):
    """Changes the trained arrays of one runner; `updates` counts how often it did."""

    updates: int

    def norm(self, gradients: Gradients) -> float:
        """The length of all gradients taken as one vector."""
        ...

    def update(self, gradients: Gradients, rate: float, scale: float = 1.0) -> None:
        """One step against `scale` times the gradients, which are used up."""
        ...

    def arrays(self) -> Arrays:
        """The moments under names for a checkpoint."""
        ...

    def restore(self, arrays: Arrays, updates: int) -> None:
        """Puts moments back that `arrays` gave.

        Raises:
            ValueError: they are not of these parameters.
        """
        ...


class Runner(Protocol):
    """Plays rows, with gradients and without."""

    @property
    def team(self) -> Team:
        """The processes that play a share of the rows each."""
        ...

    def loss_and_gradients(self, loss: Play, rows: Sequence[Row], seed: int = 0, step: int = 0) -> tuple[float, Gradients]:
        """The mean loss over the trained tokens of all rows, in nats, and its gradient by each trained array.

        The arrays belong to the runner and are overwritten by the next call.
        """
        ...

    def compute(self, play: Play, rows: Sequence[Row]) -> list[Floats]:
        """What `play` gives of every row without dropout: a number, or an array whose first axis is `kept`."""
        ...

    def optimizer(self, config: TrainingConfig, ratios: Mapping[str, float]) -> Optimizer | None:
        """AdamW of the backend's own, its rate times `ratios` where they name an array.

        None where the trained arrays are NumPy's, changed in place.
        """
        ...

    def trained(self) -> Arrays:
        """The trained arrays as they are now."""
        ...

    def reload(self) -> None:
        """The NumPy arrays were overwritten: what they hold counts now."""
        ...

    def cached_ops(self) -> Cached:
        """Ops over the trained arrays as they are now, for one text that grows."""
        ...

    def peak_memory(self) -> int:
        """The most bytes that the backend had apart from the process's memory, as far as it can tell."""
        ...


def copy_into(arrays: Arrays, saved: Arrays) -> None:
    """Overwrites arrays in place with saved ones.

    Raises:
        ValueError: names or shapes differ.
    """
    if other := arrays.keys() ^ saved.keys():
        raise ValueError(f"{min(other)} is only in one of them")
    for name, array in arrays.items():
        if array.shape != saved[name].shape:
            raise ValueError(f"{name} is {saved[name].shape} there, {array.shape} here")
    for name, array in arrays.items():
        array[...] = saved[name]
