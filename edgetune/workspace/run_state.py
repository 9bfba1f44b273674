"""What is known of a run: a pure fold over its events, for the command line, the app, reports and tests alike."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from statistics import median
from typing import Literal

from edgetune.events import (
    CheckpointSaved,
    Event,
    RowsLeftOut,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    StepFinished,
    ValidationFinished,
)

RECENT = 32  # steps that a rate is taken from: enough for a steady median, few enough to follow a machine that slows down
Phase = Literal["starting", "training", "paused", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class RunState:
    """A run as its events have left it. Losses are nats per trained token, times by the wall clock."""

    phase: Phase = "starting"
    started: RunStarted | None = None
    step: int = 0
    loss: float | None = None
    rate: float = 0.0
    valid_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    saved_step: int = 0
    memory_bytes: int = 0
    rows_left_out: int = 0
    recent: tuple[StepFinished, ...] = ()
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
        """Until the last step at the pace of recent steps; None before the first."""
        return (self.total_steps - self.step) * median(step.seconds for step in self.recent) if self.recent else None


def fold(state: RunState, event: Event) -> RunState:
    """The state after one more event."""
    state = replace(state, first_time=state.first_time or event.time, last_time=event.time)
    match event:
        case RunStarted():
            return replace(state, phase="training", started=event, step=event.first_step - 1, recent=(), ended=None)
        case StepFinished():
            recent = (*state.recent[-RECENT + 1 :], event)
            return replace(
                state, step=event.step, loss=event.loss, rate=event.rate, memory_bytes=event.memory_bytes, recent=recent
            )
        case ValidationFinished():
            state = replace(state, valid_loss=event.loss)
            return replace(state, best_loss=event.loss, best_step=event.step) if event.best else state
        case CheckpointSaved():
            return replace(state, saved_step=event.step)
        case RowsLeftOut():
            return replace(state, rows_left_out=state.rows_left_out + 1)
        case RunPaused():
            return replace(state, phase="paused")
        case RunResumed():
            return replace(state, phase="training")
        case RunStopped():
            return replace(state, phase="stopped", ended=event)
        case RunFailed():
            return replace(state, phase="failed", ended=event)
        case RunFinished():
            return replace(state, phase="finished", step=event.steps, ended=event)
        case _:
            return state


def replay(events: Iterable[Event]) -> RunState:
    """The state after all events."""
    return reduce(fold, events, RunState())
