"""Which rows are learned together, and in what order: pure functions of the rows' lengths and (seed, epoch)."""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.ops import Row
from edgetune.text.dataset import Example, Examples

WINDOW = 64  # sequences' worth of tokens that are packed with one another: fewer holes, and still a random company
BUCKET = 16  # micro-batches whose sequences are sorted by length together


def split_valid(examples: Sequence[Example], share: float, seed: int) -> tuple[Examples, Examples]:
    """Rows to train and rows to validate, both in their order. Equal rows go to one side, or validation would be known.

    A row's side depends on what it holds and on the seed, not on its place. At least one row is validated where
    the share is not 0 and there are two different rows.
    """
    keys = np.array([row_key(example, seed) for example in examples], np.uint64)
    different = np.unique(keys)
    wanted = min(max(1, round(share * len(keys))), len(keys) - 1) if share > 0 and len(different) > 1 else 0
    limit = min(np.sort(keys)[wanted - 1], different[-2]) if wanted else None
    chosen = keys <= limit if limit is not None else np.zeros(len(keys), np.bool_)
    return (
        Examples(examples[row] for row in np.flatnonzero(~chosen).tolist()),
        Examples(examples[row] for row in np.flatnonzero(chosen).tolist()),
    )


def row_key(example: Example, seed: int) -> int:
    """A number that looks random and follows from the seed and the row's tokens."""
    digest = hashlib.blake2b(example.ids.tobytes(), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")


class BatchOrder:
    """The micro-batches of every epoch. Each row comes once in each epoch, in a sequence of at most `max_tokens`."""

    def __init__(self, lengths: Sequence[int], *, batch: int, max_tokens: int, packing: bool, shuffle: bool, seed: int):
        if max(lengths, default=0) > max_tokens:
            raise ValueError(f"a row of {max(lengths)} tokens in sequences of {max_tokens}")
        self.lengths, self.batch, self.max_tokens = list(lengths), batch, max_tokens
        self.packing, self.shuffle, self.seed = packing, shuffle, seed

    def epoch(self, epoch: int) -> list[list[tuple[int, ...]]]:
        """Micro-batches of at most `batch` sequences, one of them perhaps smaller; a sequence names the rows in it."""
        if not self.shuffle:
            sequences = self.in_order() if self.packing else [(row,) for row in range(len(self.lengths))]
            return self.groups(sequences)
        draws = np.random.Philox(key=[self.seed, epoch])  # raw draws: numpy promises their values for ever
        rows = shuffled(len(self.lengths), draws)
        sequences = self.packed(rows) if self.packing else [(row,) for row in rows]
        micro_batches = self.by_length([sequences[at] for at in shuffled(len(sequences), draws)])
        return [micro_batches[at] for at in shuffled(len(micro_batches), draws)]

    def groups(self, sequences: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Micro-batches of neighbours."""
        return [sequences[start : start + self.batch] for start in range(0, len(sequences), self.batch)]

    def by_length(self, sequences: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Micro-batches whose sequences are of like lengths, so that workers end together."""
        size = self.batch * BUCKET
        buckets = (sequences[start : start + size] for start in range(0, len(sequences), size))
        return self.groups([sequence for bucket in buckets for sequence in sorted(bucket, key=self.tokens, reverse=True)])

    def tokens(self, sequence: Sequence[int]) -> int:
        """The tokens of a sequence."""
        return sum(self.lengths[row] for row in sequence)

    def in_order(self) -> list[tuple[int, ...]]:
        """Sequences of neighbours, each as full as it gets without changing the order."""
        sequences: list[tuple[int, ...]] = []
        current: list[int] = []
        free = self.max_tokens
        for row, length in enumerate(self.lengths):
            if current and length > free:
                sequences.append(tuple(current))
                current, free = [], self.max_tokens
            current.append(row)
            free -= length
        return [*sequences, tuple(current)] if current else sequences

    def packed(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Sequences of rows that fill each other up, window by window."""
        sequences: list[tuple[int, ...]] = []
        window: list[int] = []
        tokens = 0
        for row in rows:
            window.append(row)
            tokens += self.lengths[row]
            if tokens >= WINDOW * self.max_tokens:
                sequences += self.best_fit(window)
                window, tokens = [], 0
        return sequences + self.best_fit(window)

    def best_fit(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Best-fit decreasing: the longest row first, each into the fullest sequence that still has room for it."""
        sequences: list[list[int]] = []
        room: list[tuple[int, int]] = []  # free tokens and sequence, least free first
        for row in sorted(rows, key=self.lengths.__getitem__, reverse=True):
            at = bisect_left(room, (self.lengths[row], -1))
            if at < len(room):
                free, sequence = room.pop(at)
            else:
                free, sequence = self.max_tokens, len(sequences)
                sequences.append([])
            sequences[sequence].append(row)
            insort(room, (free - self.lengths[row], sequence))
        return [tuple(sequence) for sequence in sequences]


def shuffled(size: int, draws: np.random.Philox) -> list[int]:
    """A random order of so many things."""
    return np.argsort(draws.random_raw(size), kind="stable").tolist()


def to_row(examples: Sequence[Example]) -> Row:
    """Packs examples end to end: tokens, the target after each (-1 where none is learned), and each example's span."""
    tokens = np.concatenate([example.ids for example in examples])
    trained = np.concatenate([example.trained for example in examples])
    stops = np.cumsum([len(example.ids) for example in examples]).tolist()
    starts = [0, *stops[:-1]]
    targets: NDArray[np.int32] = np.full(len(tokens), -1, np.int32)
    targets[:-1] = np.where(trained[1:], tokens[1:], -1)
    targets[np.array(stops) - 1] = -1
    return Row(tokens, targets, tuple(zip(starts, stops, strict=True)))
