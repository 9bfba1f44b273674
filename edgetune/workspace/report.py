"""The report of a run: what a person wants to know in the morning, as facts; a pure function of its config and events."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from msgspec.structs import replace

from edgetune.config import RunConfig
from edgetune.events import Event, RunFailed, RunFinished
from edgetune.workspace.advice import advise
from edgetune.workspace.ledger import Ledger
from edgetune.workspace.report_facts import Advice, Report, Result, State
from edgetune.workspace.run_state import RunState, fold

JOULES_PER_KWH = 3.6e6


def report_of(config: RunConfig | None, events: Iterable[Event], place: str, is_alive: bool = False) -> Report:
    """What a run's events tell. `place`: its folder, as commands name it; `is_alive`: a process still trains it."""
    ledger, state = Ledger(), RunState()
    for event in events:
        ledger.add(event)
        state = fold(state, event)
    if not is_alive:
        ledger.close()
    return facts(config, state, ledger, place, is_alive)


def facts(config: RunConfig | None, state: RunState, ledger: Ledger, place: str, is_alive: bool) -> Report:
    """The report from what was added up."""
    ended, started = state.ended, state.started
    finished = ended if isinstance(ended, RunFinished) else None
    failed = ended if isinstance(ended, RunFailed) else None
    phase: State = "interrupted" if ended is None and not is_alive else state.phase
    total = state.total_steps
    report = Report(
        name=Path(place).name,
        model=Path(config.model).name if config else "",
        method=method_of(config),
        backend=started.backend if started else "",
        state=phase,
        started=state.first_time,
        ended=state.last_time,
        step=state.step,
        total_steps=total,
        saved_step=state.saved_step,
        processes=state.starts,
        tokens=finished.tokens if finished else state.tokens,
        tokens_per_second=finished.tokens_per_second if finished else state.tokens_per_second,
        result=result_of(state, finished),
        times=ledger.times,
        planned_seconds=(started.planned_seconds if started else 0.0) or first_told(ledger.first_steps, total),
        peak_bytes=max(state.memory_bytes, finished.peak_bytes if finished else 0),
        planned_peak_bytes=started.planned_peak_bytes if started else 0,
        trained_parameters=started.trained_parameters if started else 0,
        train_rows=started.train_rows if started else 0,
        valid_rows=started.valid_rows if started else 0,
        left_out=dict(ledger.left_out.most_common()),
        first_left_out=named(ledger),
        skipped_steps=ledger.skipped,
        rolled_back=ledger.rolled_back,
        slowest_percent=ledger.slowest,
        energy_kwh=finished.energy_joules / JOULES_PER_KWH if finished and finished.energy_joules else None,
        error_kind=failed.kind if failed else "",
        error=failed.message if failed else "",
        hint=failed.hint if failed else "",
        incidents=ledger.incidents,
        curve=list(state.curve.points),
        validations=list(state.validations),
        samples=list(state.samples),
        advice=Advice(what="", why=""),
    )
    return replace(report, advice=advise(report, config, place))


def result_of(state: RunState, finished: RunFinished | None) -> Result:
    """What was reached: the losses before, at best, and at the end."""
    checks = [point for point in state.validations if point.loss == point.loss]
    return Result(
        first=checks[0].loss if checks and checks[0].step == 0 else None,
        best=state.best_loss,
        best_step=state.best_step,
        last=checks[-1].loss if checks else None,
        last_step=checks[-1].step if checks else 0,
        train=finished.train_loss if finished else state.smooth_loss,
    )


def method_of(config: RunConfig | None) -> str:
    """What was trained, in words."""
    if config is None:
        return ""
    if config.adapter.method == "full":
        return "all weights"
    return f"{'DoRA' if config.adapter.method == 'dora' else 'LoRA'}, rank {config.adapter.rank}"


def first_told(seconds: list[float], total_steps: int) -> float | None:
    """The time of all steps as the first ones let expect it; None before there are enough."""
    return median(seconds) * total_steps if len(seconds) >= 3 else None


def named(ledger: Ledger) -> str:
    """The first row that was left out, and why."""
    first = ledger.first_left_out
    return f"{Path(first.file).name}:{first.line}: {first.message}" if first else ""
