import pytest
from msgspec.structs import replace

from edgetune.events import (
    CheckpointSaved,
    Event,
    Recovered,
    RolledBack,
    RowsLeftOut,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    StepFinished,
    Throttled,
    ValidationFinished,
    Warned,
)
from edgetune.workspace.run_state import RECENT, RunState, fold, replay


def started(first_step: int = 0) -> RunStarted:
    return RunStarted(
        run="r", first_step=first_step, total_steps=100, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1,
        train_tokens=1, trained_tokens=1, planned_peak_bytes=1, time=1000.0,
    )  # fmt: skip


def step(number: int, seconds: float = 2.0, tokens: int = 1000) -> StepFinished:
    return StepFinished(
        step=number,
        loss=1 / number,
        rate=1e-4,
        gradient_norm=1,
        tokens=tokens,
        trained_tokens=1,
        seconds=seconds,
        memory_bytes=7,
        time=1000.0 + number,
    )


def test_a_run_that_has_not_said_anything() -> None:
    state = RunState()
    assert (state.phase, state.total_steps, state.tokens_per_second, state.seconds_left) == ("starting", 0, 0.0, None)


def test_a_run_on_its_way() -> None:
    state = replay([started(), *map(step, range(1, 41)), ValidationFinished(step=40, loss=0.5, tokens=1, seconds=1, best=True)])
    assert (state.phase, state.step, state.loss, state.memory_bytes) == ("training", 40, 1 / 40, 7)
    assert (state.tokens_per_second, state.seconds_left) == (500.0, 120.0)
    assert (state.valid_loss, state.best_loss, state.best_step) == (0.5, 0.5, 40)
    assert state.first_time == 1000.0


def test_the_best_validation_is_kept_besides_the_last() -> None:
    losses = [(10, 0.9, True), (20, 0.7, True), (30, 0.8, False)]
    state = replay(ValidationFinished(step=number, loss=loss, tokens=1, seconds=1, best=best) for number, loss, best in losses)
    assert (state.valid_loss, state.best_loss, state.best_step) == (0.8, 0.7, 20)


def test_the_pace_follows_a_machine_that_slows_down() -> None:
    fast = [step(number) for number in range(1, 51)]
    slow = [step(number, seconds=8.0) for number in range(51, 51 + RECENT)]
    assert replay([started(), *fast]).tokens_per_second == 500.0
    assert replay([started(), *fast, *slow]).tokens_per_second == 125.0


def test_a_run_that_went_on_counts_from_its_checkpoint() -> None:
    state = replay([started(), *map(step, range(1, 8)), started(first_step=5)])
    assert (state.step, state.recent, state.seconds_left) == (5, (), None)
    assert [point.step for point in state.curve.points] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (RunPaused(step=3), "paused"),
        (RunResumed(step=3), "training"),
        (RunStopped(step=3, reason="asked to stop"), "stopped"),
        (RunFailed(kind="disk_full", message="no room"), "failed"),
        (
            RunFinished(run="r", adapter="a", steps=3, tokens=9, train_loss=1, valid_loss=None, best_step=3, tokens_per_second=1, peak_bytes=1, seconds=1),
            "finished",
        ),
    ],
)  # fmt: skip
def test_phases(event: Event, phase: str) -> None:
    state = replay([started(), step(3), event])
    assert state.phase == phase
    assert (state.ended is event) == (phase in ("stopped", "failed", "finished"))
    assert fold(state, started(4)).ended is None


def test_rests_are_part_of_the_time_that_is_left() -> None:
    rested = [replace(step(number), rested_seconds=1.0) for number in range(1, 51)]
    assert replay([started(), *rested]).seconds_left == 50 * 3.0
    assert replay([started(), *rested]).tokens_per_second == 500.0


def test_a_run_that_rolled_back_counts_from_there() -> None:
    back = RolledBack(step=7, to_step=5, rate_factor=0.25, rows=[])
    state = replay([started(), *map(step, range(1, 8)), back])
    assert (state.step, state.phase, state.log[-1]) == (5, "training", back)
    assert [point.step for point in state.curve.points] == [1, 2, 3, 4, 5]


def test_whether_the_machine_is_throttled_is_known() -> None:
    slow = Throttled(step=3, percent=40.0)
    state = replay([started(), step(3), slow])
    assert state.throttled is slow
    assert fold(state, Recovered(step=9, seconds=60)).throttled is None
    assert fold(state, started(3)).throttled is None


def test_rows_left_out_and_checkpoints_are_counted() -> None:
    left = [RowsLeftOut(file="f", line=n, kind="bad", message="m") for n in range(3)]
    state = replay([*left, CheckpointSaved(step=50, folder="f", seconds=1), Warned(message="w")])
    assert (state.rows_left_out, state.saved_step) == (3, 50)
