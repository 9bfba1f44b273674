"""Files that are whole or absent, names that stay inside their folder, and the faults that tests put in between.

Every durable file is written beside its place under a temporary name, flushed to the disk, renamed, and the folder is
flushed too. `EDGETUNE_FAULT="point:nth:action"` makes the nth passage of a named point fail (kill, enospc, eio, sleep):
the fault tests walk over all points.
"""

import errno
import hashlib
import os
import re
import shutil
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from edgetune.errors import DiskFull, InputError

CHUNK = 1 << 20
UNWRITABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EIO,
}
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
passages: dict[str, int] = {}


def fault(point: str) -> None:
    """A named place where a test can make the process die or the disk fail."""
    plan = os.environ.get("EDGETUNE_FAULT", "")
    if not plan:
        return
    wanted, nth, action = plan.split(":")
    passages[point] = passages.get(point, 0) + 1
    if wanted != point or passages[point] != int(nth):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "sleep":
        time.sleep(3600)
    else:
        raise OSError(getattr(errno, action.upper()), os.strerror(getattr(errno, action.upper())), point)


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turns the operating system's "no space left" into the error that a person is told.

    Raises:
        DiskFull: the disk, or the person's share of it, has no more room.
        InputError: the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"no room left while writing {path}", hint="free some disk space and try again") from error
        if error.errno in UNWRITABLE:
            raise InputError(f"cannot write {path}: {error.strerror}", hint="choose another place") from error
        raise


def flush(path: Path) -> None:
    """Makes a file or a folder durable: what was written survives a power cut.

    On macOS fsync leaves the data in the drive's cache; F_FULLFSYNC empties that too.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path, point: str = "file") -> Generator[Path]:
    """Gives a temporary name beside `path` to write to; it becomes `path` only if nothing fails.

    Raises:
        DiskFull: the disk has no more room; nothing is left behind.
        InputError: the place cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with disk_errors(path):
            fault(f"{point}-open")
            yield part
            fault(f"{point}-written")
            flush(part)
            fault(f"{point}-flushed")
            os.replace(part, path)
            fault(f"{point}-renamed")
            flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, point: str = "folder") -> Generator[Path]:
    """Gives a temporary folder beside `path` to fill; it becomes `path` only if nothing fails. An old one goes to trash.

    Raises:
        DiskFull: the disk has no more room; nothing is left behind.
        InputError: the place cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            fault(f"{point}-open")
            yield part
            fault(f"{point}-written")
            for file in sorted(part.rglob("*")):
                flush(file)
            flush(part)
            fault(f"{point}-flushed")
            if path.exists():
                discard(path, point)
            os.rename(part, path)
            fault(f"{point}-renamed")
            flush(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def discard(path: Path, point: str = "discard") -> None:
    """Removes a folder so that no reader ever sees half of it: it is renamed to trash first."""
    trash = path.with_name(f".trash-{path.name}-{time.monotonic_ns()}")
    os.rename(path, trash)
    fault(f"{point}-trashed")
    shutil.rmtree(trash, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what a killed process left: temporary and trashed files and folders of ours."""
    for left in [*folder.glob(".*.part"), *folder.glob(".trash-*")]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file in hexadecimal; `progress` is told the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()


def append_line(path: Path, line: bytes) -> None:
    """Adds one line to a file in a single write, so that readers never see half of one and writers never mix."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fault("append")
            os.write(descriptor, line.rstrip(b"\n") + b"\n")
        finally:
            os.close(descriptor)


def home() -> Path:
    """Where a person's runs, models and settings live: EDGETUNE_HOME, or the system's own place for them."""
    from platformdirs import user_data_path  # here, not above: most commands never ask

    chosen = os.environ.get("EDGETUNE_HOME")
    return Path(chosen).expanduser().absolute() if chosen else user_data_path("edgetune", appauthor=False)


def free_space(path: Path) -> int:
    """Free bytes on the disk that holds, or will hold, `path`."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_space(path: Path, need: int, hint: str = "free some space, or --out elsewhere") -> None:
    """Refuses a job whose output cannot fit.

    Raises:
        DiskFull: less than `need` bytes are free where `path` will lie.
    """
    from edgetune.units import size

    free = free_space(path.absolute())
    if free < need:
        raise DiskFull(f"needs {size(need)} of disk at {path}, {size(free)} free", hint=hint)


def safe_name(name: str) -> str:
    """A name from a person or a file that may become part of a path, normalised.

    Raises:
        InputError: it is not 1 to 64 of A-Z a-z 0-9 . _ -, starts with . or -, or is reserved by a system.
    """
    name = unicodedata.normalize("NFC", name)
    stem = name.split(".")[0].lower()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) or stem in RESERVED_NAMES:
        raise InputError(f"{clean(name)!r} cannot be a name", hint="use letters, digits, '.', '_' and '-', at most 64")
    return name


def safe_join(folder: Path, inside: str) -> Path:
    """A path from a file (a shard in an index, say) that must stay inside its folder.

    Raises:
        InputError: it is absolute, leaves the folder, or holds control characters.
    """
    pure = PurePosixPath(inside)
    bad = pure.is_absolute() or ".." in pure.parts or any(c in "\\:\n\t" for c in inside) or clean(inside) != inside
    if bad or not pure.parts:
        raise InputError(f"{clean(inside)!r} leaves its folder", file=folder, hint="this file is damaged or hostile")
    return folder.joinpath(*pure.parts)


def clean(text: str) -> str:
    """Text that is safe on a terminal: control and bidirectional characters are shown as escapes, new lines and tabs stay.

    So are the halves of surrogate pairs, which no terminal's encoding has.
    """
    return "".join(
        f"\\x{ord(c):02x}"
        if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0
        else f"\\u{ord(c):04x}"
        if c in BIDI or "\ud800" <= c <= "\udfff"
        else c
        for c in text
    )


BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
