"""Each guard alone: what it sees, when it speaks, and what every key of [night] does."""

from types import SimpleNamespace
from typing import Any

import pytest

from edgetune.config import NightConfig
from edgetune.events import Event, KeptAwake, MemoryShort, PowerChanged, Recovered, Throttled, Warned
from edgetune.hardware.sensors import Heat as HeatReading
from edgetune.hardware.servers import Server
from edgetune.training.guards import guards_of
from edgetune.training.guards.awake import StayAwake
from edgetune.training.guards.base import Guard
from edgetune.training.guards.heat import Heat
from edgetune.training.guards.memory import Memory
from edgetune.training.guards.power import Power
from tests.faults.fake_machine import GB, FakeMachine


class FakeRun:
    """As much of a run as guards look at. Each step does work at some pace."""

    def __init__(self, machine: FakeMachine):
        self.machine, self.step, self.pace, self.step_seconds, self.rested = machine, 0, 0.0, 0.0, 0.0
        self.saved_memory = 0

    def learn(self, seconds: float, work: float = 1.0) -> None:
        self.step, self.pace, self.step_seconds = self.step + 1, work / seconds, seconds
        self.machine.passes(seconds)

    def save_memory(self) -> bool:
        self.saved_memory += 1
        return self.saved_memory == 1


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine(tick=0.0)


def look(guard: Guard, run: Any) -> tuple[list[Event], str]:
    """What one look tells, and the reason to wait."""
    generator, told = guard.look(run), list[Event]()
    while True:
        try:
            told.append(next(generator))
        except StopIteration as end:
            return told, end.value


def steps(guard: Guard, run: FakeRun, count: int, seconds: float, work: float = 1.0) -> list[Event]:
    told: list[Event] = []
    for _ in range(count):
        run.learn(seconds, work)
        told += look(guard, run)[0]
    return told


# ---- heat --------------------------------------------------------------------------------------------------------------


def test_a_slower_pace_is_told_once_and_its_end_once(machine: FakeMachine) -> None:
    guard, run = Heat(machine.sensors(), NightConfig(rest=0.5)), FakeRun(machine)
    machine.heat = HeatReading(98.0)
    assert steps(guard, run, 30, 2.0) == []
    (throttled,) = steps(guard, run, 30, 4.0)
    assert isinstance(throttled, Throttled) and (throttled.percent, throttled.rest_share) == (50.0, 0.5)
    assert run.rested == sum(machine.rests) > 0 and set(machine.rests) == {2.0}
    (recovered,) = steps(guard, run, 30, 2.0)
    assert isinstance(recovered, Recovered) and recovered.rested_seconds == sum(machine.rests)
    assert steps(guard, run, 30, 2.0) == []


def test_longer_rows_are_no_slower_pace(machine: FakeMachine) -> None:
    """A step may take ten times as long, if it has ten times as much to do."""
    guard, run = Heat(machine.sensors(), NightConfig()), FakeRun(machine)
    told = [event for _ in range(20) for event in steps(guard, run, 2, 1.0) + steps(guard, run, 2, 10.0, work=10.0)]
    assert told == []


def test_one_slow_step_is_no_slower_pace(machine: FakeMachine) -> None:
    guard, run = Heat(machine.sensors(), NightConfig()), FakeRun(machine)
    assert steps(guard, run, 30, 2.0) + steps(guard, run, 1, 60.0) + steps(guard, run, 30, 2.0) == []


@pytest.mark.parametrize(
    ("heat", "rests"),
    [
        (HeatReading(50.0), False),
        (HeatReading(90.0), True),
        (HeatReading(None), True),
        (HeatReading(None, False), False),
        (HeatReading(None, True), True),
    ],
)
def test_a_machine_that_is_slow_and_cool_is_told_but_given_no_rest(
    heat: HeatReading, rests: bool, machine: FakeMachine
) -> None:
    """Another program that computes cannot be cooled down."""
    guard, run = Heat(machine.sensors(), NightConfig()), FakeRun(machine)
    machine.heat = heat
    (throttled,) = [*steps(guard, run, 30, 2.0), *steps(guard, run, 30, 4.0)]
    assert isinstance(throttled, Throttled) and bool(throttled.rest_share) is rests and bool(machine.rests) is rests


def test_max_celsius_makes_a_hot_machine_rest_though_it_is_not_slower(machine: FakeMachine) -> None:
    machine.heat = HeatReading(91.0)
    run = FakeRun(machine)
    assert steps(Heat(machine.sensors(), NightConfig()), run, 30, 2.0) == []
    guard = Heat(machine.sensors(), NightConfig(max_celsius=90.0))
    (throttled,) = steps(guard, run, 30, 2.0)
    assert isinstance(throttled, Throttled) and (throttled.percent, throttled.celsius) == (0.0, 91.0) and machine.rests
    machine.heat = HeatReading(86.0)
    assert steps(guard, run, 5, 2.0) == []  # a little cooler is not cool
    machine.heat = HeatReading(80.0)
    assert [type(event) for event in steps(guard, run, 5, 2.0)] == [Recovered]


def test_rest_0_is_no_rest(machine: FakeMachine) -> None:
    guard, run = Heat(machine.sensors(), NightConfig(rest=0.0)), FakeRun(machine)
    machine.heat = HeatReading(99.0)
    (throttled,) = [*steps(guard, run, 30, 2.0), *steps(guard, run, 30, 4.0)]
    assert isinstance(throttled, Throttled) and throttled.rest_share == 0 and machine.rests == []


# ---- power -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("power", "floor", "waits"),
    [
        (("battery", 19.9), 20, True),
        (("battery", 20.0), 20, False),
        (("battery", 1.0), 0, False),
        (("battery", 79.0), 80, True),
        (("mains", 1.0), 20, False),
        (("battery", None), 20, False),
        (("unknown", None), 20, False),
    ],
)
def test_battery_floor(power: Any, floor: int, waits: bool, machine: FakeMachine) -> None:
    machine.power = power
    told, reason = look(Power(machine.sensors(), NightConfig(battery_floor=floor)), FakeRun(machine))
    assert bool(reason) is waits
    assert [type(event) for event in told] == ([PowerChanged] if power[0] == "battery" else [])


def test_a_run_that_waits_for_power_is_not_started_by_a_percent_more(machine: FakeMachine) -> None:
    guard, run, reasons = Power(machine.sensors(), NightConfig()), FakeRun(machine), list[bool]()
    for percent in (19.0, 21.0, 24.0, 26.0, 21.0):
        machine.power = ("battery", percent)
        machine.passes(3.0)
        reasons.append(bool(look(guard, run)[1]))
    assert reasons == [True, True, True, False, False]


# ---- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "swapped", "short"),
    [(8, 0, False), (0.3, 0, True), (2, 0, False), (2, 1.0, True), (8, 4.0, False)],
)
def test_memory_is_short_where_none_is_left_or_more_and_more_is_swapped(
    available: float, swapped: float, short: bool, machine: FakeMachine
) -> None:
    guard, run = Memory(machine.sensors(), NightConfig()), FakeRun(machine)
    assert list(guard.begin(run)) == []  # pyright: ignore[reportArgumentType]
    machine.memory = machine.memory._replace(available=int(available * GB), swapped=int(swapped * GB))
    told, reason = look(guard, run)
    assert [type(event) for event in told] == ([MemoryShort] if short else []) and reason == ""
    assert run.saved_memory == int(short)
    machine.passes(60.0)
    assert look(guard, run)[0] == []  # once


def test_save_memory_off_is_a_warning_only(machine: FakeMachine) -> None:
    guard, run = Memory(machine.sensors(), NightConfig(save_memory=False)), FakeRun(machine)
    machine.memory = machine.memory._replace(available=1)
    ((event,), _) = look(guard, run)
    assert isinstance(event, MemoryShort) and not event.recomputes and run.saved_memory == 0


@pytest.mark.parametrize(("held", "told"), [(0.5, False), (1.0, True)])
def test_other_model_servers_are_named_before_the_first_step(held: float, told: bool, machine: FakeMachine) -> None:
    machine.servers = [Server("LM Studio", int(held * GB))]
    events = list(Memory(machine.sensors(), NightConfig()).begin(FakeRun(machine)))  # pyright: ignore[reportArgumentType]
    assert [event.message for event in events if isinstance(event, Warned)] == (
        ["other programs hold models in memory: LM Studio 1 GB"] if told else []
    )


# ---- awake -------------------------------------------------------------------------------------------------------------


def begin(machine: FakeMachine, **changes: bool) -> list[Event]:
    sensors = SimpleNamespace(**{**vars(machine.sensors()), **changes})
    return list(StayAwake(sensors).begin(FakeRun(machine)))  # type: ignore[arg-type]


def test_what_a_closed_lid_does_is_said_on_a_laptop_only(machine: FakeMachine) -> None:
    assert [event.has_lid for event in begin(machine) if isinstance(event, KeptAwake)] == [True]
    assert [event.has_lid for event in begin(machine, has_lid=False) if isinstance(event, KeptAwake)] == [False]


def test_where_nothing_keeps_a_machine_awake_that_is_said_unless_it_is_a_server(machine: FakeMachine) -> None:
    machine.method = ""
    assert [type(event) for event in begin(machine)] == [Warned] and begin(machine, may_sleep=False) == []


def test_keep_awake_off_leaves_the_machine_alone(machine: FakeMachine) -> None:
    kinds = [type(guard) for guard in guards_of(NightConfig(keep_awake=False), machine.sensors())]
    assert StayAwake not in kinds and StayAwake in map(type, guards_of(NightConfig(), machine.sensors()))
