"""The probe times real steps on the model's first layers; what a plan makes of the times follows by arithmetic."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgetune.adapters.lora import new_lora
from edgetune.adapters.peft import write_peft
from edgetune.architecture.spec import read_spec
from edgetune.backend.ops import Row
from edgetune.config import AdapterConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.planner import probe
from edgetune.planner.facts import Facts, Speed, shape_of
from edgetune.planner.probe import calibrated, cut, first_layers, form_of, probe_rows, shortened, work_of_rows
from edgetune.planner.time import plan_time
from edgetune.training.session import Prepared, Resources, prepare
from edgetune.workspace.planning import plan_run

FAST, SLOW = Speed(flops=1e12, bytes=1e11), Speed(flops=1e6, bytes=1e6)
TWO = Resources(workers=2)


def prepared(model: Path, rows: Path, adapter: AdapterConfig | None = None, max_tokens: int = 64) -> Prepared:
    config = RunConfig(
        model=str(model),
        data=DataConfig(train=[str(rows)], valid=0.2, max_tokens=max_tokens),
        adapter=adapter or AdapterConfig(rank=2),
        training=TrainingConfig(epochs=2, batch=2, accumulate=2),
    )
    return prepare(config, model)


def test_the_plan_of_what_was_timed_is_the_time_it_took(tiny_model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch):
    ready = prepared(tiny_model, rows)
    times = {1: 1.0, 2: 1.5}  # half a second a layer, half a second besides
    monkeypatch.setattr(probe, "step_seconds", lambda part, *others: times[part.spec.layers])
    speed = calibrated(ready, TWO, FAST, lambda done, total: None)
    work = work_of_rows(probe_rows(first_layers(ready, 2), TWO, FAST))
    for layers, seconds in ((1, 1.0), (2, 1.5), (12, 6.5)):
        spec = dataclasses.replace(ready.spec, layers=layers, windows=(None,) * layers)
        plan = plan_time(Facts(shape=shape_of(spec), rows=(), speed=speed), ready.config, form_of(TWO), work)
        assert plan.parts["steps"] == pytest.approx(seconds)


def test_noise_never_makes_a_plan_that_takes_no_time(tiny_model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch):
    for times in ({1: 1.0, 2: 0.9}, {1: 1.0, 2: 3.0}):
        monkeypatch.setattr(probe, "step_seconds", lambda part, *others, times=times: times[part.spec.layers])
        speed = calibrated(prepared(tiny_model, rows), TWO, FAST, lambda done, total: None)
        assert speed.layer_factor > 0 and speed.rest_factor > 0


@pytest.mark.parametrize(
    "adapter",
    [
        AdapterConfig(rank=2, dropout=0.1),
        AdapterConfig(rank=2, layers=1),
        AdapterConfig(method="full"),
        AdapterConfig(method="full", init_from="random"),
    ],
)
def test_every_kind_of_run_can_be_timed_and_told_of(tiny_model: Path, rows: Path, tmp_path: Path, adapter: AdapterConfig):
    heard: list[object] = []
    plan = plan_run(prepared(tiny_model, rows, adapter), tmp_path, heard.append)
    assert plan.plan.time.seconds > 0 and plan.plan.time.tokens_per_second > 0 and len(heard) == 2 * (probe.STEPS + 1)
    assert not list(tmp_path.glob("**/run*"))  # nothing is written


def test_a_run_that_starts_from_an_adapter_is_timed_with_a_new_one(tiny_model: Path, rows: Path, tmp_path: Path):
    (tmp_path / "given").mkdir()
    write_peft(tmp_path / "given", new_lora(read_spec(tiny_model), AdapterConfig(rank=2), 1, "tiny"))
    started = prepared(tiny_model, rows, AdapterConfig(init_from=str(tmp_path / "given")))
    assert plan_run(started, tmp_path, lambda event: None).plan.time.seconds > 0


def test_a_spec_of_the_first_layers_keeps_what_is_told_layer_by_layer(tiny_model: Path):
    spec = dataclasses.replace(read_spec(tiny_model), windows=(None, 8))
    assert cut(spec, 1).windows == (None,) and cut(spec, 1).layers == 1 and cut(spec, 2) == spec


def test_on_a_slow_machine_fewer_and_shorter_rows_are_timed(tiny_model: Path, rows: Path):
    ready = first_layers(prepared(tiny_model, rows, max_tokens=32), 2)
    all_of_it, little = probe_rows(ready, TWO, FAST), probe_rows(ready, TWO, SLOW)
    assert len(all_of_it) > len(little) == 2
    assert max(len(row.tokens) for row in little) == probe.LEAST_TOKENS < max(len(row.tokens) for row in all_of_it)


def test_a_shortened_row_is_a_row():
    tokens = np.arange(10, dtype=np.int32)
    row = Row(tokens, np.full(10, -1, np.int32), ((0, 4), (4, 7), (7, 10)))
    short = shortened(row, 6)
    assert short.tokens.tolist() == [0, 1, 2, 3, 4, 5] and short.spans == ((0, 4), (4, 6)) and short.trained_tokens == 1
    assert row.trained_tokens == 0 and shortened(row, 20).spans == row.spans
