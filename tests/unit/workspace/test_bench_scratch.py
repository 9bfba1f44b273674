import subprocess
import sys
from pathlib import Path

import pytest

from edgetune.errors import Refused
from edgetune.workspace.bench_scratch import scratch


def test_nothing_stays_and_what_a_killed_bench_left_goes(isolated: Path) -> None:
    left = isolated / "bench" / ".123.part" / "smollm2-135m"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RuntimeError), scratch() as folder:
        assert not left.exists() and list(folder.iterdir()) == []
        (folder / "model.safetensors").write_bytes(b"x")
        raise RuntimeError
    assert [file.name for file in (isolated / "bench").iterdir()] == ["lock"]


def test_two_at_once_would_measure_each_other() -> None:
    with scratch() as folder:
        with pytest.raises(Refused, match="another bench"), scratch():
            pass
        assert folder.is_dir(), "the other's folder is not swept"
    with scratch():
        pass


def test_a_process_that_outlives_its_bench_still_counts() -> None:
    with scratch():
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with pytest.raises(Refused), scratch():
            pass
    finally:
        orphan.communicate(b"\n")
    with scratch():
        pass
