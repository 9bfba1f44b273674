"""What the machine took while a run trained."""

from collections.abc import Generator, Iterator

from edgetune.events import Event
from edgetune.hardware.sensors import Sensors
from edgetune.training.guards.base import Guard, Interval
from edgetune.training.run import Run

LOOK = 10.0  # seconds


class Energy(Guard):
    """Adds it to the run's state, where it can be read."""

    def __init__(self, sensors: Sensors):
        self.sensors = sensors
        self.interval = Interval(sensors, LOOK)
        self.counted = 0.0

    def begin(self, run: Run) -> Iterator[Event]:
        """From here on it counts."""
        self.counted = self.sensors.energy() or 0.0
        yield from ()

    def look(self, run: Run) -> Generator[Event, None, str]:
        """It says nothing on the way."""
        yield from ()
        if self.interval.has_passed():
            self.count(run)
        return ""

    def end(self, run: Run) -> None:
        """The last steps count, too."""
        self.count(run)

    def count(self, run: Run) -> None:
        """What was taken since the last time."""
        joules = self.sensors.energy()
        if joules is not None:
            run.note(energy_joules=(run.state.energy_joules or 0.0) + joules - self.counted)
            self.counted = joules
