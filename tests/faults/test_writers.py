"""RELIABILITY.md, 14 and 15: a run has one writer, and its lock dies with it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.faults.forks import forked
from tests.faults.runs import killed, process, wait_for, weights

pytestmark = pytest.mark.slow  # together


def test_14_one_writer_per_run(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = process("train", config, "--run", run, fault="checkpoint-open:2:sleep")
    try:
        wait_for((run / "checkpoints" / "LATEST").exists)
        second = forked("resume", run)
        assert second.code == 2 and str(first.pid) in second.err and "another process trains here" in second.err
        assert "holds a run already" in forked("train", config, "--run", run).err
    finally:
        first.kill()
        first.communicate()
    assert forked("resume", run).code == 0 and weights(run) == uninterrupted


@pytest.mark.parametrize("who", [{"pid": 1, "host": "elsewhere", "started": 1e12}, {"pid": "?"}, [], "no JSON"])
def test_15_a_copied_run_has_a_stale_lock(who: object, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """What the file says of another host is nothing against the system's own lock, which nobody holds."""
    killed(config, tmp_path / "here", "checkpoint-renamed:3")
    run = Path(shutil.copytree(tmp_path / "here", tmp_path / "there"))
    (run / "run.lock").write_text(who if isinstance(who, str) else json.dumps(who))
    assert forked("runs", "--json").code == 0
    done = forked("resume", run)
    assert done.code == 0, done.err
    assert weights(run) == uninterrupted
    assert json.loads((run / "run.lock").read_text())["host"] != "elsewhere"
