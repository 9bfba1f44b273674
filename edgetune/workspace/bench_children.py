"""The processes that `bench` measures: our own `train`, as a person would start it, and mlx-lm's, step by step."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune import errors
from edgetune.errors import ChildFailed, EdgeTuneError, StoppedEarly
from edgetune.events import RunStarted, StepFinished, from_line

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.1
SILENCE_SECONDS = 600.0  # after which a process that shows no step is ended
LAST_WORDS = 300  # characters of what a process said last


@dataclass(frozen=True)
class Measured:
    """What one process showed: seconds of each step, the first included, the peak of its memory, and its backend."""

    seconds: tuple[float, ...]
    peak_bytes: int
    backend: str = ""


@dataclass(frozen=True)
class Watch:
    """Whoever waits: hears how many steps are done, and says whether to stop."""

    on_step: Callable[[int], None]
    should_stop: Callable[[], bool]


def measure_ours(config: Path, folder: Path, backend: str, watch: Watch) -> Measured:
    """Trains a config through our own command line; `folder` takes the run and all files.

    Raises:
        EdgeTuneError: as that process ended, in its words.
        ChildFailed: it died.
        StoppedEarly: asked to stop; the process is ended.
    """
    events, run = folder / "events.jsonl", folder / "run"
    arguments = ["train", str(config), "--run", str(run), "--json", "--events", str(events), "--backend", backend, "--offline"]
    seconds: list[float] = []
    used = ""
    with closing(lines_of(["-m", "edgetune", *arguments], events, folder, watch)) as lines:
        for line in lines:
            match from_line(line):
                case StepFinished() as step:
                    seconds.append(step.seconds)
                    watch.on_step(len(seconds))
                case RunStarted() as started:
                    used = started.backend
                case _:
                    pass
    document = document_of(folder / "stdout")
    return Measured(tuple(seconds), document["peak_bytes"], used)


def measure_mlx_lm(arguments: Sequence[str], folder: Path, watch: Watch) -> Measured:
    """Trains with mlx-lm's own command.

    Raises:
        ChildFailed: it did not come to its end, or reported nothing.
        StoppedEarly: asked to stop; the process is ended.
    """
    reports = folder / "reports.jsonl"
    steps: list[dict[str, Any]] = []
    command = ["-m", "edgetune.workspace.mlx_lm_child", str(reports), *arguments]
    with closing(lines_of(command, reports, folder, watch)) as lines:
        for line in lines:
            steps.append(json.loads(line))
            watch.on_step(len(steps))
    if not steps:
        raise ChildFailed("mlx-lm reported no step", hint="a version from 2024 or later is needed")
    return Measured(tuple(step["seconds"] for step in steps), max(step["peak_bytes"] for step in steps))


def lines_of(command: Sequence[str], file: Path, folder: Path, watch: Watch) -> Generator[bytes]:
    """The whole lines that a process of this interpreter writes to `file`, as they come. Its output goes to files in `folder`.

    It gets a session of its own, so that Ctrl-C in the terminal reaches only us, and it ends with us in any case.

    Raises:
        EdgeTuneError, ChildFailed, StoppedEarly: it failed, died, showed nothing for too long, or we were asked to stop.
    """
    folder.mkdir()
    file.touch()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err, file.open("rb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-P", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment(),
            cwd=folder,
            start_new_session=True,
            close_fds=False,  # the lock of the scratch folder goes with it; no other file of ours is inheritable
        )
        try:
            rest, heard = b"", time.monotonic()
            ended = False
            while not ended:
                ended = process.poll() is not None  # before reading: what it wrote last is read once more
                *whole, rest = (rest + lines.read()).split(b"\n")
                yield from whole
                heard = time.monotonic() if whole else heard
                if not ended:
                    refuse_to_wait(watch, time.monotonic() - heard)
                    time.sleep(POLL_SECONDS)
        finally:
            end(process)
    if process.returncode:
        raise failure(process.returncode, folder)


def refuse_to_wait(watch: Watch, silent: float) -> None:
    """Raises when there is no more reason to wait for a process that has shown nothing for that many seconds."""
    if watch.should_stop():
        raise StoppedEarly("stopped while it was measured")
    if silent > SILENCE_SECONDS:
        raise ChildFailed(f"showed no step in {SILENCE_SECONDS:.0f} seconds", hint="try a smaller shape")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started; nothing that it would save is wanted."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def environment() -> Mapping[str, str]:
    """A person's own environment, with this package in reach from every folder, and no network."""
    paths = [str(ROOT), *filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


# ---- how it ended --------------------------------------------------------------------------------------------------------


def failure(code: int, folder: Path) -> EdgeTuneError:
    """The error for a process that ended with that code: the one that it wrote, or what it said last."""
    told = document_of(folder / "stdout").get("error")
    if isinstance(told, dict):
        return error_of(told["kind"], told["message"], told["hint"])
    said = (folder / "stderr").read_text("utf-8", errors="replace").strip().splitlines()
    last = said[-1].strip()[:LAST_WORDS] if said else ""
    if code == -signal.SIGKILL:
        return ChildFailed(
            "was killed, most likely because memory ran out", hint="close other programs, or try a smaller shape"
        )
    sentence = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return ChildFailed(f"{sentence}: {last}" if last else sentence, hint="`edgetune doctor` tells what may be wrong here")


def error_of(kind: str, message: str, hint: str) -> EdgeTuneError:
    """The error that another process of ours told of, of its own kind where we know that."""
    for each in vars(errors).values():
        if isinstance(each, type) and issubclass(each, EdgeTuneError) and each("").kind == kind:
            return each(message, hint=hint)
    return EdgeTuneError(message, hint=hint)


def document_of(file: Path) -> dict[str, Any]:
    """The JSON document on a process's standard output; empty where it wrote none."""
    try:
        document = json.loads(file.read_bytes())
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
