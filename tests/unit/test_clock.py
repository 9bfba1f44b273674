"""The clock that stands still while the machine sleeps, or the process is held."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.hardware import clock as module
from edgetune.hardware.clock import HELD, PULSE, SystemClock


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans())))
def test_24_only_long_absences_in_which_nothing_was_computed_do_not_count(gaps: list[tuple[float, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now, busy, held = [1000.0], [0.0], 0.0
        patch.setattr(module.time, "monotonic", lambda: now[0])
        patch.setattr(module.time, "process_time", lambda: busy[0])
        patch.setattr(SystemClock, "pulse", lambda self: None)
        clock = SystemClock()
        clock.begin()
        begin = clock.times()
        for gap, is_busy in gaps:
            now[0] += gap
            busy[0] += 0.5 * gap if is_busy else 0.0
            held += gap - PULSE if gap > HELD and not is_busy else 0.0
            times = clock.times()
            assert times.held == pytest.approx(held) and times.worked - begin.worked == pytest.approx(now[0] - 1000.0 - held)
        clock.end()


def test_a_step_that_is_long_because_it_computes_counts_whole() -> None:
    """The pulse beats while another thread computes."""
    clock = SystemClock()
    clock.begin()
    before, stop = clock.times(), time.monotonic() + 1.0
    while time.monotonic() < stop:
        sum(range(10_000))
    after = clock.times()
    assert after.held == 0 and after.worked - before.worked > 0.9 and abs(after.wall - time.time()) < 1
    thread = clock.thread
    clock.end()
    assert thread is not None and not thread.is_alive()


def test_a_long_silence_without_a_pulse_is_no_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a run begins nothing beats."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    clock = SystemClock()
    now[0] = 500.0
    assert clock.times().held == 0 and clock.times().worked == 500.0
