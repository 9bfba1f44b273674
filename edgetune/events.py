"""Frozen events of every job: one JSON object a line in `events.jsonl`, the only channel that faces read.

Units are in the names: seconds, bytes, tokens; losses are nats per trained token.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field


class Event(Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """What happened, and when by the wall clock; order follows from the file, never from `time`."""

    time: float = field(default_factory=time.time)


class RunStarted(Event, frozen=True):
    """A run begins, or goes on after the `first_step` steps that are done."""

    run: str
    first_step: int
    total_steps: int
    backend: str
    trained_parameters: int
    train_rows: int
    valid_rows: int
    train_tokens: int
    trained_tokens: int
    planned_peak_bytes: int
    planned_seconds: float = 0.0  # of the whole run; 0: nobody planned them
    prepared_at: str = ""  # ISO 8601, local: what chat templates that print a date were told


class RowsLeftOut(Event, frozen=True):
    """Rows that are not trained as they are: dropped, cut or split because of their length, or refused with a reason."""

    file: str
    line: int
    kind: str
    message: str


class StepFinished(Event, frozen=True):
    """One optimiser update."""

    step: int
    loss: float
    rate: float
    gradient_norm: float
    tokens: int
    trained_tokens: int
    seconds: float  # of work: without the time that the machine slept, or this process was held
    memory_bytes: int
    rested_seconds: float = 0.0  # on purpose, before this step: to be added where time is told in advance


class StepSkipped(Event, frozen=True):
    """The loss or a gradient was not finite: nothing was updated."""

    step: int
    reason: str
    rows: list[str]


class RolledBack(Event, frozen=True):
    """Numbers that were not finite came again and again: the run goes on from an earlier checkpoint, at a lower rate."""

    step: int
    to_step: int
    rate_factor: float  # of the config's rate, from now on
    rows: list[str]  # file:line of those that it happened with
    reason: str = ""


class ValidationFinished(Event, frozen=True):
    """The loss on the held-out rows."""

    step: int
    loss: float
    tokens: int
    seconds: float
    best: bool


class Diverged(Event, frozen=True):
    """The loss on the held-out rows is far above the best: the run became worse. The best is kept."""

    step: int
    loss: float
    best_loss: float
    best_step: int


class SampleWritten(Event, frozen=True):
    """An answer of the model as it is now."""

    step: int
    prompt: str
    reply: str


class CheckpointSaved(Event, frozen=True):
    """A checkpoint is on the disk and verified."""

    step: int
    folder: str
    seconds: float


class CheckpointRejected(Event, frozen=True):
    """A checkpoint did not verify and is ignored."""

    folder: str
    reason: str


class Warned(Event, frozen=True):
    """Something a person should know that does not stop the job."""

    message: str
    hint: str = ""


class Progress(Event, frozen=True):
    """How far a job of many equal parts is: loading, hashing, converting, scoring."""

    stage: str
    done: float
    total: float
    unit: str


class RunPaused(Event, frozen=True):
    """The run waits, saved: because somebody asked, or because a guard holds it."""

    step: int
    reason: str = ""


class RunResumed(Event, frozen=True):
    """The run goes on after a pause."""

    step: int


class KeptAwake(Event, frozen=True):
    """The machine does not go to sleep by itself while the run trains; its display may."""

    method: str  # how that is done, in the words of who does it
    has_lid: bool = False  # a laptop: it sleeps nevertheless once it is closed


class PowerChanged(Event, frozen=True):
    """The plug was pulled, or put in again."""

    step: int
    source: Literal["mains", "battery"]
    percent: float | None = None  # of the battery's charge


class Throttled(Event, frozen=True):
    """The machine has become slower than it was in this run, or hotter than it may be: the run rests between steps."""

    step: int
    percent: float  # slower than the run's own best pace, for the same work; not above 0: hot, but not slower
    celsius: float | None = None
    rest_share: float = 0.0  # of a step's time, after each step from now on


class Recovered(Event, frozen=True):
    """The machine is as fast, and as cool, as it should be: no more rests."""

    step: int
    seconds: float  # since it was throttled, without sleep
    rested_seconds: float = 0.0


class Slept(Event, frozen=True):
    """The machine was asleep, or this process was held (SIGSTOP); no step's seconds count it."""

    step: int
    seconds: float
    kind: Literal["asleep", "held"] = "asleep"


class ClockChanged(Event, frozen=True):
    """The wall clock was set: times of events before and after differ by this much more than passed."""

    step: int
    seconds: float  # below 0: back


class MemoryShort(Event, frozen=True):
    """There is hardly any memory left, or it is being swapped to the disk."""

    step: int
    available_bytes: int
    swapped_bytes: int
    recomputes: bool = False  # from now on activations are made again in the backward: the same numbers in less memory
    servers: list[str] = field(default_factory=lambda: list[str]())  # other programs that hold models, with what they hold


class RunStopped(Event, frozen=True):
    """Stopped before the end: everything is saved."""

    step: int
    reason: str


class RunFinished(Event, frozen=True):
    """The run is done; `adapter` is the best checkpoint."""

    run: str
    adapter: str
    steps: int
    tokens: int
    train_loss: float
    valid_loss: float | None
    best_step: int
    tokens_per_second: float
    peak_bytes: int
    seconds: float
    energy_joules: float | None = None  # of the whole run, as far as it could be read


class RunFailed(Event, frozen=True):
    """The run ended with an error."""

    kind: str
    message: str
    hint: str = ""


class HopScored(Event, frozen=True):
    """One hop of the certificate: how the model scores on the held-out rows after it."""

    hop: str
    loss: float
    loss_delta: float
    kl: float
    top1_agreement: float


class JobEnded(Event, frozen=True):
    """The last event of a command with `--events`: its exit code and, where it is not 0, what was wrong."""

    exit_code: int
    kind: str = ""
    message: str = ""
    hint: str = ""


AnyEvent = (
    RunStarted | RowsLeftOut | StepFinished | StepSkipped | RolledBack | ValidationFinished | Diverged | SampleWritten
    | CheckpointSaved | CheckpointRejected | Warned | Progress | RunPaused | RunResumed | KeptAwake | PowerChanged | Throttled
    | Recovered | Slept | ClockChanged | MemoryShort | RunStopped | RunFinished | RunFailed | HopScored | JobEnded
)  # fmt: skip
ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder(AnyEvent)


def to_line(event: Event) -> bytes:
    """One JSON object, without the new line."""
    return ENCODER.encode(event)


def from_line(line: bytes) -> AnyEvent | None:
    """The event of one line; None for a line that is not whole or of a kind from a newer version."""
    try:
        return DECODER.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def read(path: Path) -> Iterator[AnyEvent]:
    """The events of a file in their order; unreadable lines are passed over."""
    with path.open("rb") as file:
        for line in file:
            event = from_line(line)
            if event is not None:
                yield event
