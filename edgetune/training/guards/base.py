"""What all guards have in common."""

from collections.abc import Generator, Iterator

from edgetune.events import Event
from edgetune.hardware.sensors import Sensors
from edgetune.training.run import Run


class Guard:
    """Watches one thing while a run trains. What a kind of guard has no use for, it leaves as it is."""

    def begin(self, run: Run) -> Iterator[Event]:
        """What is to be said before the first step."""
        yield from ()

    def look(self, run: Run) -> Generator[Event, None, str]:
        """Tells what has changed since the last look; gives the reason why the run must wait, or an empty text.

        Called between two steps, and several times a second while the run waits.
        """
        yield from ()
        return ""

    def wait(self, waits: bool) -> None:
        """The run begins to wait, or goes on."""

    def end(self, run: Run) -> None:
        """The run is over, for whatever reason."""


class Interval:
    """Lets something happen now and then only: what costs more than a glance."""

    def __init__(self, sensors: Sensors, seconds: float):
        self.sensors, self.seconds = sensors, seconds
        self.last: float | None = None

    def has_passed(self) -> bool:
        """Whether it is time again; the first time always."""
        now = self.sensors.clock.times().worked
        if self.last is not None and now - self.last < self.seconds:
            return False
        self.last = now
        return True
