"""A run that protects itself: numbers that are none are skipped, then taken back once, then end it, with the rows named."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from random_model import write_model

from edgetune.architecture.load import Source, build_model
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder, load_arrays
from edgetune.backend.ops import Row
from edgetune.config import convert
from edgetune.errors import CheckpointError, VerificationFailed
from edgetune.events import Diverged, RolledBack, RunStarted, StepFinished, StepSkipped, ValidationFinished, Warned
from edgetune.training import checkpoint, session
from edgetune.training import run as run_module
from edgetune.training.loss import row_loss
from edgetune.training.pace import work_of
from edgetune.training.session import Resources, prepare
from tests.faults.fake_machine import Killed
from tests.faults.nights import MODEL, Night, write_place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_place(tmp_path_factory.mktemp("protected"))


@pytest.fixture
def night(place: tuple[Path, Path], tmp_path: Path) -> Night:
    return Night(*place, tmp_path)


def breaks(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int, Row], bool]) -> None:
    """The loss of those rows in those steps, counted from 0, is not a number."""

    def loss_of(model: Any, recompute: bool = False, start: Any = None) -> Any:
        inner = row_loss(model, recompute, start)

        def play(ops: Any, row: Row) -> Any:
            value = inner(ops, row)
            if is_bad(ops.dropout_key.step, row):
                value.data = value.data * np.nan
            return value

        return play

    monkeypatch.setattr(run_module, "row_loss", loss_of)


def spend(night: Night, steps: int = 24, **checks: Any) -> Night:
    values = night.config()
    values["training"]["steps"] = steps
    values["checks"] |= checks
    prepared = prepare(convert(values), night.base)
    session.train(prepared, night.run, Resources(2), night.hear, night.should_stop, night.machine.sensors())
    return night


def test_trouble_that_comes_back_after_the_roll_back_ends_the_run(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, lambda step, row: step in (9, 10, 11, 12, 13, 14))
    with pytest.raises(VerificationFailed, match=r"step 12: .* 3 times in a row; rows .*rows\.jsonl:\d+") as caught:
        spend(night)
    assert caught.value.exit_code == 5
    (back,) = night.of(RolledBack)
    assert (back.step, back.to_step, back.rate_factor) == (12, 7, 0.25)
    rates = [event.rate for event in night.of(StepFinished) if event.step == 8]
    assert rates[1] == rates[0] / 4
    assert [event.step for event in night.of(StepSkipped)] == [10, 11, 10, 11]


def test_the_rows_that_are_named_are_those_whose_loss_is_none(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that begins with token 17 is on line 18; each step learns two rows."""
    breaks(monkeypatch, lambda step, row: int(row.tokens[0]) == 17)
    spend(night)
    skipped = night.of(StepSkipped)
    assert skipped and {row for event in skipped for row in event.rows} == {f"{night.rows}:18"}


def test_a_gradient_that_is_none_names_all_rows_of_its_step(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(self: Any, gradients: Any) -> float:
        return math.nan if self.updates == 4 and not night.of(StepSkipped) else 1.0

    monkeypatch.setattr("edgetune.training.optimizer.AdamW.norm", norm)
    (skipped,) = spend(night).of(StepSkipped)
    assert len(skipped.rows) == 2 and all(re.fullmatch(rf"{night.rows}:\d+", row) for row in skipped.rows)


def test_the_checkpoint_that_is_gone_back_to_is_from_before_the_trouble(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of step 7 was written between two skipped steps."""
    breaks(monkeypatch, lambda step, row: step in (6, 7, 8) and not night.of(RolledBack))
    assert [event.to_step for event in spend(night).of(RolledBack)] == [0]


@pytest.mark.parametrize("at", [8, 9, 15, 20])
def test_a_run_that_rolled_back_is_resumed_exactly(
    at: int, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it saves again, it meets the same trouble and does the same; after that, it knows."""
    current, built = list[Any](), session.build

    def build(*arguments: Any, **options: Any) -> Any:
        current[:] = [built(*arguments, **options)]
        return current[0]

    monkeypatch.setattr(session, "build", build)
    breaks(monkeypatch, lambda step, row: step in (9, 10, 11) and not current[0].state.rollbacks)
    whole = spend(Night(night.base, night.rows, tmp_path / "whole"))
    assert whole.of(RolledBack)
    seen: list[int] = []

    def hear(event: Any) -> None:
        night.events.append(event)
        if isinstance(event, StepFinished) and night.of(RolledBack) and event.step == at and not seen:
            seen.append(at)
            raise Killed

    monkeypatch.setattr(night, "hear", hear)
    with pytest.raises(Killed):
        spend(night)
    prepared = prepare(session.read_run_config(night.run), night.base)
    session.resume(night.run, prepared, Resources(2), night.hear, lambda: False, sensors=night.machine.sensors())
    assert night.adapter == whole.adapter


def test_weights_that_are_no_numbers_are_never_written(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update spoils them in the very step that a checkpoint is due."""
    from edgetune.training.optimizer import AdamW

    updates, update = [0], AdamW.update

    def spoiling(self: AdamW, *arguments: Any) -> None:
        update(self, *arguments)
        updates[0] += 1
        if updates[0] == 14:
            next(iter(self.parameters.values()))[...] = np.inf

    monkeypatch.setattr(AdamW, "update", spoiling)
    (back,) = spend(night).of(RolledBack)
    assert (back.to_step, back.reason) == (7, "a trained weight is not finite")
    files = list(night.run.rglob("parameters.safetensors"))
    assert files and all(np.isfinite(array).all() for file in files for array in load_arrays(file).values())


def held_out(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    told = iter(losses)
    monkeypatch.setattr(run_module, "mean_loss", lambda *arguments: (next(told), 9))


def test_a_held_out_loss_far_above_the_best_is_told_once(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out(monkeypatch, [2.0, 1.6, 2.5, 2.6, 1.7])
    (event,) = spend(night, steps=16, eval_every=4).of(Diverged)
    assert (event.step, event.loss, event.best_loss, event.best_step) == (8, 2.5, 1.6, 4)


def test_unrest_is_no_divergence(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out(monkeypatch, [2.0, 1.6, 2.3, 0.1, 0.5])
    assert spend(night, steps=16, eval_every=4).of(Diverged) == []


def test_a_held_out_loss_that_is_none_is_never_the_best(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out(monkeypatch, [math.nan, 1.6, math.nan, 1.9, 1.8])
    spend(night, steps=16, eval_every=4)
    assert night.of(ValidationFinished)[0].best and len(night.of(Warned)) == 2
    assert night.events[-1].best_step == 4  # type: ignore[attr-defined]


def test_a_changed_night_is_no_other_run(night: Night) -> None:
    """What the guards do may change from one resume to the next; what is learned may not."""
    night.kill_at = 10
    with pytest.raises(Killed):
        spend(night)
    toml = night.run / "run.toml"
    toml.write_text(toml.read_text().replace("battery_floor = 20", "battery_floor = 50"))
    night.spend()
    assert night.of(RunStarted)[-1].first_step == 7
    night = Night(night.base, night.rows, night.place / "other", kill_at=10)
    with pytest.raises(Killed):
        spend(night)
    toml = night.run / "run.toml"
    toml.write_text(toml.read_text().replace("rate = 0.01", "rate = 0.02"))
    with pytest.raises(CheckpointError, match=r"training\.rate was 0\.01, is 0\.02"):
        night.spend()


def test_a_checkpoint_from_before_runs_protected_themselves_is_read(night: Night) -> None:
    state = msgspec.to_builtins(checkpoint.TrainingState(config_hash="c", data_fingerprint="d", base_fingerprint="b", workers=1, versions={}))  # fmt: skip
    for name in ("skipped_rows", "rollbacks", "rate_factor", "is_diverged", "energy_joules"):
        del state[name]
    old = msgspec.json.decode(json.dumps(state).encode(), type=checkpoint.TrainingState)
    assert (old.rollbacks, old.rate_factor, old.energy_joules) == (0, 1.0, None)


def test_the_work_of_a_step_is_that_of_the_model_s_products(tmp_path: Path) -> None:
    """Counted by hand: 2 layers of 16 wide with 2 of 4 heads' keys, 24 hidden, 40 tokens in the vocabulary."""
    write_model(tmp_path / "base", MODEL, 9)
    model = build_model(Source(read_spec(tmp_path / "base"), WeightFolder(tmp_path / "base")), {})
    layer = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24
    tokens, targets = np.arange(10, dtype=np.int32), np.array([-1] * 6 + [3] * 4, np.int32)
    row = Row(tokens, targets, ((0, 4), (4, 10)))
    assert work_of(model).of([row]) == 10 * 2 * layer + 2 * (2 * 16) * (16 + 36) / 2 + 4 * 40 * 16
