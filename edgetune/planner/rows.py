"""What a config makes of rows: which stay, in how many sequences and steps, and how long those are.

All from the numbers of rows of each length. Counts are exact where every row is a sequence of its own; packed rows are laid
together as text/batches.py does it, a window of them in the place of all.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgetune.config import RunConfig
from edgetune.planner.facts import Facts, RowGroup

SAMPLE = 1500  # rows that are packed for a count


@dataclass(frozen=True)
class Work:
    """What goes through the model in one pass over the rows, how many steps that makes, and how many the run has."""

    tokens: float
    trained_tokens: float
    sequences: float
    spans: Sequence[tuple[int, float]]  # lengths of the rows, which attention does not leave, and how many there are
    lengths: Sequence[tuple[int, float]]  # of the sequences, and how many there are
    steps_per_pass: float
    total_steps: int
    valid_tokens: int = 0


def work_of(facts: Facts, config: RunConfig) -> Work:
    """What goes through the model in a run of this config."""
    rows, training = fitted(facts.rows, config), config.training
    tokens, trained = sum(group.tokens * group.rows for group in rows), sum(group.trained for group in rows)
    lengths = sequences_of(rows, config)
    sequences = round(sum(number for _, number in lengths))
    steps = max(1, math.ceil(math.ceil(sequences / training.batch) / training.accumulate))
    exact = facts.counted
    if exact and exact.settings == settings_of(config):
        tokens, trained, sequences, steps = exact.tokens, exact.trained, exact.sequences, exact.steps
    return Work(
        tokens=tokens,
        trained_tokens=trained,
        sequences=sequences,
        spans=[(group.tokens, group.rows) for group in rows],
        lengths=lengths,
        steps_per_pass=steps,
        total_steps=training.steps or steps_of_epochs(steps, training.epochs),
        valid_tokens=sum(group.tokens * group.rows for group in fitted(facts.valid, config)),
    )


def steps_of_epochs(steps: int, epochs: float) -> int:
    """How many steps that many passes take; a part of a pass is rounded up."""
    whole = math.floor(epochs)
    return max(1, whole * steps + math.ceil(round((epochs - whole) * steps, 6)))


def settings_of(config: RunConfig) -> tuple[str, ...]:
    """What of a config decides how many sequences and steps a pass is."""
    data, training = config.data, config.training
    parts = data.max_tokens, data.long_rows, data.packing, data.shuffle, training.batch, training.accumulate, training.seed
    return tuple(str(part) for part in parts)


def grouped(lengths: Iterable[tuple[int, int]]) -> tuple[RowGroup, ...]:
    """(tokens, trained tokens) of rows, those of one length together, the shortest first."""
    found: dict[int, list[int]] = {}
    for tokens, trained in lengths:
        group = found.setdefault(tokens, [0, 0])
        group[0] += 1
        group[1] += trained
    return tuple(RowGroup(tokens, *found[tokens]) for tokens in sorted(found))


def fitted(rows: Sequence[RowGroup], config: RunConfig) -> tuple[RowGroup, ...]:
    """The rows in at most data.max_tokens tokens: longer ones are left out, cut or split."""
    found: dict[int, list[int]] = {}
    for group in rows:
        for piece in kept_of(group, config):
            known = found.setdefault(piece.tokens, [0, 0])
            known[0] += piece.rows
            known[1] += piece.trained
    return tuple(RowGroup(tokens, *found[tokens]) for tokens in sorted(found))


def kept_of(group: RowGroup, config: RunConfig) -> list[RowGroup]:
    """What is left of rows. Pieces overlap by a token; what is trained is taken to be spread evenly."""
    most, fate = config.data.max_tokens, config.data.long_rows
    if group.tokens <= most or fate == "drop":
        return [group] if group.tokens <= most else []
    starts = range(0, group.tokens - 1, most - 1) if fate == "split" else range(1)
    lengths = [min(most, group.tokens - start) for start in starts]
    return [RowGroup(tokens, group.rows, round(group.trained * tokens / group.tokens)) for tokens in lengths]


def kept_share(rows: Sequence[RowGroup], config: RunConfig) -> float:
    """The share of all tokens that is left of the rows."""
    whole = sum(group.tokens * group.rows for group in rows)
    return sum(group.tokens * group.rows for group in fitted(rows, config)) / max(1, whole)


def longest_sequences(rows: Sequence[RowGroup], config: RunConfig, count: int) -> list[int]:
    """Tokens of the longest sequences, at most that many; packed ones are filled up to data.max_tokens."""
    if not config.data.packing:
        longest: list[int] = []
        for group in reversed(rows):
            longest += [group.tokens] * min(group.rows, count - len(longest))
        return longest
    tokens, most = sum(group.tokens * group.rows for group in rows), config.data.max_tokens
    return [min(most, tokens - start) for start in range(0, min(tokens, count * most), most)]


def sequences_of(rows: Sequence[RowGroup], config: RunConfig) -> list[tuple[int, float]]:
    """(tokens, how many) of the sequences of one pass."""
    if not config.data.packing:
        return [(group.tokens, group.rows) for group in rows]
    total = sum(group.rows for group in rows)
    spread = [group.tokens for group in rows for _ in range(group.rows)] if total <= SAMPLE else sampled(rows, total)
    found: dict[int, float] = {}
    for length in packed(spread, config.data.max_tokens):
        found[length] = found.get(length, 0) + total / len(spread)
    return sorted(found.items())


def sampled(rows: Sequence[RowGroup], total: int) -> list[int]:
    """The lengths of as many rows as are packed for a count, evenly spread over all."""
    lengths: list[int] = []
    seen = 0
    for group in rows:
        seen += group.rows
        lengths += [group.tokens] * (seen * SAMPLE // total - len(lengths))
    return lengths


def packed(lengths: Sequence[int], most: int) -> list[int]:
    """Tokens of the sequences that rows of these lengths, the shortest first, fill: best-fit decreasing."""
    used: list[int] = []
    room: list[tuple[int, int]] = []  # free tokens and sequence, least free first
    for length in reversed(lengths):
        at = bisect_left(room, (length, -1))
        if at < len(room):
            free, sequence = room.pop(at)
        else:
            free, sequence = most, len(used)
            used.append(0)
        used[sequence] += length
        insort(room, (free - length, sequence))
    return used
