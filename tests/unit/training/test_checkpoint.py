"""Checkpoints are whole, verified, few, and believed only if they are what was written."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.backend.runner import copy_into
from edgetune.errors import CheckpointError, DiskFull
from edgetune.files import sha256
from edgetune.training import checkpoint
from edgetune.training.checkpoint import Checkpoint, TrainingState, folder_of, newest, save, steps

FILES = ("parameters.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")


def state(step: int, **changes: Any) -> TrainingState:
    values = {"config_hash": "c", "data_fingerprint": "d", "base_fingerprint": "b", "workers": 2, "versions": {"numpy": "2"}}
    return TrainingState(**{**values, "step": step, "updates": step, **changes})


def arrays(step: int) -> dict[str, np.ndarray]:
    return {"x.lora_A": np.full((2, 3), step, np.float32), "x.lora_B": np.full((3, 2), -step, np.float32)}


def save_step(run: Path, step: int, best: int = 0, keep: int = 3) -> Path:
    moments = {f"{kind}.{name}": array for name, array in arrays(step).items() for kind in ("mean", "square")}
    return save(run, state(step, best_step=best, best_loss=1.5), arrays(step), moments, keep)


def newest_good(run: Path) -> tuple[int | None, list[str]]:
    """The step that a resume would go on from, and why newer ones are not believed."""
    reasons: list[str] = []
    for saved in newest(run):
        if isinstance(saved, Checkpoint):
            return saved.state.step, reasons
        reasons.append(str(saved))
    return None, reasons


STATES = st.builds(
    state, step=st.integers(0, 10**8), updates=st.integers(0, 10**8), tokens=st.integers(0, 10**12), seconds=st.floats(0, 1e9),
    best_step=st.integers(0, 10**8), best_loss=st.none() | st.floats(-1e3, 1e3), stale_validations=st.integers(0, 99),
    recent_losses=st.lists(st.floats(-1e3, 1e3), max_size=20), config_hash=st.text(max_size=5),
    versions=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)  # fmt: skip


@given(state=STATES)
def test_a_state_comes_back_as_it_was(state: TrainingState) -> None:
    assert msgspec.json.decode(msgspec.json.encode(state), type=TrainingState) == state


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])
    folder = save_step(tmp_path, 7)
    assert folder == tmp_path / "checkpoints" / "step-000007" and sorted(path.name for path in folder.iterdir()) == sorted(
        FILES
    )
    read = checkpoint.read(folder)
    assert read.state == state(7, best_loss=1.5) and read.parameters.keys() == arrays(7).keys()
    assert all(np.array_equal(read.parameters[name], array) for name, array in arrays(7).items())
    assert read.moments["square.x.lora_B"].tolist() == arrays(7)["x.lora_B"].tolist()


def test_10_only_so_many_are_kept_and_the_best_besides(tmp_path: Path) -> None:
    for step in range(0, 60, 10):
        save_step(tmp_path, step, best=10 if step >= 10 else 0, keep=2)
    assert steps(tmp_path) == [10, 40, 50]
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "step-000050\n"
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]
    save_step(tmp_path, 60, best=60, keep=2)
    assert steps(tmp_path) == [40, 50, 60]  # the old best one is no more than an old one


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save_step(tmp_path, 3)
    save(tmp_path, state(3), {"x": np.ones(2, np.float32)}, {}, 3)
    assert steps(tmp_path) == [3] and checkpoint.read(folder_of(tmp_path, 3)).parameters.keys() == {"x"}


@pytest.mark.parametrize("content", [None, "", "step-999999\n", "../../etc/passwd\n", "\x00\xff garbage", "step-000002\n"])
def test_4_latest_is_a_hint_that_nobody_believes(content: str | None, tmp_path: Path) -> None:
    save_step(tmp_path, 2)
    save_step(tmp_path, 5)
    latest = tmp_path / "checkpoints" / "LATEST"
    latest.unlink() if content is None else latest.write_text(content)
    assert newest_good(tmp_path) == (5, [])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove", "empty"])
def test_5_a_damaged_checkpoint_is_not_believed_and_the_one_before_is_used(file: str, damage: str, tmp_path: Path) -> None:
    save_step(tmp_path, 2)
    victim = save_step(tmp_path, 5) / file
    content = bytearray(victim.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    changed = {"flip": content, "cut": content[:-1], "grow": content + b"\n ", "empty": b""}
    victim.unlink() if damage == "remove" else victim.write_bytes(changed[damage])
    step, reasons = newest_good(tmp_path)
    if file == "MANIFEST.json" and damage == "grow":
        assert step == 5  # white space means nothing in JSON
    else:
        assert step == 2 and len(reasons) == 1 and "step-000005" in reasons[0]


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), file=st.sampled_from(FILES))
def test_5_no_flipped_bit_loads_other_numbers(at: int, bit: int, file: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tmp_path_factory.mktemp("run")
    victim = save_step(run, 5) / file
    content = bytearray(victim.read_bytes())
    content[at % len(content)] ^= 1 << bit
    victim.write_bytes(content)
    for saved in newest(run):
        if isinstance(saved, Checkpoint):  # a bit of the manifest's own format, which nothing depends on
            assert file == "MANIFEST.json" and saved.parameters["x.lora_A"][0, 0] == 5
    shutil.rmtree(run)


@pytest.mark.parametrize(
    "manifest",
    [[], {"files": []}, {"files": {"../x": {"bytes": 1, "sha256": ""}}}, {"files": {"state.json": {"bytes": 1e999, "sha256": ""}}},
     {"files": {"state.json": 3}}, {"files": {}}, 7],
)  # fmt: skip
def test_a_hostile_manifest_is_damage(manifest: Any, tmp_path: Path) -> None:
    save_step(tmp_path, 2)
    (save_step(tmp_path, 5) / "MANIFEST.json").write_text(json.dumps(manifest))
    step, reasons = newest_good(tmp_path)
    assert step == 2 and len(reasons) == 1


def rewrite_state(folder: Path, change: dict[str, Any], drop: tuple[str, ...] = ()) -> None:
    """A state.json as another version would have written it, its manifest with it."""
    values = {**json.loads((folder / "state.json").read_text()), **change}
    (folder / "state.json").write_text(json.dumps({key: value for key, value in values.items() if key not in drop}))
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["state.json"] = {"bytes": (folder / "state.json").stat().st_size, "sha256": sha256(folder / "state.json")}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("change", "drop"), [({"format": 2}, ()), ({"format": 2, "workers": "many"}, ()), ({}, ("versions",))])
def test_11_a_checkpoint_of_another_version_stops_rather_than_being_passed_over(
    change: dict[str, Any], drop: tuple[str, ...], tmp_path: Path
) -> None:
    """Going on from an older one would throw away what the newer version has learned."""
    save_step(tmp_path, 2)
    rewrite_state(save_step(tmp_path, 5), change, drop)
    with pytest.raises(CheckpointError, match="step-000005") as caught:
        newest_good(tmp_path)
    assert "version" in caught.value.hint


def test_steps_that_a_resumed_run_has_not_reached_again_do_not_outlive_it(tmp_path: Path) -> None:
    """Step 30 was damaged, so the run goes on from 20; at 25 the newest ones that are kept are all of this run."""
    for step in (10, 20, 30):
        save_step(tmp_path, step, keep=2)
    (folder_of(tmp_path, 30) / "state.json").write_text("{}")
    assert newest_good(tmp_path)[0] == 20
    save_step(tmp_path, 25, keep=2)
    assert steps(tmp_path) == [20, 25]
    assert newest_good(tmp_path) == (25, [])


def test_what_a_killed_process_left_is_no_checkpoint_and_only_the_writer_removes_it(tmp_path: Path) -> None:
    save_step(tmp_path, 2)
    parent = tmp_path / "checkpoints"
    shutil.copytree(parent / "step-000002", parent / ".step-000009.999999999.part")
    shutil.copytree(parent / "step-000002", parent / ".trash-step-000001-5")
    (parent / "step-12").mkdir()
    (parent / "step-000011").write_text("a file")
    (tmp_path / ".run.toml.999999999.part").write_text("half")
    assert steps(tmp_path) == [2] and newest_good(tmp_path) == (2, [])
    assert (parent / ".step-000009.999999999.part").exists()  # it may be another process's, which is at work
    checkpoint.tidy(tmp_path)
    assert sorted(path.name for path in parent.iterdir() if path.name.startswith(".")) == []
    assert not (tmp_path / ".run.toml.999999999.part").exists() and newest_good(tmp_path) == (2, [])


@pytest.mark.parametrize("point", ["checkpoint-open", "checkpoint-written", "checkpoint-flushed"])
def test_7_a_full_disk_leaves_the_older_ones_alone(point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_step(tmp_path, 2)
    from edgetune import faults

    monkeypatch.setattr(faults, "passages", {})
    monkeypatch.setenv("EDGETUNE_FAULT", f"{point}:1:enospc")
    with pytest.raises(DiskFull):
        save_step(tmp_path, 5)
    monkeypatch.delenv("EDGETUNE_FAULT")
    assert newest_good(tmp_path) == (2, [])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["LATEST", "step-000002"]


def test_arrays_of_other_names_or_shapes_are_not_put_back() -> None:
    for saved in ({"a": np.ones((1, 3))}, {"a": np.ones((2, 3)), "b": np.ones(1)}, {}, {"b": np.ones((2, 3))}):
        into = {"a": np.zeros((2, 3), np.float32)}
        with pytest.raises(ValueError, match=r"a|b"):
            copy_into(into, {name: array.astype(np.float32) for name, array in saved.items()})
        assert not into["a"].any()
