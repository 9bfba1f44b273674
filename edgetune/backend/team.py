"""Several processes that train one run together, as `mlx.launch` starts them: what each may ask of the others.

Every process reads the same rows, plays its share of each step, and holds the same trained arrays. The first one alone
writes the run folder, and its word counts wherever they could differ.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Team(Protocol):
    """All methods are to be called by all processes, in the same order."""

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        ...

    def told(self, data: bytes) -> bytes:
        """What the first process gives."""
        ...

    def arrays(self, arrays: Mapping[str, NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
        """The first process's arrays of those names and shapes."""
        ...


class Alone:
    """A team of one."""

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def told(self, data: bytes) -> bytes:
        """The data."""
        return data

    def arrays(self, arrays: Mapping[str, NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
        """The arrays."""
        return arrays
