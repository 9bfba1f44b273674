"""A machine of which tests decide what happens to it and when: its time passes only where the run works or waits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgetune.events import Event
from edgetune.hardware.clock import Times
from edgetune.hardware.machine import Power
from edgetune.hardware.sensors import Heat, Memory, Sensors
from edgetune.hardware.servers import Server

GB = 1_000_000_000


@dataclass
class FakeMachine:
    """Clock, power, heat, memory, disk: `at` says what changes at a moment of the night, in seconds of it."""

    worked: float = 0.0
    slept: float = 0.0
    held: float = 0.0
    wall: float = 1_800_000_000.0
    tick: float = 2.0  # seconds that pass whenever the run looks at the clock
    power: tuple[Power, float | None] = ("mains", 80.0)
    heat: Heat = field(default_factory=lambda: Heat(60.0))
    memory: Memory = field(default_factory=lambda: Memory(8 * GB, 16 * GB, 0))
    servers: list[Server] = field(default_factory=lambda: list[Server]())
    free: int = 100 * GB
    watts: float = 30.0
    method: str = "caffeinate"
    is_awake: bool = False
    holds: list[bool] = field(default_factory=lambda: list[bool]())
    rests: list[float] = field(default_factory=lambda: list[float]())
    plans: list[tuple[float, Callable[["FakeMachine"], None]]] = field(default_factory=lambda: list[Any]())

    def at(self, seconds: float, change: Callable[["FakeMachine"], None]) -> "FakeMachine":
        """Plans something."""
        self.plans.append((seconds, change))
        return self

    def set_at(self, seconds: float, **changes: Any) -> "FakeMachine":
        """Plans what is read from then on."""
        return self.at(seconds, lambda machine: [setattr(machine, name, value) for name, value in changes.items()] and None)

    def sleeps_at(self, seconds: float, length: float) -> "FakeMachine":
        """Plans a sleep of the machine: only the wall clock goes on."""
        return self.at(seconds, lambda machine: machine.lose(slept=length))

    def held_at(self, seconds: float, length: float) -> "FakeMachine":
        """Plans that the process is stopped for a while."""
        return self.at(seconds, lambda machine: machine.lose(held=length))

    def lose(self, slept: float = 0.0, held: float = 0.0) -> None:
        """Time passes in which nothing works."""
        self.slept, self.held, self.wall = self.slept + slept, self.held + held, self.wall + slept + held

    def passes(self, seconds: float) -> None:
        """Time passes in which the run works or waits; what was planned happens."""
        self.worked, self.wall = self.worked + seconds, self.wall + seconds
        due = [change for moment, change in self.plans if moment <= self.worked]
        self.plans = [plan for plan in self.plans if plan[0] > self.worked]
        for change in due:
            change(self)

    # ---- what the guards ask -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A clock."""

    def end(self) -> None:
        """A clock."""

    def times(self) -> Times:
        """Every look takes its time."""
        self.passes(self.tick)
        return Times(self.worked, self.slept, self.held, self.wall)

    def hold(self) -> str:
        """The machine stays awake."""
        self.is_awake = bool(self.method)
        self.holds.append(True)
        return self.method

    def release(self) -> None:
        """It may sleep."""
        self.is_awake = False
        self.holds.append(False)

    def sleep(self, seconds: float) -> None:
        """The run waits."""
        self.rests.append(seconds)
        self.passes(seconds)

    def sensors(self) -> Sensors:
        """What a run is given."""
        return Sensors(
            clock=self,
            awake=self,
            sleep=self.sleep,
            power=lambda: self.power,
            heat=lambda: self.heat,
            memory=lambda: self.memory,
            servers=lambda: self.servers,
            free_space=lambda path: self.free,
            energy=lambda: self.watts * self.worked,
            has_lid=True,
            may_sleep=True,
        )


class Killed(BaseException):
    """The process is gone: nothing that it would still do is done."""


def kind_of(events: list[Event], kind: type[Any]) -> list[Any]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]
