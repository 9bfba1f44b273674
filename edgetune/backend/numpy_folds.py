"""The weights of one step, adapters folded in: each made once, by the worker that needs it first, and read by all.

Without this every row folds every layer for itself, in its forward and again in its backward. On SmolLM2-135M that is 2 % of a
step of 4 x 512 tokens with weights in float32, 10 % in bfloat16, and 25 % of one of 16 x 128. It takes the memory of the layers
in float32.
"""

from collections.abc import Callable
from threading import Lock

from edgetune.backend.numpy_tape import Floats

Make = Callable[[Floats | None], Floats]


class FoldedWeights:
    """Weights by name. Their arrays are used again after `renew`: large memory that is new each time costs more than a fold."""

    def __init__(self) -> None:
        self.arrays: dict[str, Floats] = {}
        self.fresh: set[str] = set()
        self.locks: dict[str, Lock] = {}

    def renew(self) -> None:
        """What was folded in has changed: every weight is to be made again."""
        self.fresh.clear()

    def get(self, name: str, make: Make) -> Floats:
        """The weight of that name; make(the array that it was in before) -> the weight, where it is not there yet."""
        with self.locks.setdefault(name, Lock()):
            if name not in self.fresh:
                self.arrays[name] = make(self.arrays.get(name))
                self.fresh.add(name)
            return self.arrays[name]
