"""What watches over a run while nobody does: each guard looks at one thing, tells what it sees, and acts."""

from edgetune.config import NightConfig
from edgetune.hardware.sensors import Sensors
from edgetune.training.guards.awake import StayAwake
from edgetune.training.guards.base import Guard
from edgetune.training.guards.energy import Energy
from edgetune.training.guards.heat import Heat
from edgetune.training.guards.memory import Memory
from edgetune.training.guards.power import Power
from edgetune.training.guards.time import Time

__all__ = ["Guard", "guards_of"]


def guards_of(night: NightConfig, sensors: Sensors) -> list[Guard]:
    """Those that a config asks for. Time comes first: what happened in a sleep is told after it."""
    return [
        Time(sensors),
        *([StayAwake(sensors)] if night.keep_awake else []),
        Power(sensors, night),
        Heat(sensors, night),
        Memory(sensors, night),
        Energy(sensors),
    ]
