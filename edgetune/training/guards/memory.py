"""Memory that runs short while a run trains, and the other programs that hold it."""

from collections.abc import Generator, Iterator

from edgetune.config import NightConfig
from edgetune.events import Event, MemoryShort, Warned
from edgetune.hardware.sensors import Memory as Reading
from edgetune.hardware.sensors import Sensors
from edgetune.hardware.servers import Server
from edgetune.training.guards.base import Guard, Interval
from edgetune.training.run import Run
from edgetune.units import size

LOOK = 5.0  # seconds
SHORT = 0.03  # of all memory: less is left than the reserve that a plan leaves to the system
SWAPPED = 0.05  # of all memory, moved to the disk since the run began, while less than SCARCE is left
SCARCE = 0.15
WORTH_NAMING = 0.05  # of all memory, held by other programs' models


class Memory(Guard):
    """Names other model servers, warns of pressure, and has activations made again instead of kept: the same numbers."""

    def __init__(self, sensors: Sensors, night: NightConfig):
        self.sensors, self.saves = sensors, night.save_memory
        self.interval = Interval(sensors, LOOK)
        self.swapped = 0
        self.is_short = False

    def begin(self, run: Run) -> Iterator[Event]:
        """Other programs that hold models, where that is much."""
        reading, servers = self.sensors.memory(), self.sensors.servers()
        self.swapped = reading.swapped
        if sum(server.memory_bytes for server in servers) >= WORTH_NAMING * reading.total:
            yield Warned(
                message=f"other programs hold models in memory: {', '.join(map(named, servers))}",
                hint="let them go (`ollama stop`, eject the model) before memory runs short",
            )

    def look(self, run: Run) -> Generator[Event, None, str]:
        """Told once each time that it becomes short. It is never a reason to wait: that would free nothing."""
        if self.interval.has_passed():
            reading = self.sensors.memory()
            was_short = self.is_short
            self.is_short = self.is_under_pressure(reading) or (was_short and reading.available < SCARCE * reading.total)
            if self.is_short and not was_short:
                yield MemoryShort(
                    step=run.step,
                    available_bytes=reading.available,
                    swapped_bytes=max(0, reading.swapped - self.swapped),
                    recomputes=self.saves and run.save_memory(),
                    servers=[named(server) for server in self.sensors.servers()],
                )
        return ""

    def is_under_pressure(self, reading: Reading) -> bool:
        """Whether hardly any is left, or little and more and more of it on the disk."""
        left = reading.available / reading.total
        return left < SHORT or (left < SCARCE and reading.swapped - self.swapped > SWAPPED * reading.total)


def named(server: Server) -> str:
    """A program with what it holds."""
    return f"{server.name} {size(server.memory_bytes)}"
