"""The numbers of the data screen: lengths, trained tokens, cuts, duplicates, leaks from train to valid, problems."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetune.text.dataset import Example, Examples, Problem

GRAM = 5  # tokens of a shingle
HASHES, BAND = 32, 4  # of a MinHash (Broder 1997); rows that agree in one band are compared
SAMPLE, COMMON, MANY = 1000, 0.1, 5  # rows looked at, and in how many a shingle stands that tells nothing
LIKE = 0.8  # the share of shingles from which two rows are nearly the same
BINS = 20


@dataclass(frozen=True)
class Lengths:
    """How long rows are, in tokens. `counts`: rows in `edges[i] <= length < edges[i + 1]`, the last bin closed."""

    shortest: int
    median: int
    p90: int
    p99: int
    longest: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """Two rows that are the same, or nearly, the later one first. `leak`: it validates what the other teaches."""

    file: str
    line: int
    other_file: str
    other_line: int
    exact: bool
    leak: bool


@dataclass(frozen=True)
class DataReport:
    """What will be learned, and what may be wrong with it."""

    rows: int  # read, good and bad
    train_rows: int
    valid_rows: int
    tokens: int  # of the train and the valid rows
    trained_tokens: int
    lengths: Lengths
    longest_allowed: int  # data.max_tokens
    dropped: int
    cut: int
    split: int
    bad: int
    exact_duplicates: int  # rows of one side that repeat an earlier row of it
    near_duplicates: int
    leaks: int  # valid rows that are in train, exactly or nearly
    pairs: tuple[Pair, ...]  # at most one for each row
    problems: tuple[Problem, ...]
    fingerprint: str


def inspect(
    train: Examples,
    valid: Examples,
    problems: Sequence[Problem],
    *,
    rows: int,
    max_tokens: int,
    fingerprint: str = "",
) -> DataReport:
    """The report over what load_examples and split_valid gave."""
    pairs = tuple(find_pairs(train, valid))
    kinds = Counter(problem.kind for problem in problems)
    return DataReport(
        rows=rows,
        train_rows=len(train),
        valid_rows=len(valid),
        tokens=len(train.ids) + len(valid.ids),
        trained_tokens=train.trained_tokens + valid.trained_tokens,
        lengths=measure([*train.lengths, *valid.lengths]),
        longest_allowed=max_tokens,
        dropped=kinds["dropped"],
        cut=kinds["cut"],
        split=kinds["split"],
        bad=sum(problem.bad for problem in problems),
        exact_duplicates=sum(pair.exact and not pair.leak for pair in pairs),
        near_duplicates=sum(not pair.exact and not pair.leak for pair in pairs),
        leaks=sum(pair.leak for pair in pairs),
        pairs=pairs,
        problems=tuple(problems),
        fingerprint=fingerprint,
    )


def measure(lengths: Sequence[int]) -> Lengths:
    """Percentiles and a histogram of lengths."""
    if not lengths:
        return Lengths(0, 0, 0, 0, 0, (), ())
    shortest, median, p90, p99, longest = np.percentile(lengths, (0, 50, 90, 99, 100), method="lower").astype(int).tolist()
    width = -(-(longest + 1) // BINS)
    edges = list(range(0, longest + width + 1, width))
    counts, _ = np.histogram(lengths, edges)
    return Lengths(shortest, median, p90, p99, longest, tuple(edges), tuple(counts.tolist()))


def find_pairs(train: Examples, valid: Examples) -> Iterator[Pair]:
    """For each row, the first earlier row that it repeats, exactly or nearly; valid rows come after all of train."""
    rows: list[Example] = []
    seen: dict[bytes, int] = {}
    bands: dict[tuple[int, bytes], list[int]] = {}
    common = common_shingles(train)
    signatures = np.zeros((len(train) + len(valid), HASHES), np.uint64)
    for side in (train, valid):
        for example in side:
            at = len(rows)
            rows.append(example)
            content = example.ids.tobytes()
            earlier, exact = seen.setdefault(content, at), True
            if earlier == at:
                signatures[at] = signature(example.ids, common)
                earlier, exact = nearest(at, signatures, bands), False
            if earlier < at:
                leak = side is valid and earlier < len(train)
                yield Pair(example.file, example.line, rows[earlier].file, rows[earlier].line, exact, leak)


def nearest(at: int, signatures: NDArray[np.uint64], bands: dict[tuple[int, bytes], list[int]]) -> int:
    """The first earlier row that is nearly the same; the row itself where there is none. Notes the row's bands."""
    candidates: set[int] = set()
    for band in range(0, HASHES, BAND):
        key = band, signatures[at, band : band + BAND].tobytes()
        others = bands.setdefault(key, [])
        candidates.update(others[:8])
        others.append(at)
    agree = (other for other in sorted(candidates) if np.mean(signatures[other] == signatures[at]) >= LIKE)
    return next(agree, at)


def signature(ids: NDArray[np.int32], common: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A row's MinHash: (time,) -> (HASHES,). Equal shares of it estimate equal shares of shingles, but for common ones."""
    own = np.setdiff1d(shingles(ids), common)
    mixed = (own if own.size else shingles(ids))[:, None] * MULTIPLIERS + OFFSETS
    return (mixed ^ (mixed >> np.uint64(32))).min(axis=0)


def common_shingles(examples: Sequence[Example]) -> NDArray[np.uint64]:
    """What many rows have in common: the chat template's words, and a system text that all rows begin with."""
    sample = [shingles(examples[at].ids) for at in range(0, len(examples), 1 + len(examples) // SAMPLE)]
    found, counts = np.unique(np.concatenate([*sample, np.zeros(0, np.uint64)]), return_counts=True)
    return found[counts > max(MANY, COMMON * len(sample))]


def shingles(ids: NDArray[np.int32]) -> NDArray[np.uint64]:
    """The different runs of GRAM tokens in a row, each as a hash."""
    padded = np.concatenate([np.full(max(0, GRAM - len(ids)), -1), ids]).astype(np.uint64)
    grams = np.zeros(len(padded) - GRAM + 1, np.uint64)
    for shift in range(GRAM):
        grams = (grams ^ padded[shift : shift + len(grams)]) * np.uint64(0x100000001B3)
    return np.unique(grams)


MULTIPLIERS: NDArray[np.uint64] = np.random.Philox(key=1).random_raw(HASHES) | np.uint64(1)
OFFSETS: NDArray[np.uint64] = np.random.Philox(key=2).random_raw(HASHES)
