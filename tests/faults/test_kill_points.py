"""RELIABILITY.md, 1: a run that is killed at any named point ends bit for bit where an uninterrupted one ends."""

import signal
from pathlib import Path

import pytest

from tests.faults.forks import forked
from tests.faults.runs import checkpoints, continue_run, killed, weights

pytestmark = pytest.mark.slow  # together

BEFORE = ("config-open", "config-content", "config-written", "config-flushed", "config-renamed")
SAVING = (
    "checkpoint-open", "checkpoint-parameters", "checkpoint-optimizer", "checkpoint-state", "checkpoint-manifest",
    "checkpoint-written", "checkpoint-flush", "checkpoint-flushed", "checkpoint-renamed", "latest-open", "latest-content",
    "latest-written", "latest-flushed", "latest-renamed", "rotate-trashed",
)  # fmt: skip
HANDING_OVER = (
    "adapter-open", "adapter-config", "adapter-weights", "adapter-written", "adapter-flush", "adapter-flushed",
    "adapter-renamed",
)  # fmt: skip
AGAIN = ("checkpoint-trashed", "adapter-trashed")
FULL = ("model-open", "side-file", "model-config", "model-weights", "model-written", "model-flush", "model-flushed",
        "model-renamed", "model-trashed")  # fmt: skip
PREFIX = ("prefix-content", "prefix-flushed", "prefix-renamed", "prefix-flush")
REPORTING = ("report-open", "report-content", "report-written", "report-flushed", "report-renamed")
KILLED = (*BEFORE, "event", *SAVING, *HANDING_OVER, *AGAIN, *FULL, *PREFIX, *REPORTING)

LATER = {"event": 14, "checkpoint-parameters": 40, "checkpoint-optimizer": 60, "checkpoint-flush": 8, "adapter-weights": 9,
         "adapter-flush": 2}  # fmt: skip


@pytest.mark.parametrize("point", (*BEFORE, "event", *SAVING, *HANDING_OVER))
def test_1_kill_at_every_named_point(point: str, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """I1: once there is a checkpoint, one that verifies is always there; nothing half is ever taken for one."""
    run = tmp_path / "run"
    nth = LATER.get(point, 2 if point in SAVING else 1)
    killed(config, run, f"{point}:{nth}")
    assert bool(checkpoints(run)) is (point not in BEFORE)
    done = continue_run(config, run)
    assert done.code == 0, done.err
    assert weights(run) == uninterrupted
    assert not [*run.glob(".*"), *(run / "checkpoints").glob(".*")]


@pytest.mark.parametrize("point", REPORTING)
def test_1_kill_while_the_report_is_written(point: str, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """The run is done by then: nothing of it is lost."""
    run = tmp_path / "run"
    killed(config, run, f"{point}:1")
    done = continue_run(config, run)
    assert done.code == 0, done.err
    assert weights(run) == uninterrupted


def test_1_kill_while_a_step_is_saved_again(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """A damaged checkpoint is passed over, and its step comes once more: the old folder makes way for the new one."""
    run = tmp_path / "run"
    killed(config, run, "latest-open:3")
    newest = checkpoints(run)[-1]
    (newest / "state.json").write_bytes(b"{}")
    assert forked("resume", run, fault="checkpoint-trashed:1:kill").code == -signal.SIGKILL
    assert newest not in checkpoints(run)
    done = forked("resume", run)
    assert done.code == 0, done.err
    assert weights(run) == uninterrupted


def test_1_kill_while_the_adapter_is_handed_over_again(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """The adapter is there, but the run does not know yet: it is written once more, and killed in between."""
    run = tmp_path / "run"
    killed(config, run, "adapter-renamed:1")
    assert forked("resume", run, fault="adapter-trashed:1:kill").code == -signal.SIGKILL
    assert not (run / "adapter").exists()
    done = forked("resume", run)
    assert done.code == 0, done.err
    assert weights(run) == uninterrupted
    assert not list(run.glob(".*"))


@pytest.fixture(scope="module")
def whole_model(config: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = tmp_path_factory.mktemp("full") / "run"
    assert forked("train", config, "--run", run, *FULL_RUN).code == 0
    return (run / "model" / "model.safetensors").read_bytes()


FULL_RUN = ("--set", "adapter.method=full", "--set", "training.steps=4")


@pytest.mark.parametrize("point", FULL)
def test_1_kill_while_a_whole_model_is_handed_over(point: str, config: Path, whole_model: bytes, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(config, run, "model-renamed:1" if point == "model-trashed" else f"{point}:1", *FULL_RUN)
    if point == "model-trashed":
        assert forked("resume", run, fault=f"{point}:1:kill").code == -signal.SIGKILL
    assert (run / "model").exists() is (point == "model-renamed")
    done = forked("resume", run)
    assert done.code == 0, done.err
    assert (run / "model" / "model.safetensors").read_bytes() == whole_model
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("point", PREFIX)
def test_1_kill_while_the_frozen_layers_are_kept(point: str, config: Path, tmp_path: Path) -> None:
    last_layer = ("--set", "adapter.layers=1", "--set", "data.packing=false", "--set", "training.batch=2")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert forked("train", config, "--run", whole, *last_layer).code == 0
    killed(config, run, f"{point}:9", *last_layer)
    done = forked("resume", run)
    assert done.code == 0, done.err
    assert weights(run) == weights(whole)


def test_1_kill_on_a_quantised_base(config: Path, wide_model: Path, tmp_path: Path) -> None:
    """The base is packed anew when the run goes on, to the same bits."""
    settings = ["--set", f"model={wide_model}", "--set", "training.quantize_base=4bit"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert forked("train", config, *settings, "--run", whole).code == 0
    killed(config, run, "event:9", *settings)
    done = forked("resume", run)
    assert done.code == 0, done.err
    assert weights(run) == weights(whole)
