"""A log that cannot fill the disk: when it is long, its beginning is forgotten."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

LOG_VARIABLE = "EDGETUNE_JOB_LOG"
LONGEST, KEPT = 1 << 20, 64 << 10  # bytes: when it is cut, and what is left of it


def bound_standard_error() -> None:
    """Keeps standard error short where it goes to the log of a job: what Python says passes here."""
    log = Path(os.environ.get(LOG_VARIABLE, ""))
    with suppress(OSError, ValueError):
        if log.name and os.path.samestat(os.fstat(sys.stderr.fileno()), log.stat()):
            sys.stderr = BoundedLog(sys.stderr, log)  # pyright: ignore[reportAttributeAccessIssue]


class BoundedLog:
    """Standard error, counted."""

    def __init__(self, stream: IO[str], log: Path):
        self.stream, self.log, self.size = stream, log, log.stat().st_size

    def write(self, text: str) -> int:
        """Writes, and cuts the file when it has become too long."""
        written = self.stream.write(text)
        self.size += len(text)
        if self.size > LONGEST:
            self.cut()
        return written

    def cut(self) -> None:
        """Leaves only the end of the file. It is open for appending, so what comes next stands behind it."""
        with suppress(OSError):
            self.stream.flush()
            with self.log.open("r+b") as file:
                file.seek(-min(KEPT, file.seek(0, os.SEEK_END)), os.SEEK_END)
                end = file.read()
                file.truncate(0)
                file.seek(0)
                file.write(end[end.find(b"\n") + 1 :])
                self.size = file.tell()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
