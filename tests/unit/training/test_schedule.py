"""The rate of each step, against numbers made by hand."""

from typing import Any

import pytest

from edgetune.config import TrainingConfig
from edgetune.training.schedule import rate_at


def rates(total: int, **settings: Any) -> list[float]:
    config = TrainingConfig(rate=0.8, **settings)
    return [rate_at(step, total, config) for step in range(total)]


def test_constant() -> None:
    assert rates(3, schedule="constant", warmup=0.0) == [0.8, 0.8, 0.8]
    assert rates(5, schedule="constant", warmup=0.4) == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8])


def test_linear() -> None:
    assert rates(4, schedule="linear", warmup=0.0) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert rates(6, schedule="linear", warmup=1 / 3) == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2])


def test_cosine() -> None:
    assert rates(4, schedule="cosine", warmup=0.0) == pytest.approx([0.8, 0.8 * 0.8535534, 0.4, 0.8 * 0.1464466])
    assert rates(6, schedule="cosine", warmup=1 / 3)[:4] == pytest.approx([0.4, 0.8, 0.8, 0.8 * 0.8535534])


def test_a_warm_up_takes_its_share_and_at_least_one_step() -> None:
    assert rates(200, schedule="constant", warmup=0.03)[:7] == pytest.approx([0.8 * n / 6 for n in (1, 2, 3, 4, 5, 6, 6)])
    assert rates(5, schedule="constant", warmup=0.03)[0] == 0.8  # one step, which is at its top
    assert rates(10, schedule="linear", warmup=0.99) == pytest.approx([0.08 * n for n in range(1, 11)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("total", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 0.99])
def test_no_step_is_lost_and_none_goes_beyond_the_top(schedule: str, total: int, warmup: float) -> None:
    assert all(0 < rate <= 0.8 + 1e-12 for rate in rates(total, schedule=schedule, warmup=warmup))
