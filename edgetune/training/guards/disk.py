"""A disk that is full or fails: what must be kept waits for room, and a few bytes are held back to say so."""

import os
from contextlib import suppress
from pathlib import Path

from edgetune.errors import DiskFull
from edgetune.hardware.sensors import Sensors
from edgetune.units import size

RESERVE = 64_000  # bytes, enough for the events of a run that waits
NAME = ".reserve"


class Reserve:
    """A file of a run that holds its bytes until the disk is full; then they serve to write down that it is."""

    def __init__(self, folder: Path):
        self.file = folder / NAME

    def fill(self) -> None:
        """Takes the bytes, where there is room: random ones, which no file system packs."""
        with suppress(OSError):
            if not self.file.exists() or self.file.stat().st_size != RESERVE:
                self.file.write_bytes(os.urandom(RESERVE))

    def release(self) -> None:
        """Gives them back."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)


def require_room(sensors: Sensors, folder: Path, need: int) -> None:
    """Sees to it that something can be written, before a byte of it is.

    Raises:
        DiskFull: less is free; the message says how much of what.
    """
    free = sensors.free_space(folder)
    if free < need:
        raise DiskFull(f"needs {size(need)}, {size(free)} free", hint="free some disk space")
