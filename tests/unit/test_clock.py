"""The clock that stands still while the process does."""

import time

from hypothesis import given
from hypothesis import strategies as st

from edgetune.hardware.clock import AWAY, RunningClock


@given(st.lists(st.floats(0, 100)))
def test_24_only_long_absences_do_not_count(gaps: list[float]) -> None:
    at = 1000.0
    clock = RunningClock(lambda: at)
    begin, counted = clock(), 0.0
    for gap in gaps:
        at += gap
        counted += gap if gap <= AWAY else 0.0
        assert abs(clock() - begin - counted) < 1e-6
    assert abs(clock.away - sum(gap for gap in gaps if gap > AWAY)) < 1e-6


def test_a_step_that_is_long_because_it_computes_counts_whole() -> None:
    """Its thread looks while another one computes."""
    clock = RunningClock()
    with clock:
        begin = clock()
        stop = time.monotonic() + 2.5
        while time.monotonic() < stop:
            sum(range(10_000))
        assert clock() - begin > 2.4 and clock.away == 0
    assert not clock.thread.is_alive()
