"""How fast this machine trains: a ladder of well-known shapes, each trained for a few steps by our own command line.

What is measured is what a person gets: the child is `edgetune train`. Where mlx-lm is installed it trains the same model on
the same rows, in turns with ours.
"""

import difflib
import statistics
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgetune.backend.choice import NUMPY, choose_backend
from edgetune.config import AdapterConfig, ChecksConfig, DataConfig, RunConfig, TrainingConfig, to_toml
from edgetune.errors import ChildFailed, ConfigError, Refused, StoppedEarly
from edgetune.events import Event, Progress, Warned
from edgetune.files import discard, disk_errors, require_space
from edgetune.hardware import memory_now, usable_memory, worker_count
from edgetune.planner.facts import Facts, RowGroup, shape_of
from edgetune.planner.memory import MemoryPlan, plan_memory
from edgetune.planner.numpy_memory import Form
from edgetune.planner.plan import disk_bytes, require_memory
from edgetune.planner.probe import measure_speed
from edgetune.planner.time import plan_time
from edgetune.units import duration
from edgetune.workspace import bench_mlx_lm
from edgetune.workspace.bench_children import Measured, Watch, measure_mlx_lm, measure_ours
from edgetune.workspace.bench_models import SHAPES, Shape, random_rows, write_config, write_lines, write_weights
from edgetune.workspace.bench_scratch import scratch

OnEvent = Callable[[Event], None]
RANK = 8  # of the adapter on all linear layers
LONGEST_STEP = 30.0  # seconds; shapes that would take longer are left out unless they are asked for


@dataclass(frozen=True)
class Wanted:
    """What to measure. `shapes`: these, however long they take; none: those that fit and do not take long."""

    shapes: Sequence[str] = ()
    steps: int = 4
    rows: int = 4
    tokens: int = 512
    rounds: int = 1
    backend: str = "auto"
    alone: bool = False


@dataclass(frozen=True)
class Figures:
    """The median step after the first, the tokens that went through the model in it per second, and the peak of memory."""

    step_seconds: float
    tokens_per_second: float
    peak_bytes: int


@dataclass(frozen=True)
class Rung:
    """One shape, measured. `mlx_lm` is None where that was not measured."""

    name: str
    parameters: int
    backend: str
    ours: Figures
    mlx_lm: Figures | None = None

    @property
    def ratio(self) -> float | None:
        """Our tokens per second for each of mlx-lm's."""
        return self.ours.tokens_per_second / self.mlx_lm.tokens_per_second if self.mlx_lm else None


@dataclass(frozen=True)
class LeftOut:
    """One shape that was not measured, and why."""

    name: str
    reason: str


def chosen(shapes: Sequence[str]) -> list[str]:
    """The names of the shapes, the smallest first, each once; all where none is named.

    Raises:
        ConfigError: there is no shape of that name.
    """
    wanted = {name.strip().casefold() for name in shapes}
    for name in sorted(wanted - SHAPES.keys()):
        near = difflib.get_close_matches(name, SHAPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(SHAPES)}"
        raise ConfigError(f"--shapes {name!r}: no such shape", hint=hint)
    return [name for name in SHAPES if name in wanted or not wanted]


def bench(wanted: Wanted, on_event: OnEvent, should_stop: Callable[[], bool]) -> Generator[Rung | LeftOut]:
    """Measures shape after shape, the smallest first. Everything that it writes is gone afterwards.

    Raises:
        ConfigError: there is no shape of that name.
        DoesNotFit, DiskFull: a shape that was asked for is too large for this machine; nothing was started.
        Refused: another bench is at work.
        StoppedEarly: asked to stop.
        EdgeTuneError: a training failed.
    """
    names = chosen(wanted.shapes)
    with scratch() as place:
        ladder = Ladder(wanted, place, on_event, should_stop)
        shapes = [write_config(place / name, name, wanted.tokens) for name in names]
        for shape in shapes if wanted.shapes else ():
            ladder.require_room(shape)
        for shape in shapes:
            yield ladder.climb(shape)


class Ladder:
    """The shapes of one bench. What one took tells how long the next will take."""

    def __init__(self, wanted: Wanted, place: Path, on_event: OnEvent, should_stop: Callable[[], bool]):
        self.wanted, self.place, self.on_event, self.should_stop = wanted, place, on_event, should_stop
        self.base_bytes = memory_now()
        self.speed = measure_speed(worker_count())
        self.slower = 1.0  # the last shape's step for each second that was counted for it
        self.peer_slower = 0.0  # mlx-lm's step for each second of ours; 0: not known
        self.with_peer = not wanted.alone and bench_mlx_lm.installed()

    def climb(self, shape: Shape) -> Rung | LeftOut:
        """Measures one shape, or says why not; its folder is gone afterwards."""
        folder = self.place / shape.name
        try:
            if not self.wanted.shapes:
                self.require_room(shape)
            counted = self.counted_seconds(shape)
            expected = self.slower * counted
            if not self.wanted.shapes and expected > LONGEST_STEP:
                return LeftOut(shape.name, f"would take {duration(expected)} a step")
            write_weights(folder, shape, lambda done: self.told_bytes(shape, done))
            rung = self.measured(shape, folder)
        except Refused as refusal:
            if self.wanted.shapes:
                raise
            return LeftOut(shape.name, refusal.message)
        finally:
            discard(folder, "bench")
        self.slower = rung.ours.step_seconds / counted
        self.peer_slower = rung.mlx_lm.step_seconds / rung.ours.step_seconds if rung.mlx_lm else self.peer_slower
        return rung

    def measured(self, shape: Shape, folder: Path) -> Rung:
        """Trains ours and, where it is there, mlx-lm, in turns."""
        steps = self.wanted.steps + 1
        rows = random_rows(shape.spec.vocab, self.wanted.rows * steps, self.wanted.tokens)
        config = self.write_run(folder, rows)
        peer = bench_mlx_lm.write_inputs(folder, rows, folder / "mlx_lm", self.wanted.rows, steps) if self.with_peer else []
        ours: list[Measured] = []
        theirs: list[Measured] = []
        for number in range(self.wanted.rounds):
            ours.append(self.measured_once(shape, config, folder / f"ours-{number}"))
            if self.with_peer and self.peer_is_quick(shape, ours):
                theirs += self.measured_peer(shape, peer, folder / f"mlx_lm-{number}")
        peers = self.figures(theirs) if theirs else None
        return Rung(shape.name, shape.parameters, ours[0].backend, self.figures(ours), peers)

    def measured_once(self, shape: Shape, config: Path, folder: Path) -> Measured:
        """One training of ours; what it wrote is removed.

        Raises:
            ChildFailed: it died; the shape is named.
        """
        try:
            measured = measure_ours(config, folder, self.wanted.backend, self.watch(shape.name))
        except ChildFailed as error:
            raise ChildFailed(error.message, hint=error.hint, file=shape.name) from None
        discard(folder, "bench")
        return measured

    def measured_peer(self, shape: Shape, arguments: Sequence[str], folder: Path) -> list[Measured]:
        """One training of mlx-lm's. It may fail as it likes: a warning says so, and it is not tried again."""
        try:
            return [measure_mlx_lm(arguments, folder, self.watch(f"{shape.name}, mlx-lm"))]
        except ChildFailed as error:
            self.give_up_peer(f"{shape.name}: mlx-lm {error.message}", error.hint)
            return []

    def figures(self, measured: Sequence[Measured]) -> Figures:
        """Over all rounds: the median of the steps after each one's first, and the highest peak."""
        step = statistics.median(seconds for one in measured for seconds in one.seconds[1:])
        return Figures(step, self.wanted.rows * self.wanted.tokens / step, max(one.peak_bytes for one in measured))

    # ---- before it is measured ---------------------------------------------------------------------------------------

    def require_room(self, shape: Shape) -> None:
        """Refuses a shape that this machine cannot hold.

        Raises:
            DoesNotFit, DiskFull: with what it needs.
        """
        require_memory(self.memory_plan(shape), ())
        run = disk_bytes(self.facts(shape), self.config())
        require_space(self.place, shape.weight_bytes + run, hint="free some, or set EDGETUNE_HOME to a place on another disk")

    def memory_plan(self, shape: Shape) -> MemoryPlan:
        """What the run will take."""
        return plan_memory(self.facts(shape), self.config())

    def facts(self, shape: Shape) -> Facts:
        """What the plans of a shape follow from."""
        rows, tokens = self.wanted.rows * (self.wanted.steps + 1), self.wanted.tokens
        on_numpy = choose_backend(self.wanted.backend) == NUMPY
        return Facts(
            shape=shape_of(shape.spec),
            rows=(RowGroup(tokens, rows, rows * (tokens - 1)),),
            backend="numpy" if on_numpy else "mlx",
            workers=worker_count() if on_numpy else self.wanted.rows,
            stored_bytes=shape.weight_bytes,
            base_bytes=self.base_bytes,
            usable_bytes=usable_memory(),
            speed=self.speed,
        )

    def counted_seconds(self, shape: Shape) -> float:
        """Seconds of one step by the counts of the planner."""
        memory, facts = self.memory_plan(shape), self.facts(shape)
        time = plan_time(facts, self.config(), Form(memory.recompute, memory.share_weights))
        return time.parts["steps"] / time.steps

    def peer_is_quick(self, shape: Shape, ours: Sequence[Measured]) -> bool:
        """Whether mlx-lm's step will be short enough to wait for, as far as that is known; else a warning says so, once."""
        expected = self.peer_slower * self.figures(ours).step_seconds
        if self.wanted.shapes or expected <= LONGEST_STEP:
            return True
        self.give_up_peer(f"{shape.name}: mlx-lm would take {duration(expected)} a step", "ask for it with --shapes")
        return False

    def give_up_peer(self, message: str, hint: str) -> None:
        """mlx-lm is not measured any more."""
        self.with_peer = False
        self.on_event(Warned(message=f"{message}; it is left out from here on", hint=hint))

    # ---- while it is measured ----------------------------------------------------------------------------------------

    def config(self, data: str = "") -> RunConfig:
        """The run that every shape makes."""
        return RunConfig(
            model="model",
            data=DataConfig(train=[data], valid=0.0, max_tokens=self.wanted.tokens, packing=False),
            adapter=AdapterConfig(rank=RANK, alpha=2.0 * RANK),
            training=TrainingConfig(steps=self.wanted.steps + 1, batch=self.wanted.rows, accumulate=1, rate=1e-4, warmup=0.0),
            checks=ChecksConfig(eval_every=0, save_every=0, keep=2),
        )

    def write_run(self, folder: Path, rows: Sequence[Sequence[int]]) -> Path:
        """Writes rows and config of a run on the model in `folder`; gives the config's file."""
        file = folder / "run.toml"
        write_lines(folder / "rows.jsonl", [{"input_ids": row, "loss_mask": [1] * len(row)} for row in rows])
        config = msgspec.structs.replace(self.config(str(folder / "rows.jsonl")), model=str(folder))
        with disk_errors(file):
            file.write_text(to_toml(config), "utf-8")
        return file

    def watch(self, stage: str) -> Watch:
        """Follows a process: its steps are the stage's progress."""
        total = self.wanted.steps + 1

        def on_step(done: int) -> None:
            self.on_event(Progress(stage=f"measuring {stage}", done=done, total=total, unit="steps"))

        on_step(0)
        return Watch(on_step, self.should_stop)

    def told_bytes(self, shape: Shape, done: int) -> None:
        """The weights grow on the disk."""
        if self.should_stop():
            raise StoppedEarly("stopped while its weights were written")
        self.on_event(Progress(stage=f"writing {shape.name}", done=done, total=shape.weight_bytes, unit="bytes"))
