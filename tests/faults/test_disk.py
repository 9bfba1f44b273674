"""RELIABILITY.md, 7 to 9: a disk that is full, breaks, or is turned read-only under a run costs no checkpoint."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgetune.cli.main import main
from edgetune.events import StepFinished
from edgetune.training import checkpoint
from tests.faults.forks import Child, Ended, forked
from tests.faults.runs import checkpoints, events, weights

pytestmark = pytest.mark.slow  # together

SMALL_DISK = """
import json, os, subprocess, sys, time
from pathlib import Path
disk, config = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "small", str(disk)], check=True)
run, edgetune = disk / "run", [sys.executable, "-m", "edgetune"]
environment = {**os.environ, "EDGETUNE_FAULT": ""}
process = subprocess.Popen([*edgetune, "train", config, "--run", str(run), "--set", "training.steps=60"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
told = run / "events.jsonl"
while not (run / "checkpoints" / "step-000003").exists() and process.poll() is None:
    time.sleep(0.005)
try:
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)):
            pass
except OSError:
    pass
deadline = time.monotonic() + 60
while b'"RunPaused"' not in told.read_bytes() and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.02)
left = sorted(path.name for path in (run / "checkpoints").iterdir())
(disk / "ballast").unlink()
_, said = process.communicate(timeout=60)
adapter = run / "adapter" / "adapter_model.safetensors"
pauses = told.read_bytes().count(b'"RunPaused"')
print(json.dumps([process.returncode, said, left, pauses, adapter.read_bytes().hex() if adapter.exists() else ""]))
"""


def is_whole(run: Path) -> bool:
    """I1: a checkpoint that verifies is there, and nothing half."""
    return bool(checkpoints(run)) and all(checkpoint.verify(each) is None for each in checkpoints(run))


def is_told_once(ended: Ended) -> bool:
    """Two lines and no traceback."""
    return ended.err.count("error:") == 1 and "hint:" in ended.err and "Traceback" not in ended.err


def test_7_a_disk_that_fills_up_while_a_run_trains(config: Path, tmp_path: Path) -> None:
    """A real one, of three megabytes: the run says so there, waits, and goes on by itself once there is room."""
    unshare = ["unshare", "-Urm", sys.executable, "-c", SMALL_DISK, tmp_path, config]
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this system forbids mounts of one's own; the limit on a file's size below stands in")
    done = subprocess.run([*map(str, unshare)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code, said, left, pauses, adapter = json.loads(done.stdout)
    assert code == 0 and "the disk is full" in said and "Traceback" not in said, said
    assert any(name.startswith("step-") for name in left) and not any(name.startswith(".") for name in left)
    assert pauses == 1
    whole = tmp_path / "whole"
    assert forked("train", config, "--run", whole, "--set", "training.steps=60").code == 0
    assert adapter == weights(whole).hex()


def test_7_a_limit_on_the_size_of_files(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def train() -> int:
        saved, count = checkpoint.save, 0

        def save(*arguments: object) -> Path:
            nonlocal count
            count += 1
            if count == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
            return saved(*arguments)  # type: ignore[arg-type]

        checkpoint.save = save
        return main(["train", str(config), "--run", str(run)])

    failed = Child(train).wait()
    assert failed.code == 3 and is_told_once(failed) and is_whole(run), failed.err
    assert len(checkpoints(run)) == 2 and not list((run / "checkpoints").glob(".*"))
    assert forked("resume", run).code == 0 and weights(run) == uninterrupted


@pytest.mark.parametrize("point", ["checkpoint-open", "checkpoint-optimizer", "checkpoint-manifest", "checkpoint-flush",
                                   "checkpoint-flushed", "latest-content", "event"])  # fmt: skip
@pytest.mark.parametrize("action", ["enospc", "eio", "erofs"])
def test_7_8_9_a_disk_that_fails_once_while_saving(
    point: str, action: str, config: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    """A full disk is waited for, another failure told and tried again later. 8: an error of fsync is a failed save."""
    run = tmp_path / "run"
    nth = {"checkpoint-optimizer": 120, "checkpoint-flush": 12, "event": 10}.get(point, 3)
    done = forked("train", config, "--run", run, fault=f"{point}:{nth}:{action}")
    assert done.code == 0 and is_whole(run) and weights(run) == uninterrupted, done.err
    assert not [*run.glob(".*.part"), *(run / "checkpoints").glob(".*.part")]
    if point != "event":
        assert ("the disk is full" if action == "enospc" else "warning: no checkpoint of step") in done.err
    numbers = [event.step for event in events(run) if isinstance(event, StepFinished)]
    assert numbers == list(range(1, 13))


def test_9_a_disk_that_stays_read_only_is_one_message(config: Path, tmp_path: Path) -> None:
    """Nothing can be written any more, the event of the failure neither."""
    run = tmp_path / "run"

    def train() -> int:
        from edgetune import faults, files

        def broken(point: str) -> None:
            if (run / "checkpoints" / "step-000003").exists():
                raise OSError(30, "Read-only file system", point)

        files.fault = faults.fault = broken
        return main(["train", str(config), "--run", str(run)])

    failed = Child(train).wait()
    assert failed.code == 2 and is_told_once(failed) and "Read-only" in failed.err, failed.err
    assert is_whole(run)


def test_7_too_little_room_is_said_before_anything_is_written(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.files.free_space", lambda path: 1000)
    refused = forked("train", config, "--run", tmp_path / "run")
    assert refused.code == 3 and "of disk" in refused.err and not (tmp_path / "run").exists()
