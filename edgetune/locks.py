"""One process at a time: locks of the system, which die with their process and which no clock, copy or reused number misleads.

Where a file system has no locks (some network disks), who wrote its number, host and beginning into the file last holds it.
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from edgetune.files import clean, disk_errors

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
TRIES, PAUSE = 20, 0.05  # a look at a lock has it for an instant
SAME_BEGINNING = 2.0  # seconds within which two readings of a process's beginning may differ


class Held(Exception):
    """Another process has the lock; the text says which."""


class Owner(Struct, frozen=True):
    """Who took a lock last."""

    pid: int
    host: str
    started: float  # when it took the lock
    began: float = 0.0  # when its process began; a later process with its number began later

    @property
    def is_running(self) -> bool:
        """Whether that process still lives; of another machine's nothing is known, so that is taken for alive."""
        return self.host != socket.gethostname() or abs(beginning(self.pid) - self.began) < SAME_BEGINNING


@contextmanager
def only_holder(path: Path) -> Generator[None]:
    """Holds the lock of that file.

    Raises:
        Held: another process does.
        DiskFull, InputError: the file cannot be written.
    """
    with disk_errors(path), path.open("a+b") as file:
        locked = hold(file.fileno(), path)
        name_owner(path, os.getpid())
        try:
            yield
        finally:
            if not locked:
                file.truncate(0)


def name_owner(path: Path, pid: int) -> None:
    """Writes into the file whose lock it is: for people, and for file systems without locks.

    Raises:
        DiskFull, InputError: the file cannot be written.
    """
    owner = Owner(pid, socket.gethostname(), time.time(), beginning(pid))
    with disk_errors(path):
        path.write_bytes(msgspec.json.encode(owner))


def hold(descriptor: int, path: Path) -> bool:
    """Takes the lock of an open file; False where the file system has none, and nobody else says that it is theirs.

    Raises:
        Held: another process has it.
    """
    for trial in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if trial < TRIES - 1:
                time.sleep(PAUSE)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            if is_owned(path):
                break
            return False
    raise Held(told(path))


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of that file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in WITHOUT_LOCKS and is_owned(path)
    return False


def is_owned(path: Path) -> bool:
    """Whether the process lives that the file names, this one apart."""
    owner = owner_of(path)
    return owner is not None and owner.pid != os.getpid() and owner.is_running


def owner_of(path: Path) -> Owner | None:
    """Who took the lock last; None where the file does not say."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Owner)
    except (OSError, msgspec.MsgspecError):
        return None


def told(path: Path) -> str:
    """What the file says of its owner."""
    owner = owner_of(path)
    return f"process {owner.pid} on {clean(owner.host)}" if owner else "another process"


def beginning(pid: int) -> float:
    """When a process began, in seconds since 1970; 0 where there is none of that number."""
    import psutil  # here, not above: most commands never ask

    with suppress(psutil.Error, ValueError, OverflowError):
        return psutil.Process(pid).create_time()
    return 0.0
