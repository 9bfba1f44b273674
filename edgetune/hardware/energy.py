"""The energy that the machine takes, where it can be read without a password: RAPL's counters, or the battery's charge."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

POWERCAP = Path("/sys/class/powercap")
SUPPLIES = Path("/sys/class/power_supply")
JOULES_PER_MICROWATTHOUR = 3.6e-3


class Counter(NamedTuple):
    """What a source took since some moment, in joules, and where the count turns over; 0: it does not."""

    joules: float
    turn: float = 0.0


class EnergyMeter:
    """Adds up what the machine took since the first look. The counters turn over: it is to be asked every few minutes."""

    def __init__(self):
        self.before: dict[Path, Counter] = {}
        self.joules: float | None = None

    def __call__(self) -> float | None:
        """Joules since the first look, of the processors where those tell, else of the battery; None: nothing could be read."""
        now = package_counters() or battery_counters()
        if now:
            self.joules = (self.joules or 0.0) + sum(
                taken(self.before.get(source, count), count) for source, count in now.items()
            )
        self.before = now
        return self.joules


def taken(before: Counter, now: Counter) -> float:
    """Joules between two looks at a counter."""
    difference = now.joules - before.joules
    return max(0.0, difference if difference >= 0 else difference + now.turn)


def package_counters() -> dict[Path, Counter]:
    """What each processor took. Most systems let only root read it."""
    found: dict[Path, Counter] = {}
    for package in POWERCAP.glob("intel-rapl:[0-9]*"):
        if package.name.count(":") == 1:  # its cores and its memory are counted in it
            with suppress(OSError, ValueError):
                joules, turn = (int((package / name).read_text()) / 1e6 for name in ("energy_uj", "max_energy_range_uj"))
                found[package] = Counter(joules, turn)
    return found


def battery_counters() -> dict[Path, Counter]:
    """What was drawn from each battery that gives power now: a charge that falls. One that rises was charged, not used."""
    found: dict[Path, Counter] = {}
    for battery in SUPPLIES.glob("BAT*"):
        with suppress(OSError, ValueError):
            if (battery / "status").read_text().strip() == "Discharging":
                found[battery] = Counter(-stored(battery))
    return found


def stored(battery: Path) -> float:
    """Joules in a battery, which tells its energy, or its charge and voltage.

    Raises:
        OSError, ValueError: it does not.
    """
    with suppress(OSError):
        return int((battery / "energy_now").read_text()) * JOULES_PER_MICROWATTHOUR
    microamperehours, microvolts = (int((battery / name).read_text()) for name in ("charge_now", "voltage_now"))
    return microamperehours * microvolts * 1e-6 * JOULES_PER_MICROWATTHOUR
