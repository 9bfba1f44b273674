"""RELIABILITY.md, 3 to 5 and 10 to 13: which checkpoint is believed, and what a run may go on with."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetune.architecture.weights import load_arrays, save_arrays
from edgetune.errors import CheckpointError
from edgetune.events import CheckpointRejected, RunStarted, Warned
from edgetune.training import checkpoint
from tests.faults.forks import forked
from tests.faults.runs import checkpoints, events, killed, weights

pytestmark = pytest.mark.slow  # together


@pytest.fixture(scope="module")
def nine_steps(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when step 9's checkpoint had its name, and LATEST still named step 8. Not to be changed: copy it."""
    run = tmp_path_factory.mktemp("nine") / "run"
    killed(config, run, "checkpoint-renamed:6")
    return run


@pytest.fixture
def run(nine_steps: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nine_steps, tmp_path / "run"))


def resumed(run: Path, *arguments: str) -> RunStarted:
    """Resumes to the end; where it began."""
    done = forked("resume", run, *arguments)
    assert done.code == 0, done.err
    return [event for event in events(run) if isinstance(event, RunStarted)][-1]


def rewritten(folder: Path, name: str, content: bytes) -> None:
    """Another content of a checkpoint's file, and a manifest that vouches for it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def test_3_the_newer_folder_counts_and_not_the_name_in_latest(run: Path, uninterrupted: bytes) -> None:
    assert (run / "checkpoints" / "LATEST").read_text() == "step-000008\n"
    assert resumed(run).first_step == 9
    assert weights(run) == uninterrupted


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00garbage", b"../../../../etc\n", b"/etc\n", b"step-000003\n"])
def test_4_latest_is_never_believed(content: bytes | None, run: Path, uninterrupted: bytes) -> None:
    latest = run / "checkpoints" / "LATEST"
    latest.unlink()
    if content is not None:
        latest.write_bytes(content)
    assert resumed(run).first_step == 9
    assert weights(run) == uninterrupted


@pytest.mark.parametrize("name", ["parameters.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_5_a_flipped_byte_is_noticed_and_the_checkpoint_before_is_used(name: str, run: Path, uninterrupted: bytes) -> None:
    file = checkpoints(run)[-1] / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert resumed(run).first_step == 8
    (rejected,) = [event for event in events(run) if isinstance(event, CheckpointRejected)]
    assert rejected.folder.endswith("step-000009") and (name in rejected.reason or "manifest" in rejected.reason)
    assert weights(run) == uninterrupted


def test_5_where_none_verifies_it_starts_anew_and_says_so(run: Path, uninterrupted: bytes) -> None:
    for folder in checkpoints(run):
        os.truncate(folder / "optimizer.safetensors", 100)
    there = len(checkpoints(run))
    assert resumed(run).first_step == 0
    assert len([event for event in events(run) if isinstance(event, CheckpointRejected)]) == there
    assert weights(run) == uninterrupted


def test_10_a_kill_while_an_old_one_is_removed(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """keep = 2: the newest two verify, trash is gone after the next start."""
    run = tmp_path / "run"
    killed(config, run, "rotate-trashed:2")
    assert list((run / "checkpoints").glob(".trash-*"))
    for folder in checkpoints(run)[-2:]:
        checkpoint.verify(folder)
    resumed(run)
    assert not list((run / "checkpoints").glob(".*")) and weights(run) == uninterrupted
    for folder in checkpoints(run)[-2:]:
        checkpoint.verify(folder)


@pytest.mark.parametrize("version", [0, 2, 99, "1", None])
def test_11_another_version_s_checkpoint_is_never_reinterpreted(version: object, run: Path) -> None:
    """Nor is an older one taken in its place: the run would lose steps without a word."""
    newest = checkpoints(run)[-1]
    state = json.loads((newest / "state.json").read_text())
    rewritten(newest, "state.json", json.dumps(state | {"format": version}).encode())
    refused = forked("resume", run)
    assert refused.code == 2 and "hint: " in refused.err and "version" in refused.err and "step-000009" in refused.err


def keys(old: str, new: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        text = (run / "run.toml").read_text()
        assert old in text
        (run / "run.toml").write_text(text.replace(old, new))

    return change


def other_rows(run: Path) -> None:
    rows = run.parent / "config" / "rows.jsonl"
    rows.write_text(rows.read_text().replace("Say 1", "Tell 1"))


def other_template(run: Path) -> None:
    file = run.parent / "model" / "chat_template.jinja"
    file.write_text(file.read_text().replace("{{ bos_token }}", "{{ bos_token }} "))


def other_weights(run: Path) -> None:
    file = run.parent / "model" / "model.safetensors"
    arrays = load_arrays(file)
    arrays["model.norm.weight"] = arrays["model.norm.weight"] * np.float32(1.5)
    file.unlink()
    save_arrays(file, arrays, {"format": "pt"})


CHANGES = {
    "seed": (keys("seed = 7", "seed = 8"), "training.seed was 7, is 8"),
    "rate": (keys("rate = 0.005", "rate = 0.01"), "training.rate was 0.005, is 0.01"),
    "dropout": (keys("dropout = 0.1", "dropout = 0.0"), "adapter.dropout was 0.1, is 0.0"),
    "rows": (other_rows, "the rows changed"),
    "template": (other_template, "the template changed"),
    "base model": (other_weights, "the base model"),
}


@pytest.fixture(scope="module")
def own_inputs(config: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A killed run whose model and rows are its own, in one folder: model, config, run."""
    place = tmp_path_factory.mktemp("own")
    shutil.copytree(tiny_model, place / "model")
    shutil.copytree(config.parent, place / "config")
    file = place / "config" / "run.toml"
    file.write_text(file.read_text().replace(str(tiny_model), str(place / "model")))
    killed(file, place / "run", "checkpoint-renamed:3")
    return place


@pytest.mark.parametrize("what", CHANGES)
def test_12_what_changed_is_named_and_force_is_kept(what: str, own_inputs: Path) -> None:
    change, said = CHANGES[what]
    before = {file: file.read_bytes() for file in own_inputs.rglob("*") if file.is_file()}
    try:
        change(own_inputs / "run")
        refused = forked("resume", own_inputs / "run")
        assert refused.code == 2 and said in refused.err and "--force" in refused.err, refused.err
        resumed(own_inputs / "run", "--force")
        (warned,) = [event.message for event in events(own_inputs / "run") if isinstance(event, Warned)]
        assert "forced" in warned and said in warned
    finally:
        shutil.rmtree(own_inputs / "run")
        for file, content in before.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def test_12_another_rank_is_refused_even_if_forced(own_inputs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(own_inputs / "run", tmp_path / "run"))
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(text.replace("rank = 4", "rank = 8"))
    assert "adapter.rank was 4, is 8" in forked("resume", run).err
    forced = forked("resume", run, "--force")
    assert forced.code == 2 and "does not fit" in forced.err and not (run / "adapter").exists()


def without_one(arrays: dict[str, np.ndarray]) -> None:
    del arrays[next(name for name in arrays if name.startswith("square."))]


def of_another_shape(arrays: dict[str, np.ndarray]) -> None:
    name = next(iter(arrays))
    arrays[name] = arrays[name][:-1]


def with_a_stranger(arrays: dict[str, np.ndarray]) -> None:
    arrays["mean.of.nothing"] = np.zeros(3, np.float32)


@pytest.mark.parametrize("damage", [without_one, of_another_shape, with_a_stranger])
def test_13_moments_that_do_not_fit_are_refused(damage: Callable[[dict[str, np.ndarray]], None], run: Path) -> None:
    """The manifest vouches for them, so it is no damage of the disk: Adam is never begun anew without a word."""
    file = checkpoints(run)[-1] / "optimizer.safetensors"
    arrays = load_arrays(file, CheckpointError)
    damage(arrays)
    file.unlink()
    save_arrays(file, arrays)
    rewritten(file.parent, file.name, file.read_bytes())
    for arguments in ((), ("--force",)):
        refused = forked("resume", run, *arguments)
        assert refused.code == 2 and "does not fit" in refused.err
    assert not (run / "adapter").exists()


def test_10_only_the_best_is_kept_beyond_the_newest(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert forked("train", config, "--run", run).code == 0
    best = checkpoint.read(checkpoints(run)[-1]).state.best_step
    names = [folder.name for folder in checkpoints(run)]
    assert names[-1] == "step-000012" and f"step-{best:06d}" in names and len(names) <= 3
