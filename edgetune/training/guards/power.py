"""Mains and battery: a run waits, saved, before the battery is empty."""

from collections.abc import Generator

from edgetune.config import NightConfig
from edgetune.events import Event, PowerChanged
from edgetune.hardware.machine import Power as Source
from edgetune.hardware.sensors import Sensors
from edgetune.training.guards.base import Guard, Interval
from edgetune.training.run import Run

LOOK = 2.0  # seconds
MARGIN = 5.0  # percent above the floor at which a run goes on that had to wait, should the battery be charged elsewhere


class Power(Guard):
    """Tells when the plug is pulled, and holds the run on a battery below the floor until power returns."""

    def __init__(self, sensors: Sensors, night: NightConfig):
        self.sensors, self.floor = sensors, night.battery_floor
        self.interval = Interval(sensors, LOOK)
        self.source: Source = "mains"
        self.reason = ""

    def look(self, run: Run) -> Generator[Event, None, str]:
        """The change, and the reason to wait: the charge."""
        if self.interval.has_passed():
            source, percent = self.sensors.power()
            if source in ("mains", "battery") and source != self.source:
                yield PowerChanged(step=run.step, source=source, percent=percent)
                self.source = source
            floor = self.floor + (MARGIN if self.reason else 0)
            is_low = source == "battery" and percent is not None and percent < floor
            self.reason = f"on battery, {percent:.0f} % left" if is_low else ""
        return self.reason
