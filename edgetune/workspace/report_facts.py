"""What a report says, as frozen records: for the command line, the app, the Markdown page and programs alike."""

from typing import Literal

from msgspec import Struct

from edgetune.workspace.ledger import Incident, Times
from edgetune.workspace.run_state import Point, Sample

State = Literal["starting", "training", "paused", "stopped", "finished", "failed", "interrupted"]


class Advice(Struct, frozen=True, kw_only=True):
    """The one thing to do next: what, why, and the command that does it, where there is one."""

    what: str
    why: str
    command: str = ""


class Result(Struct, frozen=True, kw_only=True):
    """The losses before, at best and at the end; None where they were not measured."""

    first: float | None  # of the held-out rows, before training
    best: float | None  # of the held-out rows
    best_step: int
    last: float | None
    last_step: int
    train: float | None  # the mean of the last steps


class Report(Struct, frozen=True, kw_only=True):
    """The facts of a run. Losses are nats per trained token, times seconds, points of time seconds since 1970."""

    name: str
    model: str  # its short name; "" where the config cannot be read
    method: str  # "LoRA, rank 16"
    backend: str
    state: State
    started: float
    ended: float  # the last that was heard
    step: int
    total_steps: int
    saved_step: int  # where it goes on from
    processes: int  # that took the run up
    tokens: int
    tokens_per_second: float
    result: Result
    times: Times
    planned_seconds: float | None  # by the plan, or told from the pace of the first steps
    peak_bytes: int
    planned_peak_bytes: int
    trained_parameters: int
    train_rows: int
    valid_rows: int
    left_out: dict[str, int]  # rows that were not learned as they are, by kind
    first_left_out: str
    skipped_steps: int
    rolled_back: int
    slowest_percent: float  # below the run's best pace
    energy_kwh: float | None
    error_kind: str
    error: str
    hint: str
    incidents: list[Incident]
    curve: list[Point]
    validations: list[Point]
    samples: list[Sample]
    advice: Advice
