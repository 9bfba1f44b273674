"""Steps and epochs: every row once in each, the same in every process, in whatever order they are asked for."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.config import DataConfig, RunConfig, TrainingConfig
from edgetune.training.order import StepOrder


def order(
    lengths: list[int], *, max_tokens: int = 40, packing: bool = False, shuffle: bool = True, **training: Any
) -> StepOrder:
    data = DataConfig(train=["x"], max_tokens=max_tokens, packing=packing, shuffle=shuffle)
    return StepOrder(lengths, RunConfig(model="m", data=data, training=TrainingConfig(**training)))


def rows_of(steps: list[Any]) -> Counter[int]:
    return Counter(row for step in steps for sequence in step for row in sequence)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), batch=st.integers(1, 5), accumulate=st.integers(1, 4),
    packing=st.booleans(), shuffle=st.booleans(), seed=st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_every_row_comes_once_in_each_epoch(
    lengths: list[int], batch: int, accumulate: int, packing: bool, shuffle: bool, seed: int
) -> None:
    one, other = (
        order(lengths, packing=packing, shuffle=shuffle, batch=batch, accumulate=accumulate, seed=seed, epochs=3.0) for _ in range(2)
    )  # fmt: skip
    steps = [one.step(step) for step in range(one.total)]
    ends = [one.start_of(epoch) for epoch in range(4)]
    assert ends[0] == 0 and ends[3] == one.total
    for start, stop in itertools.pairwise(ends):
        assert rows_of(steps[start:stop]) == Counter(range(len(lengths)))
        assert all(0 < len(step) <= batch * accumulate for step in steps[start:stop])
        assert all(len(step) > batch * (accumulate - 1) for step in steps[start : stop - 1])
    assert all(sum(lengths[row] for row in sequence) <= 40 for step in steps for sequence in step)
    assert [other.step(step) for step in reversed(range(other.total))] == steps[::-1]  # asked for the other way round


def test_each_epoch_and_each_seed_has_another_order_and_none_without_shuffling() -> None:
    lengths = [5] * 30
    shuffled = order(lengths, batch=2, accumulate=1, epochs=2.0)
    assert [shuffled.step(n) for n in range(15)] != [shuffled.step(n) for n in range(15, 30)]
    assert [shuffled.step(n) for n in range(15)] != [
        order(lengths, batch=2, accumulate=1, epochs=2.0, seed=8).step(n) for n in range(15)
    ]
    plain = order(lengths, batch=2, accumulate=1, epochs=2.0, shuffle=False)
    assert (
        [plain.step(n) for n in range(15)]
        == [plain.step(n) for n in range(15, 30)]
        == [[(2 * n,), (2 * n + 1,)] for n in range(15)]
    )


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(1.0, 10), (3.0, 30), (0.5, 5), (0.55, 6), (0.01, 1), (2.1, 21), (1.3, 13), (1.31, 14), (0.3, 3), (2.7, 27), (1e-12, 1)],
)
def test_a_part_of_an_epoch_is_rounded_up_and_nothing_more(epochs: float, steps: int) -> None:
    assert order([5] * 40, batch=2, accumulate=2, epochs=epochs).total == steps


def test_steps_decide_where_they_are_given() -> None:
    given_steps = order([5] * 40, batch=2, accumulate=2, steps=37, epochs=1.0)
    assert given_steps.total == 37
    assert rows_of([given_steps.step(step) for step in range(30)]) == Counter({row: 3 for row in range(40)})


def test_a_last_step_may_be_small_and_crosses_no_epoch() -> None:
    small = order([5] * 7, batch=2, accumulate=2, epochs=2.0, shuffle=False)
    assert small.total == 4 and [len(small.step(step)) for step in range(4)] == [4, 3, 4, 3]
    assert order([5], batch=8, accumulate=8, epochs=3.0).total == 3  # one row


def test_packing_takes_fewer_steps() -> None:
    lengths = [10] * 40
    packed = order(lengths, packing=True, batch=2, accumulate=1, epochs=1.0)
    assert packed.total == math.ceil(40 / 4 / 2) and all(len(sequence) == 4 for sequence in packed.step(0))
