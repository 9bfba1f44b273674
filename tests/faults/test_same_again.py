"""RELIABILITY.md, 25 to 28: clocks that jump, two forms of one config, two backends, and the same run once more."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgetune.adapters.attach import open_adapted
from edgetune.architecture.config_forms import both_forms
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.cli.main import main
from edgetune.events import Event, StepFinished
from edgetune.text.batches import to_row
from edgetune.text.examples import Example
from edgetune.training.loss import trained_logits
from edgetune.workspace.run_state import replay
from edgetune.workspace.runs import new_run_folder
from tests.faults.forks import Child, forked
from tests.faults.runs import events, process, wait_for, weights

pytestmark = pytest.mark.slow  # together

DAY = 86_400.0


def losses(run: Path) -> list[float]:
    return [event.loss for event in events(run) if isinstance(event, StepFinished)]


def test_25_a_wall_clock_that_jumps_changes_nothing_but_dates(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """A day forward, a day back, an hour as in spring and autumn: between any two events."""
    run, chance = tmp_path / "run", random.Random(3)

    def train() -> int:
        from edgetune.training.event_file import EventFile

        tell = EventFile.tell

        def jumped(file: EventFile, event: Event) -> None:
            jump = chance.choice([-DAY, DAY, 3600.0, -3600.0])
            tell(file, msgspec.structs.replace(event, time=time.time() + jump))

        EventFile.tell = jumped  # type: ignore[method-assign]
        return main(["train", str(config), "--run", str(run), "--json"])

    ended = Child(train).wait()
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert 0 < document["seconds"] < 60 and weights(run) == uninterrupted
    told = events(run)
    assert [event.step for event in told if isinstance(event, StepFinished)] == list(range(1, 13))
    for count in range(1, len(told) + 1):
        state = replay(told[:count])
        assert (state.seconds_left or 0) >= 0 and state.tokens_per_second >= 0
    assert state.phase == "finished" and state.step == 12
    assert forked("runs", "--json").code == 0


def test_25_runs_that_begin_on_the_same_day_twice_have_names_of_their_own() -> None:
    names = [new_run_folder("some/model", date(2026, 11, day)).name for day in (20, 21, 20, 20, 21)]
    assert len(set(names)) == 5


def test_25_a_run_that_is_trained_is_seen_as_such_whatever_its_lock_s_date(config: Path, isolated: Path) -> None:
    run = isolated / "runs" / "mine"
    trainer = process("train", config, "--run", run, fault="checkpoint-open:2:sleep")
    try:
        wait_for((run / "checkpoints" / "LATEST").exists)
        lock = json.loads((run / "run.lock").read_text())
        for jump in (-DAY, DAY):
            (run / "run.lock").write_text(json.dumps(lock | {"started": lock["started"] + jump}))
            (told,) = json.loads(forked("runs", "--json").out)["runs"]
            assert told["phase"] == "training"
    finally:
        trainer.kill()
        trainer.communicate()
    (told,) = json.loads(forked("runs", "--json").out)["runs"]
    assert told["phase"] == "interrupted"


OLD = {"rope_theta": 12345.0, "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
       "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}  # fmt: skip


def test_26_both_forms_of_a_config_give_the_same_logits(tiny_model: Path, tmp_path: Path) -> None:
    """transformers 4 says rope_theta and rope_scaling, 5 rope_parameters: taking one for none is the bug of 0.53."""
    config = json.loads((tiny_model / "config.json").read_text())
    del config["rope_theta"]
    parameters = {"rope_parameters": {**OLD["rope_scaling"], "rope_theta": OLD["rope_theta"]}}  # type: ignore[dict-item]
    forms = {"4": config | OLD, "5": config | parameters, "both": both_forms(config | OLD), "none": config}
    ids = np.random.default_rng(1).integers(3, 300, 60).astype(np.int32)
    logits = {name: logits_of(tiny_model, tmp_path / name, form, ids) for name, form in forms.items()}
    assert np.array_equal(logits["4"], logits["5"]) and np.array_equal(logits["4"], logits["both"])
    assert np.abs(logits["4"] - logits["none"]).max() > 1e-3


def logits_of(model: Path, folder: Path, config: dict[str, object], ids: np.ndarray) -> np.ndarray:
    shutil.copytree(model, folder)
    (folder / "config.json").write_text(json.dumps(config))
    opened = open_adapted(folder)
    row: Row = to_row([Example(ids, np.ones(len(ids), np.bool_), "x", 1)])
    return trained_logits(NumpyRunner(opened.parameters, 1), opened.model, row)


def test_27_both_backends_learn_the_same_in_twenty_steps(config: Path, tmp_path: Path) -> None:
    """Through the whole of it: rows, order, packing, schedule, clipping, validation. Every family: tests/parity."""
    pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")
    line = ("train", config, "--set", "training.steps=20", "--set", "adapter.dropout=0.0")
    assert forked(*line, "--run", tmp_path / "numpy", "--backend", "numpy").code == 0
    mlx = process(*line, "--run", tmp_path / "mlx", "--backend", "mlx")
    _, errors = mlx.communicate(timeout=120)
    assert mlx.returncode == 0, errors
    assert losses(tmp_path / "mlx") == pytest.approx(losses(tmp_path / "numpy"), rel=1e-4)
    assert len(losses(tmp_path / "mlx")) == 20


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_28_another_process_learns_the_same_bit_for_bit(
    threads: str, config: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    """Another order of hashes, another wish for BLAS's threads: products of a step are made by one thread each."""
    environment = os.environ | {"PYTHONHASHSEED": threads, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "edgetune", "train", str(config), "--run", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "run") == uninterrupted


def test_28_the_events_of_two_equal_runs_differ_in_times_alone(config: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert forked("train", config, "--run", tmp_path / name).code == 0
    kept = ("step", "loss", "rate", "gradient_norm", "tokens", "trained_tokens")
    a, b = (
        [[getattr(event, name, None) for name in ("best", *kept)] for event in events(tmp_path / run)[1:-1]] for run in "ab"
    )
    assert a == b
