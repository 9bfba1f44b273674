"""What is known of a run: a pure fold over its events, for the command line, the app, reports and tests alike.

The state has a bounded size whatever the length of the run, so that a week of events folds in a moment and can be kept as a
snapshot.
"""

from collections.abc import Iterable
from functools import reduce
from statistics import median
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from edgetune.events import (
    AnyEvent,
    CheckpointRejected,
    CheckpointSaved,
    ClockChanged,
    Diverged,
    Event,
    KeptAwake,
    MemoryShort,
    PowerChanged,
    Progress,
    Recovered,
    RolledBack,
    RowsLeftOut,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    SampleWritten,
    Slept,
    StepFinished,
    StepSkipped,
    Throttled,
    ValidationFinished,
    Warned,
)

RECENT = 32  # steps that a rate is taken from: enough for a steady median, few enough to follow a machine that slows down
POINTS = 512  # of the loss curve: more than a wide terminal can show
SMOOTH = 0.1  # weight of the newest step in the smoothed loss
LOG = 100  # events worth a line that are remembered
PROMPTS = 16  # prompts whose samples are remembered
Phase = Literal["starting", "training", "paused", "stopped", "finished", "failed"]


class Point(NamedTuple):
    """The mean loss of the steps up to `step` and after the point before."""

    step: int
    loss: float


class Curve(Struct, frozen=True):
    """The loss over all steps in at most POINTS points: each is the mean of `stride` steps, twice as many whenever full."""

    points: tuple[Point, ...] = ()
    stride: int = 1
    waiting: int = 0  # steps of the point that is not whole yet
    total: float = 0.0  # of their losses

    def add(self, step: int, loss: float) -> "Curve":
        """The curve after one more step."""
        waiting, total = self.waiting + 1, self.total + loss
        if waiting < self.stride:
            return Curve(self.points, self.stride, waiting, total)
        points = (*self.points, Point(step, total / waiting))
        if len(points) < POINTS:
            return Curve(points, self.stride)
        pairs = zip(points[::2], points[1::2], strict=True)
        return Curve(tuple(Point(b.step, (a.loss + b.loss) / 2) for a, b in pairs), 2 * self.stride)

    def until(self, step: int) -> "Curve":
        """The curve of the steps up to this one: a run that goes on from a checkpoint makes the later ones again."""
        if not self.points or self.points[-1].step <= step:
            return Curve(self.points, self.stride)
        return Curve(tuple(point for point in self.points if point.step <= step), self.stride)


class Sample(Struct, frozen=True):
    """A prompt, what the model said first, and what it says now."""

    prompt: str
    first_step: int
    first: str
    step: int
    reply: str


class RunState(Struct, frozen=True, kw_only=True):
    """A run as its events have left it. Losses are nats per trained token, times by the wall clock."""

    phase: Phase = "starting"
    started: RunStarted | None = None
    starts: int = 0  # how often a process took it up
    step: int = 0
    loss: float | None = None
    smooth_loss: float | None = None
    rate: float = 0.0
    gradient_norm: float = 0.0
    tokens: int = 0  # that went through the model in training steps
    valid_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    saved_step: int = 0
    memory_bytes: int = 0
    rows_left_out: int = 0
    recent: tuple[StepFinished, ...] = ()
    curve: Curve = Curve()
    validations: tuple[Point, ...] = ()
    samples: tuple[Sample, ...] = ()
    log: tuple[AnyEvent, ...] = ()
    progress: Progress | None = None  # of what is done before and between steps; None while steps go by
    waits_for: str = ""  # why it is paused
    throttled: Throttled | None = None  # while the machine is slower, or hotter, than it should be
    ended: RunFinished | RunStopped | RunFailed | None = None
    first_time: float = 0.0
    last_time: float = 0.0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; 0 before it has started."""
        return self.started.total_steps if self.started else 0

    @property
    def tokens_per_second(self) -> float:
        """All tokens that went through the model, per second of a step: the median of recent steps."""
        return median(step.tokens / max(step.seconds, 1e-9) for step in self.recent) if self.recent else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until the last step at the pace of recent steps, rests included; None before the first."""
        each = [step.seconds + step.rested_seconds for step in self.recent]
        return (self.total_steps - self.step) * median(each) if each else None


LOGGED = (
    ValidationFinished | StepSkipped | RolledBack | Diverged | CheckpointSaved | CheckpointRejected | Warned | RunStarted
    | RunPaused | RunResumed | KeptAwake | PowerChanged | Throttled | Recovered | Slept | ClockChanged | MemoryShort
    | RunStopped | RunFinished | RunFailed
)  # fmt: skip


def fold(state: RunState, event: Event) -> RunState:
    """The state after one more event."""
    match event:
        case StepFinished():
            return after_step(state, event)
        case Progress():
            return replace(state, progress=event, first_time=state.first_time or event.time, last_time=event.time)
        case _:
            state = replace(state, progress=None, first_time=state.first_time or event.time, last_time=event.time)
            if isinstance(event, LOGGED):
                state = replace(state, log=(*state.log[-LOG + 1 :], event))
            return after_rare(state, event)


def after_step(state: RunState, event: StepFinished) -> RunState:
    """One optimiser update: what most events are."""
    before = state.smooth_loss
    return replace(
        state,
        step=event.step,
        loss=event.loss,
        smooth_loss=event.loss if before is None else before + SMOOTH * (event.loss - before),
        rate=event.rate,
        gradient_norm=event.gradient_norm,
        tokens=state.tokens + event.tokens,
        memory_bytes=event.memory_bytes,
        recent=(*state.recent[-RECENT + 1 :], event),
        curve=state.curve.add(event.step, event.loss),
        progress=None,
        first_time=state.first_time or event.time,
        last_time=event.time,
    )


def after_rare(state: RunState, event: Event) -> RunState:
    """Everything that is no step."""
    match event:
        case RunStarted():
            return after_start(state, event)
        case ValidationFinished():
            point = Point(event.step, event.loss)
            state = replace(state, valid_loss=event.loss, validations=(*state.validations[-POINTS + 1 :], point))
            return replace(state, best_loss=event.loss, best_step=event.step) if event.best else state
        case SampleWritten():
            return replace(state, samples=with_sample(state.samples, event))
        case CheckpointSaved():
            return replace(state, saved_step=event.step)
        case RowsLeftOut():
            return replace(state, rows_left_out=state.rows_left_out + 1)
        case RolledBack():
            return taken_back(state, event.to_step)
        case Throttled() | Recovered():
            return replace(state, throttled=event if isinstance(event, Throttled) else None)
        case RunPaused():
            return replace(state, phase="paused", waits_for=event.reason)
        case RunResumed():
            return replace(state, phase="training", waits_for="")
        case RunStopped():
            return replace(state, phase="stopped", waits_for="", ended=event)
        case RunFailed():
            return replace(state, phase="failed", waits_for="", ended=event)
        case RunFinished():
            return replace(state, phase="finished", waits_for="", step=event.steps, ended=event)
        case _:
            return state


def after_start(state: RunState, event: RunStarted) -> RunState:
    """A process takes the run up at `first_step` steps done: what an earlier one did beyond is done again."""
    return replace(
        taken_back(state, event.first_step),
        phase="training",
        started=event,
        starts=state.starts + 1,
        recent=(),
        waits_for="",
        throttled=None,
        ended=None,
    )


def taken_back(state: RunState, step: int) -> RunState:
    """The state where only the steps up to this one count: the later ones are done again."""
    validations = tuple(point for point in state.validations if point.step <= step)
    return replace(state, step=step, curve=state.curve.until(step), validations=validations)


def with_sample(samples: tuple[Sample, ...], event: SampleWritten) -> tuple[Sample, ...]:
    """The samples with one more answer: the first one of each prompt stays beside the newest."""
    known = next((sample for sample in samples if sample.prompt == event.prompt), None)
    if known is None:
        return (*samples[-PROMPTS + 1 :], Sample(event.prompt, event.step, event.reply, event.step, event.reply))
    return tuple(replace(each, step=event.step, reply=event.reply) if each is known else each for each in samples)


def replay(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """The state after all events, begun with one or with none."""
    return reduce(fold, events, state or RunState())
