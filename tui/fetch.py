"""A job of our own command line that goes on when the app is left: a download, followed through its events."""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgetune.events import Progress, Warned, from_line
from edgetune.files import disk_errors
from tui.child import ChildError, answer_of

SPAN = 10.0  # seconds that the rate is taken over
CHUNK = 1 << 18


class Fetch:
    """One download. `poll` reads what is new; `error` says what went wrong, once it is done."""

    def __init__(self, name: str, arguments: Sequence[str], place: Path):
        self.name, self.events, self.log = name, place / "download.jsonl", place / "download.log"
        self.progress: Progress | None = None
        self.warning = ""
        self.error: ChildError | None = None
        self.done = self.cancelled = False
        self.offset = 0
        self.seen: deque[tuple[float, float]] = deque()
        with disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            self.events.write_bytes(b"")
            with self.log.open("wb") as out:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "edgetune", *arguments, "--json", "--events", str(self.events)],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip

    def poll(self) -> None:
        """Reads the events since the last call, and looks whether the process lives."""
        ended = self.process.poll()
        with self.events.open("rb") as file:
            file.seek(self.offset)
            chunk = file.read(CHUNK)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            event = from_line(line)
            if isinstance(event, Progress):
                self.progress = event
                if not self.seen or event.time > self.seen[-1][0]:
                    self.seen.append((event.time, event.done))
            elif isinstance(event, Warned):
                self.warning = event.message
        while len(self.seen) > 2 and self.seen[-1][0] - self.seen[0][0] > SPAN:
            self.seen.popleft()
        if ended is not None and not self.done:
            self.done = True
            self.error = None if self.cancelled else error_of(self.log, ended)

    @property
    def share(self) -> float:
        """How much is done."""
        return self.progress.done / self.progress.total if self.progress and self.progress.total else 0.0

    @property
    def rate(self) -> float:
        """Bytes a second, lately."""
        if len(self.seen) < 2:
            return 0.0
        (start, first), (end, last) = self.seen[0], self.seen[-1]
        return max(last - first, 0.0) / max(end - start, 1e-6)

    @property
    def seconds_left(self) -> float | None:
        """Until the end at that rate."""
        if self.progress is None or not self.rate:
            return None
        return (self.progress.total - self.progress.done) / self.rate

    def cancel(self) -> None:
        """Ends it; what has come stays, and the next download goes on from there."""
        self.cancelled = True
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)


def error_of(log: Path, code: int) -> ChildError | None:
    """What the process says went wrong."""
    try:
        answer_of(log.read_bytes(), b"", code)
    except ChildError as error:
        return error
    except (OSError, json.JSONDecodeError):
        return None
    return None
