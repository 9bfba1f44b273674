"""Jobs: our own command line as a child that outlives whoever started it, and that any process can list, follow and end.

A job's folder, EDGETUNE_HOME/jobs/ID, holds `job.json` (the record), `job.lock` (held by the child as long as it lives),
`events.jsonl` (what it tells, `JobEnded` at last), `result.json` (its document) and `log.txt` (its words, bounded).
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from edgetune.errors import EdgeTuneError, InputError, Refused
from edgetune.events import JobEnded, from_line
from edgetune.exits import explain_exit
from edgetune.files import clean, whole_file, write_file
from edgetune.locks import is_held

State = Literal["running", "done", "stopped", "failed", "cancelled", "killed"]
TAIL = 64 << 10  # bytes of a file's end that are read
RESULT = 64 << 20  # bytes of a document that are read
GRACE = 10.0  # seconds between the request to end and the end by force
GRACE_OF = {"train": 120.0, "resume": 120.0}  # these finish a step and save it
AN_INSTANT = 1.0
GONE = -signal.SIGKILL  # what is taken for the exit code of a child that went without a word
children: dict[str, "subprocess.Popen[bytes]"] = {}  # those that this process started, by their job's folder


class Record(Struct, frozen=True):
    """What a job is. `exit_code` is known early only where the process that started it saw it end."""

    id: str
    arguments: list[str]
    run: str  # the folder of the run that it trains; empty for others
    place: str  # the working folder
    pid: int
    began: float  # when its process began
    started: float  # seconds since 1970
    exit_code: int | None = None
    cancelled: float = 0.0  # when somebody asked it to end


class JobStatus(Struct, frozen=True):
    """How a job stands: when it is over, why, and what came of it."""

    state: State
    exit_code: int | None = None
    message: str = ""
    hint: str = ""
    kind: str = ""
    result: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())


class Job:
    """One job, as its folder tells of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.record = read_record(folder)

    @property
    def id(self) -> str:
        """Its name among the jobs."""
        return self.record.id

    @property
    def events(self) -> Path:
        """Where its events are; `follow.Follower` reads them."""
        return self.folder / "events.jsonl"

    @property
    def log(self) -> Path:
        """What it says, the end of it."""
        return self.folder / "log.txt"

    @property
    def run(self) -> Path | None:
        """The run that it trains."""
        return Path(self.record.run) if self.record.run else None

    @cached_property
    def command(self) -> str:
        """The first of its arguments that is no option."""
        return next((each for each in self.record.arguments if not each.startswith("-")), "")

    def is_running(self) -> bool:
        """Whether its process lives."""
        child = children.get(str(self.folder))
        if (child is None or child.poll() is None) and is_held(self.folder / "job.lock"):
            return True
        self.reap()
        return False

    def reap(self) -> None:
        """Takes note of the end of a child of this process: nobody else is told by which signal."""
        child = children.get(str(self.folder))
        if child is None:
            return
        with suppress(subprocess.TimeoutExpired):  # its files are closed an instant before it is no more
            child.wait(AN_INSTANT)
        if child.returncode is None:
            return
        del children[str(self.folder)]
        with suppress(EdgeTuneError, OSError):  # then it is told as the others know it
            self.keep(exit_code=child.returncode)

    def keep(self, **changes: Any) -> None:
        """Changes the record."""
        self.record = msgspec.structs.replace(read_record(self.folder), **changes)
        write_record(self.folder, self.record)

    def poll(self) -> JobStatus:
        """How it stands. One that was asked to end and has not is ended by force."""
        if self.is_running():
            self.insist()
            return JobStatus("running")
        with suppress(InputError):
            self.record = read_record(self.folder)
        ended = self.ended()
        result = self.document()
        if ended is None:
            return self.gone(result)
        state: State = {0: "done", 4: "stopped"}.get(ended.exit_code, "failed")  # pyright: ignore[reportAssignmentType]
        if ended.exit_code and self.record.cancelled:
            return JobStatus("cancelled", ended.exit_code, "cancelled", "start it again when you like", "cancelled", result)
        return JobStatus(state, ended.exit_code, ended.message, ended.hint, ended.kind, result)

    def gone(self, result: dict[str, Any]) -> JobStatus:
        """The status of a job whose process is no more and has told no end."""
        code = self.record.exit_code
        if wrong := result.get("error"):
            told = {name: str(wrong.get(name, "")) for name in ("message", "hint", "kind")} if isinstance(wrong, dict) else {}
            return JobStatus("failed", code, **told, result=result)
        if code == 0 or (code is None and result):  # the document is written at the very end
            return JobStatus("done", 0, result=result)
        code = code if code is not None else GONE
        if self.record.cancelled:
            return JobStatus("cancelled", code, "cancelled", "start it again when you like", "cancelled", result)
        message, hint = explain_exit(code)
        last = self.last_words() if code >= 0 else ""
        return JobStatus("killed" if code < 0 else "failed", code, last or message, hint, "killed" if code < 0 else "", result)

    def cancel(self) -> None:
        """Asks it to end, as Ctrl-C does; who polls it ends it by force after a while."""
        if self.is_running() and not self.record.cancelled:
            with suppress(EdgeTuneError):  # a full disk is no reason to go on
                self.keep(cancelled=time.time())
            self.send(signal.SIGTERM)

    def insist(self) -> None:
        """Ends by force a job that was asked to end long ago."""
        asked = self.record.cancelled
        if asked and abs(time.time() - asked) > GRACE_OF.get(self.command, GRACE):
            self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.record.pid, number)

    def ended(self) -> JobEnded | None:
        """Its last event, if that is its end."""
        lines = tail_of(self.events).splitlines()
        event = from_line(lines[-1]) if lines else None
        return event if isinstance(event, JobEnded) else None

    def document(self) -> dict[str, Any]:
        """What it wrote as its result; empty where there is none."""
        try:
            with (self.folder / "result.json").open("rb") as file:
                return msgspec.json.decode(file.read(RESULT), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError, RecursionError):
            return {}

    def last_words(self) -> str:
        """The last line of its log that says something."""
        lines = [line for line in tail_of(self.log).decode(errors="replace").splitlines() if line.strip()]
        return clean(lines[-1].strip()[:300]) if lines else ""

    def remove(self) -> None:
        """Forgets a job that is over.

        Raises:
            Refused: it is at work.
        """
        if self.is_running():
            raise Refused(f"job {self.id} is at work", hint="cancel it first")
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- its files ---------------------------------------------------------------------------------------------------------


def read_record(folder: Path) -> Record:
    """The record of a job.

    Raises:
        InputError: there is none, or none that can be read.
    """
    try:
        return msgspec.json.decode((folder / "job.json").read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError("no job here", file=folder, hint="`edgetune jobs` lists them") from error


def write_record(folder: Path, record: Record) -> None:
    """Keeps the record of a job.

    Raises:
        DiskFull, InputError: it cannot be written.
    """
    with whole_file(folder / "job.json", "job") as part:
        write_file(part, msgspec.json.encode(record), "job-content")


def tail_of(file: Path) -> bytes:
    """The last bytes of a file."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - TAIL))
            return opened.read(TAIL)
    except OSError:
        return b""
