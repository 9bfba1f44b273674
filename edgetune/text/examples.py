"""Examples, one and many: token ids and the mask of what is learned."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray


class Example(NamedTuple):
    """One row to learn from, each array (time,). trained[i]: token i is a target; nothing comes before the first."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    file: str
    line: int


class Examples(Sequence[Example]):
    """Many examples in a few arrays: a million short rows take no more than their tokens."""

    def __init__(self, examples: Iterable[Example] = ()):
        ids, trained = array("i"), bytearray()
        sizes, lines, files = array("q", [0]), array("q"), array("i")
        self.names: list[str] = []
        known: dict[str, int] = {}
        for example in examples:
            ids.frombytes(example.ids.astype(np.int32, copy=False).tobytes())
            trained += example.trained.tobytes()
            sizes.append(len(example.ids))
            lines.append(example.line)
            files.append(known.setdefault(example.file, len(known)))
        self.names += known
        self.ids, self.trained = np.frombuffer(ids, np.int32), np.frombuffer(trained, np.bool_)
        self.ids.flags.writeable = self.trained.flags.writeable = False
        self.stops = np.fromiter(accumulate(sizes), np.int64, len(sizes))
        self.lines, self.files = lines, files

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> "Examples": ...
    def __getitem__(self, at: int | slice) -> "Example | Examples":
        if isinstance(at, slice):
            return self.take(range(*at.indices(len(self))))
        row = range(len(self))[at]
        span = slice(self.stops[row], self.stops[row + 1])
        return Example(self.ids[span], self.trained[span], self.names[self.files[row]], self.lines[row])

    def take(self, rows: Iterable[int]) -> "Examples":
        """Some of the examples, in the order given."""
        return Examples(self[row] for row in rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return np.diff(self.stops).tolist()

    @property
    def trained_tokens(self) -> int:
        """How many tokens are targets."""
        return int(np.count_nonzero(self.trained))
