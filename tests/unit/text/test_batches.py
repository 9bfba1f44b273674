from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.text.batches import BatchOrder, split_valid, to_row
from edgetune.text.dataset import Example, Examples

lengths = st.lists(st.integers(1, 50), max_size=200)


def example(ids: list[int], trained: list[int], line: int = 1) -> Example:
    return Example(np.array(ids, np.int32), np.array(trained, np.bool_), "f", line)


def numbered(count: int) -> Examples:
    return Examples(example([at, at + 1], [0, 1], at) for at in range(count))


@given(
    sizes=lengths,
    batch=st.integers(1, 5),
    packing=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 9),
)
def test_every_row_once_an_epoch_and_no_sequence_too_long(
    sizes: list[int], batch: int, packing: bool, shuffle: bool, seed: int, epoch: int
) -> None:
    order = BatchOrder(sizes, batch=batch, max_tokens=50, packing=packing, shuffle=shuffle, seed=seed)
    micro_batches = order.epoch(epoch)
    sequences = [sequence for micro_batch in micro_batches for sequence in micro_batch]
    assert Counter(row for sequence in sequences for row in sequence) == Counter(range(len(sizes)))
    assert all(0 < sum(sizes[row] for row in sequence) <= 50 for sequence in sequences)
    assert all(1 <= len(micro_batch) <= batch for micro_batch in micro_batches)
    assert sum(len(micro_batch) < batch for micro_batch in micro_batches) <= 1
    if not packing:
        assert all(len(sequence) == 1 for sequence in sequences)
    assert (
        BatchOrder(sizes, batch=batch, max_tokens=50, packing=packing, shuffle=shuffle, seed=seed).epoch(epoch) == micro_batches
    )


def test_epochs_and_seeds_differ_and_file_order_stays() -> None:
    sizes = [5] * 100
    order = BatchOrder(sizes, batch=4, max_tokens=20, packing=True, shuffle=True, seed=7)
    other = BatchOrder(sizes, batch=4, max_tokens=20, packing=True, shuffle=True, seed=8)
    assert order.epoch(0) != order.epoch(1) and order.epoch(0) != other.epoch(0)
    for packing in (True, False):
        still = BatchOrder(sizes, batch=4, max_tokens=20, packing=packing, shuffle=False, seed=7)
        rows = [row for micro_batch in still.epoch(0) for sequence in micro_batch for row in sequence]
        assert rows == list(range(100)) and still.epoch(0) == still.epoch(3)


def test_the_order_never_changes_between_versions() -> None:
    """A run that is resumed with a newer EdgeTune, or a newer NumPy, must see the rows in the old order."""
    order = BatchOrder([3, 1, 4, 1, 5, 9, 2, 6], batch=2, max_tokens=10, packing=True, shuffle=True, seed=7)
    assert order.epoch(0) == [[(5, 1), (7, 2)], [(4, 0, 6), (3,)]]


def test_packing_leaves_few_holes_and_companies_change() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(10, 400, 2000).tolist()
    order = BatchOrder(sizes, batch=4, max_tokens=1024, packing=True, shuffle=True, seed=1)
    sequences = [sequence for micro_batch in order.epoch(0) for sequence in micro_batch]
    assert sum(sizes) / (1024 * len(sequences)) > 0.97
    mates = [{(a, b) for sequence in sequences for a in sequence for b in sequence if a < b}]
    mates.append({(a, b) for micro in order.epoch(1) for sequence in micro for a in sequence for b in sequence if a < b})
    assert len(mates[0] & mates[1]) < 0.1 * len(mates[0])


def test_sequences_of_a_micro_batch_have_like_lengths() -> None:
    sizes = np.random.default_rng(0).integers(10, 400, 2000).tolist()
    order = BatchOrder(sizes, batch=4, max_tokens=1024, packing=False, shuffle=True, seed=1)
    spreads = [max(found) - min(found) for micro in order.epoch(0) if (found := [sizes[row] for (row,) in micro])]
    assert np.mean(spreads) < 30 < np.std(sizes)


def test_a_row_that_is_too_long_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="a row of 9 tokens in sequences of 8"):
        BatchOrder([3, 9], batch=1, max_tokens=8, packing=True, shuffle=True, seed=1)


def test_to_row_never_crosses_rows() -> None:
    row = to_row([example([1, 2, 3], [0, 0, 1]), example([4], [0]), example([5, 6, 7], [0, 1, 1])])
    assert row.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7] and row.tokens.dtype == row.targets.dtype == np.int32
    assert row.targets.tolist() == [-1, 3, -1, -1, 6, 7, -1]
    assert row.spans == ((0, 3), (3, 4), (4, 7)) and row.trained_tokens == 3


def test_a_first_token_is_never_the_target_of_another_row() -> None:
    row = to_row([example([1, 2], [0, 1]), example([3, 4], [1, 1])])
    assert row.targets.tolist() == [2, -1, 4, -1]


@given(count=st.integers(0, 60), share=st.floats(0, 0.99), seed=st.integers(0, 2**63 - 1))
def test_a_split_loses_no_row_and_follows_from_the_seed(count: int, share: float, seed: int) -> None:
    rows = numbered(count)
    train, valid = split_valid(rows, share, seed)
    lines = [[one.line for one in side] for side in (train, valid)]
    assert sorted(lines[0] + lines[1]) == list(range(count)) and lines[0] == sorted(lines[0]) and lines[1] == sorted(lines[1])
    assert len(valid) == (min(max(1, round(share * count)), count - 1) if share > 0 and count > 1 else 0)
    again = split_valid(rows, share, seed)
    assert [[one.line for one in side] for side in again] == lines


def test_a_split_depends_on_the_rows_and_not_on_their_places() -> None:
    rows = numbered(100)
    _, valid = split_valid(rows, 0.2, 7)
    _, backwards = split_valid(rows[::-1], 0.2, 7)
    assert {one.line for one in valid} == {one.line for one in backwards}
    assert {one.line for one in valid} != {one.line for one in split_valid(rows, 0.2, 8)[1]}


@given(copies=st.lists(st.integers(1, 5), min_size=1, max_size=20), share=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_equal_rows_stay_together(copies: list[int], share: float, seed: int) -> None:
    rows = Examples(example([at, 1], [0, 1]) for at, times in enumerate(copies) for _ in range(times))
    train, valid = split_valid(rows, share, seed)
    sides = [{int(one.ids[0]) for one in side} for side in (train, valid)]
    assert not sides[0] & sides[1] and len(train) + len(valid) == sum(copies)
    assert len(train) > 0 and (len(valid) > 0) == (len(copies) > 1)
