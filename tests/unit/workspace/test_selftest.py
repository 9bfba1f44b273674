"""The proof of resuming: where its kills fall, what it finds, and that nothing of it stays."""

import random
import shutil
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.config import AdapterConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.errors import ModelError, Refused, StoppedEarly
from edgetune.events import Event, Progress
from edgetune.workspace import selftest
from edgetune.workspace.bench_scratch import scratch
from edgetune.workspace.selftest import Life, ResumeTest, resume_test


@given(st.lists(st.floats(0.01, 3), min_size=2, max_size=30), st.integers(1, 12), st.integers(0, 10**6))
def test_one_run_can_meet_all_moments_in_their_order(gaps: list[float], count: int, seed: int) -> None:
    life = Life(tuple(sum(gaps[: n + 1]) for n in range(len(gaps))))
    moments = life.moments(count, random.Random(seed))
    steps = [moment.steps for moment in moments if moment.steps is not None]
    assert len(moments) == count and steps == sorted(steps)
    for moment in moments:
        slot = gaps[0] if moment.steps is None else gaps[moment.steps + 1]
        assert 0 <= moment.seconds <= slot + 1e-9


def test_moments_are_uniform_over_the_life() -> None:
    """A quarter of this life is the start, half of it one slow step."""
    life = Life((1.0, 1.5, 3.5, 4.0))
    moments = [moment for seed in range(400) for moment in life.moments(10, random.Random(seed))]
    share = {steps: sum(moment.steps == steps for moment in moments) / len(moments) for steps in (None, 0, 1, 2)}
    assert share == pytest.approx({None: 0.25, 0: 0.125, 1: 0.5, 2: 0.125}, abs=0.02)
    late = [moment.seconds for moment in moments if moment.steps == 1]
    assert sum(late) / len(late) == pytest.approx(1.0, abs=0.05)


def tiny(model: Path, rows: Path, steps: int = 6) -> RunConfig:
    return RunConfig(
        model=str(model),
        data=DataConfig(train=[str(rows)], max_tokens=64),
        adapter=AdapterConfig(rank=2, dropout=0.1),
        training=TrainingConfig(steps=steps, batch=2, accumulate=1, rate=1e-2),
    )


@pytest.mark.slow
def test_runs_that_are_killed_end_where_the_other_one_ends(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    proof = ResumeTest(tiny(tiny_model, rows), tmp_path, told.append, lambda: False, "numpy").prove(kills=3, seed=5)
    assert proof.identical and (proof.kills, proof.lost, proof.different, proof.steps) == (3, 0, 0, 6)
    stages = [event.stage for event in told if isinstance(event, Progress)]
    assert stages[0] == "training undisturbed" and stages[-1] == "killing and resuming"
    assert not children_in(tmp_path)


@pytest.mark.slow
def test_a_run_that_ends_elsewhere_is_seen(
    tiny_model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on with another order, as if the state had not come back."""

    class Forgetful(ResumeTest):
        def to_its_end(self, run: Path) -> None:
            super().to_its_end(run)
            file = run / "adapter" / "adapter_model.safetensors"
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)

    proof = Forgetful(tiny(tiny_model, rows, 3), tmp_path, lambda _: None, lambda: False, "numpy").prove(kills=1, seed=1)
    assert not proof.identical and proof.different == 1


@pytest.mark.slow
def test_a_run_that_cannot_go_on_is_lost_with_its_reason(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    class Damaging(ResumeTest):
        def to_its_end(self, run: Path) -> None:
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir()
            (run / "run.toml").write_text("model = 3")
            super().to_its_end(run)

    proof = Damaging(tiny(tiny_model, rows, 3), tmp_path, lambda _: None, lambda: False, "numpy").prove(kills=1, seed=1)
    assert not proof.identical and proof.lost == 1 and "run.toml" in proof.reasons[0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["training undisturbed", "killing and resuming"])
def test_asked_to_stop_it_leaves_nothing(
    stage: str, tiny_model: Path, rows: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "starter", lambda: tiny_model)
    monkeypatch.setattr(selftest, "short_run", lambda model: tiny(model, rows))
    seen: list[Event] = []
    with pytest.raises(StoppedEarly):
        resume_test(3, 0, seen.append, lambda: any(isinstance(e, Progress) and e.stage == stage for e in seen), "numpy")
    assert [path.name for path in (isolated / "selftest").iterdir()] == ["lock"]
    assert not children_in(isolated)


def test_one_at_a_time_and_only_with_a_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scratch("selftest"), pytest.raises(Refused, match="another selftest"):
        resume_test(1, 0, lambda _: None, lambda: False)
    monkeypatch.setattr(selftest, "starter", lambda: tmp_path)
    with pytest.raises(ModelError, match="no weights"):
        resume_test(1, 0, lambda _: None, lambda: False)


def test_the_short_run_is_made_of_the_starter_s_own_rows(starter: Path) -> None:
    config = selftest.short_run(starter)
    assert all(Path(name).exists() for name in config.data.train) and config.adapter.dropout > 0
    assert config.checks.save_every < config.training.steps and config.checks.eval_every > 0


def test_an_undisturbed_run_that_fails_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"nowhere\.jsonl"):
        ResumeTest(tiny(tiny_model, tmp_path / "nowhere.jsonl"), tmp_path, lambda _: None, lambda: False, "numpy").prove(1, 0)


def children_in(folder: Path) -> list[psutil.Process]:
    return [
        each for each in psutil.process_iter(["cmdline"]) if any(str(folder) in word for word in each.info["cmdline"] or ())
    ]
