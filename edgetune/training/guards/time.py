"""Sleep, held processes and clocks that are set: told, so that nobody wonders where the time went."""

from collections.abc import Generator, Iterator

from edgetune.events import ClockChanged, Event, Slept
from edgetune.hardware.sensors import Sensors
from edgetune.training.guards.base import Guard
from edgetune.training.run import Run

SLEPT = 5.0  # seconds of sleep that are worth a line
SET = 30.0  # seconds that no clock goes wrong by itself between two steps


class Time(Guard):
    """Compares the clocks between two looks. A run takes the time of its steps from those that stand still meanwhile."""

    def __init__(self, sensors: Sensors):
        self.clock = sensors.clock
        self.last = self.clock.times()

    def begin(self, run: Run) -> Iterator[Event]:
        """What was before the first step does not count."""
        self.clock.begin()
        self.last = self.clock.times()
        yield from ()

    def look(self, run: Run) -> Generator[Event, None, str]:
        """Sleep, being held, and a clock that was set. None of them is a reason to wait."""
        now, last = self.clock.times(), self.last
        self.last = now
        asleep, held = now.asleep - last.asleep, now.held - last.held
        if asleep > SLEPT:
            yield Slept(step=run.step, seconds=asleep)
        if held > 0:
            yield Slept(step=run.step, seconds=held, kind="held")
        changed = now.wall - last.wall - (now.worked - last.worked) - asleep - held
        if abs(changed) > SET:
            yield ClockChanged(step=run.step, seconds=changed)
        return ""

    def end(self, run: Run) -> None:
        """Nothing is watched any more."""
        self.clock.end()
