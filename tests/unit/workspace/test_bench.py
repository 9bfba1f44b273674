"""The ladder with trainings that are only told; the real ones are in tests/unit/cli/test_bench.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgetune.config import load
from edgetune.errors import ChildFailed, ConfigError, DiskFull, DoesNotFit, StoppedEarly
from edgetune.events import Event, Progress, Warned
from edgetune.planner.facts import Speed
from edgetune.workspace import bench as module
from edgetune.workspace import bench_mlx_lm
from edgetune.workspace.bench import LeftOut, Rung, Wanted, bench, chosen
from edgetune.workspace.bench_children import Measured, Watch
from edgetune.workspace.bench_models import Shape

Trainings = list[str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """No process is started, no weights are written: each step takes 2 s, mlx-lm's 4 s. Gives what was trained, in its order."""
    done: Trainings = []

    def ours(config: Path, folder: Path, backend: str, watch: Watch) -> Measured:
        done.append(f"{config.parent.name} {backend}")
        folder.mkdir()
        return Measured((99.0, 2.0, 1.0, 4.0), 1000 + len(done), "numpy")

    def theirs(arguments: list[str], folder: Path, watch: Watch) -> Measured:
        done.append("mlx-lm")
        return Measured((99.0, 4.0), 5000)

    monkeypatch.setattr(module, "measure_ours", ours)
    monkeypatch.setattr(module, "measure_mlx_lm", theirs)
    monkeypatch.setattr(module, "write_weights", lambda folder, shape, tell: (folder / "model.safetensors").touch())
    monkeypatch.setattr(module, "measure_speed", lambda workers: Speed(flops=1e12, bytes=1e11))
    monkeypatch.setattr(module, "usable_memory", lambda: 4_000_000_000)
    monkeypatch.setattr(module, "require_space", lambda place, need, hint: None)
    monkeypatch.setattr(bench_mlx_lm, "installed", lambda: False)
    return done


def run(wanted: Wanted, on_event: Callable[[Event], None] = lambda event: None) -> dict[str, Rung | LeftOut]:
    return {outcome.name: outcome for outcome in bench(wanted, on_event, lambda: False)}


def test_the_figures_are_medians_after_the_first_step(told: Trainings) -> None:
    rung = run(Wanted(("starter",), steps=3, rows=2, tokens=100, backend="numpy"))["starter"]
    assert isinstance(rung, Rung) and told == ["starter numpy"] and rung.backend == "numpy" and rung.ratio is None
    assert (rung.ours.step_seconds, rung.ours.tokens_per_second, rung.ours.peak_bytes) == (2.0, 100.0, 1001)


def test_the_ladder_ends_where_memory_or_time_would(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_STEP", 2.1)
    outcomes = run(Wanted())
    assert list(outcomes) == chosen(()) and isinstance(outcomes["starter"], Rung)
    reasons = {name: outcome.reason for name, outcome in outcomes.items() if isinstance(outcome, LeftOut)}
    assert told == ["starter auto"] and len(reasons) == len(outcomes) - 1
    assert "training needs " in reasons["mistral-7b"] and "4 GB is usable" in reasons["mistral-7b"]
    # The starter's step of 2 s took many times as long as was counted: so will the next.
    assert reasons["smollm2-135m"].startswith("would take ") and reasons["smollm2-135m"].endswith(" a step")


def test_what_one_shape_took_tells_of_the_next(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Measured((9.0, 1e-4), 1, "mlx")

    def ours(config: Path, folder: Path, backend: str, watch: Watch) -> Measured:
        folder.mkdir()
        return quick

    monkeypatch.setattr(module, "measure_ours", ours)
    monkeypatch.setattr(module, "usable_memory", lambda: 1 << 50)
    assert all(isinstance(outcome, Rung) for outcome in run(Wanted()).values())


def test_shapes_that_are_asked_for_are_measured_however_long(told: Trainings) -> None:
    assert list(run(Wanted(("smollm2-135m", "Starter")))) == ["starter", "smollm2-135m"]
    assert told == ["starter auto", "smollm2-135m auto"]


def test_a_shape_that_is_asked_for_and_too_large_is_refused_before_anything(
    told: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DoesNotFit):
        run(Wanted(("starter", "mistral-7b")))

    def full(place: Path, need: int, hint: str) -> None:
        raise DiskFull(f"needs {need}", hint=hint)

    monkeypatch.setattr(module, "require_space", full)
    with pytest.raises(DiskFull) as caught:
        run(Wanted(("starter",)))
    assert int(caught.value.message.removeprefix("needs ")) > 2 * 5_246_208 and "EDGETUNE_HOME" in caught.value.hint
    assert told == []
    assert all(isinstance(outcome, LeftOut) for outcome in run(Wanted()).values())


def test_an_unknown_shape_is_refused_with_the_nearest(told: Trainings) -> None:
    with pytest.raises(ConfigError) as caught:
        run(Wanted(("smollm-135m",)))
    assert caught.value.hint == "did you mean smollm2-135m?"


def test_the_run_is_the_one_that_the_table_tells_of(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[object] = []

    def ours(config: Path, folder: Path, backend: str, watch: Watch) -> Measured:
        run, lines = load(config), (config.parent / "rows.jsonl").read_text().splitlines()
        configs.append((run.adapter.rank, run.training.steps, run.training.batch, run.training.accumulate, len(lines)))
        assert run.model == str(config.parent) and len(run.adapter.targets) == 7 and run.data.max_tokens == 64
        folder.mkdir()
        return Measured((1.0, 1.0), 1, "numpy")

    monkeypatch.setattr(module, "measure_ours", ours)
    run(Wanted(("starter",), steps=5, rows=3, tokens=64))
    assert configs == [(8, 6, 3, 1, 18)]


def test_mlx_lm_is_measured_in_turns(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_mlx_lm, "installed", lambda: True)
    rung = run(Wanted(("starter",), rows=2, tokens=100, rounds=2))["starter"]
    assert told == ["starter auto", "mlx-lm"] * 2
    assert isinstance(rung, Rung) and rung.mlx_lm is not None
    assert (rung.mlx_lm.step_seconds, rung.mlx_lm.tokens_per_second, rung.mlx_lm.peak_bytes) == (4.0, 50.0, 5000)
    assert rung.ratio == 2.0 and rung.ours.peak_bytes == 1003
    told.clear()
    assert run(Wanted(("starter",), alone=True))["starter"] and told == ["starter auto"]


def test_mlx_lm_that_fails_is_left_out_with_a_warning(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(arguments: list[str], folder: Path, watch: Watch) -> Measured:
        told.append("mlx-lm")
        raise ChildFailed("ended with code 1: no Metal device", hint="h")

    events: list[Event] = []
    monkeypatch.setattr(bench_mlx_lm, "installed", lambda: True)
    monkeypatch.setattr(module, "measure_mlx_lm", fails)
    outcomes = run(Wanted(("starter", "smollm2-135m")), events.append)
    assert all(isinstance(outcome, Rung) and outcome.mlx_lm is None for outcome in outcomes.values())
    assert told == ["starter auto", "mlx-lm", "smollm2-135m auto"]
    (warning,) = (event for event in events if isinstance(event, Warned))
    assert "starter: mlx-lm ended with code 1: no Metal device; it is left out" in warning.message


def test_mlx_lm_that_would_take_long_is_left_out(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_mlx_lm, "installed", lambda: True)
    monkeypatch.setattr(module, "measure_mlx_lm", lambda arguments, folder, watch: Measured((99.0, 60.0), 1))
    monkeypatch.setattr(module, "LONGEST_STEP", 40.0)
    monkeypatch.setattr(module.Ladder, "counted_seconds", lambda self, shape: 1.0)
    events: list[Event] = []
    outcomes = run(Wanted(), events.append)
    starter, next_one = outcomes["starter"], outcomes["smollm2-135m"]
    assert isinstance(starter, Rung) and starter.mlx_lm and isinstance(next_one, Rung) and next_one.mlx_lm is None
    (warning,) = (event for event in events if isinstance(event, Warned))
    assert "smollm2-135m: mlx-lm would take 1 min 00 s a step" in warning.message and "--shapes" in warning.hint


def test_a_training_that_dies_names_its_shape(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(config: Path, folder: Path, backend: str, watch: Watch) -> Measured:
        raise ChildFailed("was killed", hint="h")

    monkeypatch.setattr(module, "measure_ours", dies)
    with pytest.raises(ChildFailed, match=r"^starter: was killed$"):
        run(Wanted())


def test_one_that_is_refused_after_all_is_left_out(told: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(config: Path, folder: Path, backend: str, watch: Watch) -> Measured:
        raise DoesNotFit("memory has gone", hint="h")

    monkeypatch.setattr(module, "measure_ours", refuses)
    assert run(Wanted())["starter"] == LeftOut("starter", "memory has gone")
    with pytest.raises(DoesNotFit):
        run(Wanted(("starter",)))


def test_asked_to_stop_while_weights_are_written(told: Trainings, monkeypatch: pytest.MonkeyPatch, isolated: Path) -> None:
    def writes(folder: Path, shape: Shape, tell: Callable[[int], None]) -> None:
        tell(0)
        raise AssertionError("it goes on")

    monkeypatch.setattr(module, "write_weights", writes)
    with pytest.raises(StoppedEarly):
        list(bench(Wanted(("starter",)), lambda event: None, lambda: True))
    assert [file.name for file in (isolated / "bench").iterdir()] == ["lock"]


def test_every_stage_begins_at_nothing_done(told: Trainings) -> None:
    events: list[Event] = []
    run(Wanted(("starter",), steps=3), events.append)
    assert [(event.stage, event.done, event.total) for event in events if isinstance(event, Progress)] == [
        ("measuring starter", 0, 4)
    ]
