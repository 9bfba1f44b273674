"""A run as the dashboard shows it: what it told, whether its process lives, what it was set to, what it wrote in its log."""

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from edgetune.config import RunConfig, load
from edgetune.errors import EdgeTuneError
from edgetune.events import RunFailed, RunFinished
from edgetune.locks import owner_of
from edgetune.workspace.run_state import RunState
from edgetune.workspace.runs import RUNNING

Phase = Literal["none", "starting", "training", "paused", "stopped", "finished", "failed", "interrupted"]
TAIL = 8192  # bytes of a log's end that are read
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
TROUBLE = re.compile(r"^error: (?P<message>.*)$(?:\n^hint: (?P<hint>.*)$)?", re.MULTILINE)


@dataclass(frozen=True)
class RunView:
    """Everything that one frame of the dashboard needs. Times are seconds of the wall clock."""

    name: str = ""
    state: RunState = field(default_factory=RunState)
    phase: Phase = "none"
    config: RunConfig | None = None
    log: str = ""  # the end of what the process wrote; read only before the first step and after a sudden end
    memory_bytes: int = 0  # of the process now; 0 where it is gone
    limit_bytes: int = 0  # that a process may have here
    swapped_bytes: int = 0
    wish: str = ""  # what the person has asked of the run that it has not done yet
    now: float = 0.0

    @property
    def total(self) -> int:
        """All steps; 0 before the run has said."""
        return self.state.total_steps

    @property
    def share(self) -> float:
        """How much of the run is done."""
        return self.state.step / self.total if self.total else 0.0

    @property
    def trouble(self) -> tuple[str, str]:
        """What went wrong, and what to do about it; empty where nothing did."""
        if isinstance(self.state.ended, RunFailed):
            return self.state.ended.message, self.state.ended.hint
        found = None
        for found in TROUBLE.finditer(self.log):  # noqa: B007 - the last one counts
            pass
        return (found["message"], found["hint"] or "") if found else ("", "")


def phase_of(state: RunState, alive: bool, exists: bool) -> Phase:
    """How a run stands. A process that is gone without a word has been interrupted; one that is at work on a run that had
    ended takes it up again."""
    if state.phase in RUNNING:
        if alive or not exists:
            return state.phase
        return "interrupted"
    resumes = alive and state.progress is not None and not isinstance(state.ended, RunFinished)
    return "starting" if resumes else state.phase


class RunReader:
    """Reads what the events of a run do not tell. The config is read once; the log only while nothing else speaks."""

    def __init__(self, run: Path, log: Path | None):
        self.run, self.log, self.began = run, log, time.monotonic()
        self.config: RunConfig | None = None

    def view(self, state: RunState, alive: bool, wish: str = "") -> RunView:
        """The run as it stands now."""
        from edgetune.hardware.limits import total_memory

        phase = self.phase(state, alive)
        silent = phase in ("starting", "interrupted") or (phase == "failed" and not isinstance(state.ended, RunFailed))
        return RunView(
            name=self.run.name,
            state=state,
            phase=phase,
            config=self.read_config(),
            log=self.tail() if silent else "",
            memory_bytes=self.memory() if alive else 0,
            limit_bytes=total_memory(),
            swapped_bytes=psutil.swap_memory().used,
            wish=wish,
            now=time.time(),
        )

    def phase(self, state: RunState, alive: bool) -> Phase:
        """How it stands. A new process needs a moment before it holds the run's lock."""
        if alive or state.phase not in RUNNING or state.starts:
            return phase_of(state, alive, exists=True)
        if TROUBLE.search(self.tail()):
            return "failed"
        fresh = self.waited < 60 and not (self.run / "events.jsonl").exists()
        return "starting" if fresh else "interrupted"

    def read_config(self) -> RunConfig | None:
        """The run's own config, once it is written."""
        if self.config is None:
            with suppress(EdgeTuneError):
                self.config = load(self.run / "run.toml")
        return self.config

    def tail(self) -> str:
        """The end of the log, without the sequences that drive a terminal."""
        if self.log is None:
            return ""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL))
                return ESCAPES.sub("", file.read(TAIL).decode(errors="replace"))
        except OSError:
            return ""

    @property
    def waited(self) -> float:
        """Seconds since it is looked at."""
        return time.monotonic() - self.began

    def process(self) -> int | None:
        """The number of the process that holds the run's lock."""
        owner = owner_of(self.run / "run.lock")
        return owner.pid if owner else None

    def memory(self) -> int:
        """What the process holds now."""
        try:
            return psutil.Process(self.process()).memory_info().rss if self.process() else 0
        except psutil.Error:
            return 0
