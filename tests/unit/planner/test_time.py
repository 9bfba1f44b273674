import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.config import AdapterConfig, ChecksConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.planner.facts import Facts, Speed, shape_of
from edgetune.planner.numpy_memory import Form
from edgetune.planner.probe import measure_speed
from edgetune.planner.rows import Work
from edgetune.planner.time import TimePlan, plan_time

LAPTOP = Speed(flops=460e9, bytes=12e9, save_seconds=0.0, save_bytes=1e18)
WORK = Work(2048, 2048, sequences=4, spans=[(512, 4)], lengths=[(512, 4)], steps_per_pass=1, total_steps=10)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    """The shape of SmolLM2-135M."""
    values = dict(
        model_type="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(values))
    return read_spec(tmp_path)


def planned(
    spec: ModelSpec, recompute: bool = False, method: str = "lora", eval_every: int = 0, speed: Speed = LAPTOP, **changes: Any
) -> TimePlan:
    adapter = AdapterConfig(rank=8, method=method)  # pyright: ignore[reportArgumentType]
    checks = ChecksConfig(eval_every=eval_every)
    config = RunConfig(model="m", data=DataConfig(train=["r"]), adapter=adapter, training=TrainingConfig(), checks=checks)
    facts = Facts(shape=shape_of(spec), rows=(), speed=speed)
    return plan_time(facts, config, Form(recompute, share_weights=False), dataclasses.replace(WORK, **changes))


def test_a_known_machine_and_model(spec: ModelSpec) -> None:
    """463 tokens/s were measured at 460 GFLOP/s."""
    plan = planned(spec)
    assert plan.tokens_per_second == pytest.approx(463, rel=0.2)
    assert (plan.steps, plan.tokens) == (10, 20_480) and plan.seconds == pytest.approx(plan.tokens / plan.tokens_per_second)


def test_what_costs_and_what_saves_time(spec: ModelSpec) -> None:
    plain = planned(spec).tokens_per_second
    assert 1.25 < plain / planned(spec, recompute=True).tokens_per_second < 1.6
    assert 1.05 < planned(spec, trained_tokens=1024).tokens_per_second / plain < 1.3
    assert planned(spec, sequences=4, spans=[(64, 32)]).tokens_per_second != plain
    assert planned(spec, method="full").tokens_per_second < plain
    assert planned(spec, speed=Speed(flops=LAPTOP.flops / 2, bytes=LAPTOP.bytes)).tokens_per_second < 0.7 * plain


def test_validations_are_part_of_the_time(spec: ModelSpec) -> None:
    once, often = planned(spec, eval_every=0, valid_tokens=2048), planned(spec, eval_every=1, valid_tokens=2048)
    steps = planned(spec).seconds
    assert steps < once.seconds < often.seconds
    assert (often.seconds - steps) / (once.seconds - steps) == pytest.approx(11 / 2)
    assert once.tokens_per_second == planned(spec).tokens_per_second


def test_the_speed_of_this_machine_is_measured() -> None:
    speed = measure_speed(workers=2, seconds=0.01)
    assert 1e8 < speed.flops < 1e14 and 1e7 < speed.bytes < 1e13
