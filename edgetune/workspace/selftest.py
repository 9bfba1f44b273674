"""The proof, on this machine, that a run outlives what kills it: it is killed at random moments, and must end the same.

One run is left in peace. Its events tell how its life passes: the start of its process, then every step with all that lies
between two. Moments are drawn uniformly from that life. Each kill comes where the drawn moment lies, told by the events of
the process that is to be killed: so a machine that is slower than a minute ago moves the kill, but no run fails to get on.
"""

import hashlib
import random
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgetune.config import AdapterConfig, ChecksConfig, DataConfig, RunConfig, TrainingConfig, to_toml
from edgetune.errors import EdgeTuneError, ModelError, StoppedEarly
from edgetune.events import Event, Progress, RunStarted, StepFinished, from_line
from edgetune.files import disk_errors, require_space, write_file
from edgetune.hub.catalog import starter
from edgetune.workspace.bench_children import end, environment, failure
from edgetune.workspace.bench_scratch import scratch

POLL_SECONDS = 0.002  # a kill is late by no more than this
KILLS_PER_RUN = 10  # a run that is killed more often is only its own start, over and over
ROOM = 300_000_000  # bytes: checkpoints of a few runs
STEPS = 24


@dataclass(frozen=True)
class Proof:
    """What came of it. `lost`: runs that did not go on; `different`: runs that ended elsewhere."""

    kills: int
    runs: int
    steps: int
    lost: int
    different: int
    seconds: float
    reasons: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether every run ended where the one in peace ended."""
        return not self.lost and not self.different


class Moment(NamedTuple):
    """When to kill: so many seconds after that many steps are done; None: after the process has started."""

    steps: int | None
    seconds: float


class Life(NamedTuple):
    """When, in seconds since its process started, an undisturbed run began to train, ended each step, and was gone."""

    marks: tuple[float, ...]

    def moments(self, count: int, chance: random.Random) -> list[Moment]:
        """Uniform over the whole life, in the order in which one run can meet them: it only goes on.

        Those before the first step can come after any other: every process starts.
        """
        drawn = sorted(chance.uniform(0, self.marks[-1]) for _ in range(count))
        slots = [bisect_right(self.marks, moment) - 1 for moment in drawn]
        order = [Moment(slot, moment - self.marks[slot]) for slot, moment in zip(slots, drawn, strict=True) if slot >= 0]
        for moment, slot in zip(drawn, slots, strict=True):
            if slot < 0:
                order.insert(chance.randint(0, len(order)), Moment(None, moment))
        return order


class ResumeTest:
    """Runs of one config, in a folder that is thrown away."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        on_event: Callable[[Event], None],
        should_stop: Callable[[], bool],
        backend: str = "auto",
    ):
        self.folder, self.on_event, self.should_stop, self.backend = folder, on_event, should_stop, backend
        self.steps = config.training.steps
        self.config = folder / "config.toml"
        with disk_errors(self.config):
            write_file(self.config, to_toml(config), "selftest")

    def prove(self, kills: int, seed: int) -> Proof:
        """Kills that often, in as many runs as that takes.

        Raises:
            EdgeTuneError: not even the undisturbed run came to its end.
            StoppedEarly: asked to stop; everything is ended and removed.
        """
        began, chance = time.monotonic(), random.Random(seed)
        life, expected = self.undisturbed()
        done = runs = different = 0
        reasons: list[str] = []
        while done < kills:
            runs += 1
            run = self.folder / f"run{runs}"
            try:
                for moment in life.moments(min(KILLS_PER_RUN, kills - done), chance):
                    self.tell("killing and resuming", done, kills, "kills")
                    if not self.killed_at(run, moment):
                        break  # it was done before the moment came: the next run meets the rest
                    done += 1
                self.to_its_end(run)
            except StoppedEarly:
                raise
            except EdgeTuneError as error:
                reasons.append(error.message)
                break
            different += digest(run) != expected
        self.tell("killing and resuming", done, done, "kills")
        return Proof(done, runs, self.steps, len(reasons), different, time.monotonic() - began, tuple(reasons))

    def tell(self, stage: str, done: int, total: int, unit: str) -> None:
        """How far it is."""
        self.on_event(Progress(stage=stage, done=done, total=total, unit=unit))

    def undisturbed(self) -> tuple[Life, str]:
        """The run in peace: when it did what, and a hash of what it hands over."""
        run, marks = self.folder / "undisturbed", list[float]()
        self.tell("training undisturbed", 0, self.steps, "steps")
        with self.child(run) as process:
            for steps, seconds in self.marks(process, run):
                marks.append(seconds)
                self.tell("training undisturbed", steps, self.steps, "steps")
        return Life(tuple(marks)), digest(run)

    def to_its_end(self, run: Path) -> None:
        """Trains or resumes without a kill.

        Raises:
            EdgeTuneError: it did not come to its end.
        """
        with self.child(run) as process:
            for _ in self.marks(process, run):
                pass

    def killed_at(self, run: Path, moment: Moment) -> bool:
        """Trains or resumes up to that moment; False: it was done before.

        Raises:
            EdgeTuneError: it failed before we came.
        """
        with self.child(run) as process:
            started = time.monotonic()
            if moment.steps is not None:
                reached = next((True for steps, _ in self.marks(process, run) if steps >= moment.steps), False)
                if not reached:
                    return False
                started = time.monotonic()
            while process.poll() is None and time.monotonic() - started < moment.seconds:
                self.refuse_to_wait()
                time.sleep(POLL_SECONDS)
            process.kill()
            if process.wait() > 0:
                raise failure(process.returncode, run.with_suffix(".said"))
            return process.returncode < 0

    @contextmanager
    def child(self, run: Path) -> Generator["subprocess.Popen[bytes]"]:
        """Our own command line on that run, as a person would start it: `train`, or `resume` where it has begun."""
        begun = (run / "run.toml").exists()
        arguments = ["resume", str(run)] if begun else ["train", str(self.config), "--run", str(run)]
        said = run.with_suffix(".said")
        said.mkdir(exist_ok=True)
        with (said / "stdout").open("wb") as out, (said / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgetune", *arguments, "--json", "--backend", self.backend, "--offline"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(),
                cwd=self.folder,
                start_new_session=True,
                close_fds=False,  # the lock of the scratch folder goes with it
            )
            try:
                yield process
            finally:
                end(process)

    def marks(self, process: "subprocess.Popen[bytes]", run: Path) -> Iterator[tuple[int, float]]:
        """(steps done, seconds since the start) when this process begins to train, after each step, and when it is gone.

        Raises:
            EdgeTuneError: as it ended, in its words, where it did not end well.
        """
        started, steps, rest = time.monotonic(), 0, b""
        file = run / "events.jsonl"
        offset = file.stat().st_size if file.exists() else 0
        ended = False
        while not ended:
            self.refuse_to_wait()
            ended = process.poll() is not None  # before reading: what it wrote last is read once more
            new = tail(file, offset)
            offset += len(new)
            *whole, rest = (rest + new).split(b"\n")
            for line in whole:
                event = from_line(line)
                if isinstance(event, RunStarted | StepFinished):
                    steps = event.first_step if isinstance(event, RunStarted) else event.step
                    yield steps, time.monotonic() - started
            if not ended:
                time.sleep(POLL_SECONDS)
        if process.returncode:
            raise failure(process.returncode, run.with_suffix(".said"))
        yield steps, time.monotonic() - started

    def refuse_to_wait(self) -> None:
        """Raises where we are asked to stop."""
        if self.should_stop():
            raise StoppedEarly("before the proof was complete", hint="nothing of it is left; start it again when you like")


def tail(file: Path, offset: int) -> bytes:
    """What was added to a file; nothing where it is not there yet."""
    try:
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read()
    except FileNotFoundError:
        return b""


def digest(run: Path) -> str:
    """A hash of every file that a run hands over."""
    files = sorted((run / "adapter").iterdir())
    return hashlib.sha256(b"".join(file.name.encode() + b"\0" + file.read_bytes() for file in files)).hexdigest()


def resume_test(
    kills: int,
    seed: int,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool],
    backend: str = "auto",
) -> Proof:
    """The proof with the starter model on its own rows.

    Raises:
        ModelError: the starter model is not there.
        Refused: another one is at work; DiskFull: there is no room.
        StoppedEarly: asked to stop; nothing is left.
    """
    model = starter()
    if not (model / "model.safetensors").exists():
        raise ModelError("has no weights", file=model, hint="this installation is incomplete: install it again")
    with scratch("selftest") as folder:
        require_space(folder, ROOM, hint="free some space: EDGETUNE_HOME lies there")
        return ResumeTest(short_run(model), folder, on_event, should_stop, backend).prove(kills, seed)


def short_run(model: Path) -> RunConfig:
    """A run that has everything that must come back: order, dropout, moments, validations, rotation, a best checkpoint."""
    rows = model / "demo"
    return RunConfig(
        model=str(model),
        data=DataConfig(train=[str(rows / "train.jsonl")], valid=0.04, max_tokens=128, packing=False),
        adapter=AdapterConfig(rank=8, alpha=16, dropout=0.1),
        training=TrainingConfig(steps=STEPS, batch=1, accumulate=2, rate=2e-3),
        checks=ChecksConfig(eval_every=8, save_every=3, keep=2),
    )
