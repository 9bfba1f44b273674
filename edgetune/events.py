"""Frozen events of every job: one JSON object a line in `events.jsonl`, the only channel that faces read.

Units are in the names: seconds, bytes, tokens; losses are nats per trained token.
"""

import time
from collections.abc import Iterator
from pathlib import Path

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
    seconds: float
    memory_bytes: int


class StepSkipped(Event, frozen=True):
    """The loss or a gradient was not finite: nothing was updated."""

    step: int
    reason: str
    rows: list[str]


class ValidationFinished(Event, frozen=True):
    """The loss on the held-out rows."""

    step: int
    loss: float
    tokens: int
    seconds: float
    best: bool


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


AnyEvent = (
    RunStarted | RowsLeftOut | StepFinished | StepSkipped | ValidationFinished | SampleWritten | CheckpointSaved
    | CheckpointRejected | Warned | Progress | RunPaused | RunResumed | RunStopped | RunFinished | RunFailed | HopScored
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
