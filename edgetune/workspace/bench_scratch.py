"""The place where `bench` and `selftest` write: one of each at a time, and nothing of it stays."""

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from edgetune.errors import Refused
from edgetune.files import disk_errors, home, sweep


@contextmanager
def scratch(work: str = "bench") -> Generator[Path]:
    """An empty folder that is gone afterwards; what a killed one left is removed first.

    The lock is inherited by the processes that are started: while one of them lives, no other work of the kind begins.

    Raises:
        Refused: another one is at work.
        InputError, DiskFull: the place cannot be written.
    """
    place = home() / work
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / "lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another {work} is at work here", hint="wait for its end: two would disturb each other") from None
        os.set_inheritable(lock.fileno(), True)
        sweep(place)
        folder = place / f".{os.getpid()}.part"
        try:
            with disk_errors(folder):
                folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
