"""Files that are whole or absent, and names that stay inside their folder.

Every durable file is written beside its place under a temporary name, flushed to the disk, renamed, and the folder is
flushed too. All writing goes through here, so that every write, flush and rename has a name for the fault tests (faults.py).
"""

import errno
import glob
import hashlib
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

from edgetune.errors import DiskFull, InputError
from edgetune.faults import fault

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
        part = part_of(path)
    try:
        with disk_errors(path):
            fault(f"{point}-open")
            yield part
            fault(f"{point}-written")
            flush(part)
            move(part, path, point)
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
    with disk_errors(path):
        part = part_of(path)
    try:
        with disk_errors(path):
            part.mkdir()
            fault(f"{point}-open")
            yield part
            fault(f"{point}-written")
            for file in [*sorted(part.rglob("*")), part]:
                fault(f"{point}-flush")
                flush(file)
            if path.exists():
                discard(path, point)
            move(part, path, point)
            flush(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class Written(NamedTuple):
    """What a file holds: its size, and its SHA-256 in hexadecimal; empty where that was not asked for."""

    bytes: int
    sha256: str


class NewFile:
    """A file that is not there yet, written from its beginning: one of whole_folder's, or whole_file's part."""

    def __init__(self, path: Path, point: str, hashed: bool = False):
        self.point, self.size = point, 0
        self.digest = hashlib.sha256() if hashed else None
        self.file = path.open("xb")

    def write(self, data: bytes | memoryview) -> None:
        """Adds bytes. Each time is a passage of the point: a test can leave a file that is half there."""
        fault(self.point)
        self.file.write(data)
        self.size += memoryview(data).nbytes
        if self.digest:
            self.digest.update(data)

    @property
    def written(self) -> Written:
        """What was written so far."""
        return Written(self.size, self.digest.hexdigest() if self.digest else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def write_file(path: Path, content: str | bytes, point: str) -> None:
    """Writes a small file of a folder that whole_folder gives, or whole_file's part."""
    fault(point)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def copy_file(source: Path, path: Path, point: str) -> None:
    """Copies a file to such a place."""
    fault(point)
    shutil.copyfile(source, path)


def move(part: Path, path: Path, point: str) -> None:
    """Gives a file or folder that is whole and flushed its own name. The caller flushes the folder around it."""
    fault(f"{point}-flushed")
    os.replace(part, path)
    fault(f"{point}-renamed")


def discard(path: Path, point: str = "discard") -> None:
    """Removes a folder so that no reader ever sees half of it: it is renamed to trash first."""
    trash = path.with_name(f".trash-{path.name}-{time.monotonic_ns()}")
    os.rename(path, trash)
    fault(f"{point}-trashed")
    shutil.rmtree(trash, ignore_errors=True)


def part_of(path: Path) -> Path:
    """The temporary name beside `path`, in a folder that is there; what dead processes left of the same file is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        number = left.name.split(".")[-2]
        if number.isdigit() and not is_running(int(number)):
            remove(left)
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def is_running(process: int) -> bool:
    """Whether another process has that number now: one that has ours is no more."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return process != os.getpid()


def remove(left: Path) -> None:
    """Removes a file or a folder, as far as that can be done."""
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with suppress(OSError):
            left.unlink()


def sweep(folder: Path) -> None:
    """Removes what a killed process left: temporary and trashed files and folders of ours."""
    for left in [*folder.glob(".*.part"), *folder.glob(".trash-*")]:
        remove(left)


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file in hexadecimal; `progress` is told the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()


def append_line(path: Path, line: bytes, point: str = "append") -> None:
    """Adds one line to a file in a single write, so that readers never see half of one and writers never mix.

    A full disk may take half of it: the next line begins on a line of its own.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            whole = (b"\n" if torn else b"") + line.rstrip(b"\n") + b"\n"
            fault(point)
            if os.write(descriptor, whole) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
