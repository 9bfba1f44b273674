"""RELIABILITY.md, 16 to 20: numbers that are not finite, rows that teach nothing, too few rows, too little memory."""

import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.cli.main import main
from edgetune.events import RowsLeftOut, RunFailed, RunFinished, StepFinished, StepSkipped, ValidationFinished
from edgetune.training import checkpoint
from tests.faults.forks import Child, Ended, forked
from tests.faults.runs import checkpoints, events, weights

pytestmark = pytest.mark.slow  # together


def broken(run: Path, config: Path, is_bad: Callable[[int], bool], value: float, in_gradient: bool) -> Ended:
    """A run whose loss, or a gradient, is that value at some steps, counted from 0."""

    def train() -> int:
        computed = NumpyRunner.loss_and_gradients

        def changed(self: NumpyRunner, *arguments: object) -> tuple[float, dict[str, np.ndarray]]:
            loss, gradients = computed(self, *arguments)  # type: ignore[arg-type]
            if not is_bad(int(arguments[3])):  # type: ignore[call-overload]
                return loss, gradients
            if not in_gradient:
                return value, gradients
            name = next(iter(gradients))
            return loss, gradients | {name: np.full_like(gradients[name], value)}

        NumpyRunner.loss_and_gradients = changed  # type: ignore[method-assign]
        return main(["train", str(config), "--run", str(run)])

    return Child(train).wait()


@pytest.mark.parametrize("in_gradient", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_16_two_bad_steps_are_skipped_and_counted(value: float, in_gradient: bool, config: Path, tmp_path: Path) -> None:
    ended = broken(tmp_path / "run", config, lambda step: step in (4, 5), value, in_gradient)
    assert ended.code == 0, ended.err
    skipped = [event for event in events(tmp_path / "run") if isinstance(event, StepSkipped)]
    assert [event.step for event in skipped] == [5, 6] and all("rows.jsonl:" in row for row in skipped[0].rows)
    assert is_finite(tmp_path / "run")


def test_16_bad_numbers_without_end_stop_the_run_and_reach_no_file(config: Path, tmp_path: Path) -> None:
    ended = broken(tmp_path / "run", config, lambda step: step >= 4, math.nan, in_gradient=True)
    assert ended.code == 5 and "rows" in ended.err and "Traceback" not in ended.err
    assert isinstance(events(tmp_path / "run")[-1], RunFailed) and is_finite(tmp_path / "run")
    assert not (tmp_path / "run" / "adapter").exists()


def is_finite(run: Path) -> bool:
    saved = [checkpoint.read(folder) for folder in checkpoints(run)]
    arrays = [array for each in saved for array in (*each.parameters.values(), *each.moments.values())]
    return bool(arrays) and all(np.isfinite(array).all() for array in arrays)


def own(config: Path, folder: Path, rows: list[dict[str, object]], old: str = "", new: str = "") -> Path:
    """The config with rows of its own."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(config.read_text().replace(old, new) if old else config.read_text())
    return folder / "run.toml"


def said(prompt: str, completion: str) -> dict[str, object]:
    return {"prompt": prompt, "completion": completion}


@pytest.mark.parametrize("packing", ["true", "false"])
def test_17_rows_that_teach_nothing_are_dropped_and_counted(packing: str, config: Path, tmp_path: Path) -> None:
    """One is longer than data.max_tokens, its prompt alone fills it: it is never a batch of nothing, 0 / 0."""
    long, masked = said("Tell me all. " * 60, "Yes."), {"input_ids": [5, 6, 7], "loss_mask": [0, 0, 0]}
    file = own(config, tmp_path, [*(said(f"Say {n}", f"{n}.") for n in range(60)), long, masked])
    for how in ("drop", "cut", "split"):
        run = tmp_path / how
        done = forked("train", file, "--run", run, "--set", f"data.packing={packing}", "--set", f"data.long_rows={how}")
        assert done.code == 0, done.err
        told = events(run)
        assert {event.line for event in told if isinstance(event, RowsLeftOut)} >= {61, 62}, how
        losses = [event.loss for event in told if isinstance(event, StepFinished | ValidationFinished)]
        assert losses and all(math.isfinite(loss) for loss in losses)


def test_17_rows_that_all_teach_nothing_are_refused(config: Path, tmp_path: Path) -> None:
    file = own(config, tmp_path, [{"input_ids": [5, 6, 7], "loss_mask": [0, 0, 0]}] * 4)
    refused = forked("train", file, "--run", tmp_path / "run")
    assert refused.code == 2 and "rows.jsonl" in refused.err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("valid", ["valid = 0.2", "valid = 0.0"])
def test_18_fewer_rows_than_a_batch(rows: int, valid: str, config: Path, tmp_path: Path) -> None:
    file = own(config, tmp_path, [said(f"Say {n}", f"{n}.") for n in range(rows)], "valid = 0.2", valid)
    done = forked("train", file, "--run", tmp_path / "run", "--set", "training.batch=4", "--set", "training.accumulate=3")
    assert done.code == 0, done.err
    last = events(tmp_path / "run")[-1]
    assert isinstance(last, RunFinished) and math.isfinite(last.train_loss) and weights(tmp_path / "run")
    assert (last.valid_loss is None) is (valid.endswith("0.0") or rows == 1)


def test_18_no_row_and_no_row_to_validate_are_said(config: Path, tmp_path: Path) -> None:
    file = own(config, tmp_path, [])
    refused = forked("train", file, "--run", tmp_path / "run")
    assert refused.code == 2 and "rows.jsonl" in refused.err and "Traceback" not in refused.err
    (tmp_path / "none.jsonl").write_text("\n")
    file = own(config, tmp_path, [said("a", "b")] * 9, "valid = 0.2", 'valid = ["none.jsonl"]')
    refused = forked("train", file, "--run", tmp_path / "run")
    assert refused.code == 2 and "none.jsonl" in refused.err and not (tmp_path / "run").exists()


def test_19_what_cannot_fit_is_refused_before_anything_is_there(config: Path, tmp_path: Path) -> None:
    def train() -> int:
        from edgetune.workspace import planning

        planning.usable_memory = lambda: 30_000_000
        arguments = ["--set", "training.batch=64", "--set", "adapter.rank=256", "--set", "data.max_tokens=256"]
        return main(["train", str(config), "--run", str(tmp_path / "run"), *arguments])

    refused = Child(train).wait()
    assert refused.code == 3 and "of memory" in refused.err and "usable" in refused.err and "hint:" in refused.err, refused.err
    assert not (tmp_path / "run").exists()


def test_20_memory_that_runs_out_in_a_step_names_it(config: Path, tmp_path: Path) -> None:
    """The system refuses more while the fifth step computes."""
    run = tmp_path / "run"

    def train() -> int:
        computed = NumpyRunner.loss_and_gradients

        def in_want(self: NumpyRunner, *arguments: object) -> object:
            if arguments[3] == 4:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used, used))
                return np.ones(1 << 28)
            return computed(self, *arguments)  # type: ignore[arg-type]

        NumpyRunner.loss_and_gradients = in_want  # type: ignore[assignment]
        return main(["train", str(config), "--run", str(run)])

    began = time.monotonic()
    ended = Child(train).wait()
    assert ended.code == 3 and "memory ran out in step 5 of 12" in ended.err and "edgetune resume" in ended.err, ended.err
    assert "Traceback" not in ended.err and time.monotonic() - began < 30
    last = events(run)[-1]
    assert isinstance(last, RunFailed) and last.kind == "does_not_fit"
    assert [folder.name for folder in checkpoints(run)][-1] == "step-000004"
    checkpoint.verify(checkpoints(run)[-1])
    assert forked("resume", run).code == 0
