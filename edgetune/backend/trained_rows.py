"""Single rows of the embedding, or of the head, that are trained while the others stay as they are: those of a few tokens.

PEFT calls it trainable_token_indices. The rows do not change by a difference: what is trained stands in their place.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = "trainable_tokens_delta"  # the trained array of a module is called PATH.trainable_tokens_delta, as in PEFT

Places = NDArray[np.intp]


@dataclass(frozen=True)
class TrainedRows:
    """Which rows of a matrix are trained. Row i of its trained array (tokens, dim) stands in the place of row ids[i]."""

    ids: tuple[int, ...]

    @cached_property
    def order(self) -> Places:
        """(tokens,) the places in the trained array by rising id."""
        return np.argsort(np.array(self.ids), kind="stable")

    @cached_property
    def rising(self) -> NDArray[np.int64]:
        """(tokens,) the ids in rising order."""
        return np.array(self.ids, np.int64)[self.order]

    def among(self, rows: slice | NDArray[np.integer[Any]]) -> tuple[Places, Places]:
        """(found,) where among those rows a trained one is, and its place in the trained array."""
        if isinstance(rows, slice):
            first, last = np.searchsorted(self.rising, [rows.start, rows.stop])
            return (self.rising[first:last] - rows.start).astype(np.intp), self.order[first:last]
        near = np.minimum(np.searchsorted(self.rising, rows), len(self.rising) - 1)
        where = np.flatnonzero(self.rising[near] == rows)
        return where, self.order[near[where]]

    def places(self, rows: int) -> NDArray[np.int32]:
        """(rows,) of a matrix with so many rows: each one's place in the trained array, or -1."""
        places = np.full(rows, -1, np.int32)
        places[list(self.ids)] = np.arange(len(self.ids))
        return places
