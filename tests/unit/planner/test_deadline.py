"""A run is cut to end in time; the clock may be changed in between."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from edgetune.architecture.spec import read_spec
from edgetune.config import ChecksConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.errors import ConfigError, Refused
from edgetune.planner.deadline import fit_into, seconds_until
from edgetune.planner.facts import Facts, Speed, shape_of
from edgetune.planner.plan import replan
from edgetune.planner.rows import grouped
from edgetune.planner.suggestions import planned, with_settings

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
CONFIG = RunConfig(
    model="m",
    data=DataConfig(train=["r"], max_tokens=2048, packing=False),
    training=TrainingConfig(epochs=3, batch=4, accumulate=1),
    checks=ChecksConfig(eval_every=0, save_every=100),
)


@pytest.fixture
def facts(tiny_model: Path) -> Facts:
    rows = grouped([(200, 150)] * 990 + [(2000, 1500)] * 4)
    speed = Speed(flops=1e9, bytes=1e9)
    return Facts(
        shape=shape_of(read_spec(tiny_model)), rows=rows, workers=2, usable_bytes=10**12, free_bytes=10**12, speed=speed
    )


@pytest.mark.parametrize(
    ("now", "text", "hours"),
    [
        ((2026, 6, 1, 23, 0), "07:00", 8),
        ((2026, 6, 1, 6, 30), "7:00", 0.5),
        ((2026, 6, 1, 7, 0), "07:00", 24),
        ((2026, 10, 24, 23, 0), "07:00", 9),  # the clock is put back in that night
        ((2026, 3, 28, 23, 0), "07:00", 7),  # and forward in this one
        ((2026, 10, 25, 2, 30), "02:45", 0.25),
        ((2026, 3, 29, 1, 30), "02:30", 1),  # which the clock does not show: it is 03:30 then
        ((2026, 6, 1, 23, 0), "+1h30m", 1.5),
        ((2026, 10, 24, 23, 0), "+8h", 8),
    ],
)
def test_the_seconds_that_really_pass_are_counted(now: tuple[int, ...], text: str, hours: float) -> None:
    moment = datetime(*now[:3], now[3], now[4], tzinfo=BERLIN).timestamp()
    assert seconds_until(text, moment, BERLIN) == hours * HOUR


def test_in_the_hour_that_comes_twice_a_moment_lies_ahead(zone: ZoneInfo = BERLIN) -> None:
    second = datetime(2026, 10, 25, 2, 50, tzinfo=zone, fold=0).timestamp()
    assert seconds_until("02:30", second, zone) == 40 * 60


@pytest.mark.parametrize("text", ["", "7", "25:00", "07:60", "+", "+0h", "tomorrow", "-8h"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no moment"):
        seconds_until(text, 0.0)


def test_a_run_that_ends_in_time_stays_as_it_is(facts: Facts) -> None:
    need = planned(facts, CONFIG).time.seconds
    found = fit_into(facts, CONFIG, 2 * need + 100, now=0.0)
    assert found.settings == {} and found.given_up == ()


@pytest.mark.parametrize("share", [0.95, 0.6, 0.3, 0.1])
def test_it_ends_in_time_and_says_what_it_gives_up(facts: Facts, share: float) -> None:
    need = planned(facts, CONFIG).time.seconds
    seconds = share * need + 10
    found = fit_into(facts, CONFIG, seconds, now=0.0)
    then = replan(facts, with_settings(CONFIG, found.settings))
    assert found.settings and found.given_up and then.fits
    assert 0.5 * seconds < then.time.seconds < 0.96 * seconds


def test_too_little_time_is_refused_with_what_it_takes(facts: Facts) -> None:
    with pytest.raises(Refused, match="is too little: 10 steps take") as caught:
        fit_into(facts, CONFIG, 1.0, now=0.0)
    assert caught.value.exit_code == 3 and "give it" in caught.value.hint


def test_planning_anew_is_quick_and_goes_through_json(facts: Facts) -> None:
    again = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    assert again == facts and replan(again, CONFIG) == replan(facts, CONFIG)
    assert (
        replan(again, with_settings(CONFIG, {"adapter.rank": 64})).memory.peak_bytes > replan(again, CONFIG).memory.peak_bytes
    )
