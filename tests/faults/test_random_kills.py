"""RELIABILITY.md, 2: kills at random moments, on NumPy and on MLX, and a run of two processes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgetune.architecture.weights import load_arrays
from edgetune.cli.main import main
from edgetune.events import StepFinished, read
from tests.faults.forks import Child
from tests.faults.runs import continue_run, weights

pytestmark = pytest.mark.slow  # together

NO_MLX = "MLX is not installed: pip install 'edgetune[mlx-cpu]'"


def test_2_kill_at_random_moments(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """I2. 18 kills; 200 are `python -m tests.benchmarks.kills`, and on a person's machine `edgetune selftest resume`."""
    chance = random.Random(7)
    for trial in range(6):
        run = tmp_path / f"run{trial}"
        for _ in range(3):
            begun = (run / "run.toml").exists()
            line = ["resume", str(run)] if begun else ["train", str(config), "--run", str(run)]
            child = Child(lambda line=line: main(line))
            time.sleep(0.5 * chance.random())
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        done = continue_run(config, run)
        assert done.code == 0, done.err
        assert weights(run) == uninterrupted


def edgetune(*arguments: str | Path, fault: str = "") -> "subprocess.CompletedProcess[str]":
    """A process of its own: MLX's threads do not survive a fork."""
    command = [sys.executable, "-m", "edgetune", *map(str, arguments)]
    environment = os.environ | {"EDGETUNE_FAULT": fault}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("point", ["checkpoint-written", "rotate-trashed"])
def test_1_kill_on_mlx(point: str, config: Path, tmp_path: Path) -> None:
    """Dropout, moments and order come back on MLX, too: bit for bit, on its CPU build."""
    pytest.importorskip("mlx.core", reason=NO_MLX)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert edgetune("train", config, "--run", whole, "--backend", "mlx").returncode == 0
    killed = edgetune("train", config, "--run", run, "--backend", "mlx", fault=f"{point}:2:kill")
    assert killed.returncode == -signal.SIGKILL
    done = edgetune("resume", run)
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(whole)


def test_two_processes_learn_what_one_learns_and_one_of_them_writes(config: Path, tmp_path: Path) -> None:
    """As `mlx.launch -n 2 --backend ring` starts them, over this machine's own network; then both are stopped and resumed."""
    pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")
    text = config.read_text().replace("dropout = 0.1", "dropout = 0.0")
    alone = config.parent / "alone.toml"
    alone.write_text(text)
    assert edgetune("train", alone, "--run", tmp_path / "one", "--backend", "mlx").returncode == 0
    run = tmp_path / "two"
    outs = launched(tmp_path, "train", alone, "--run", str(run), "--backend", "mlx", "--json")
    assert outs[0].startswith("{") and outs[1] == ""
    one, two = (load_arrays(each / "adapter" / "adapter_model.safetensors") for each in (tmp_path / "one", run))
    assert all(np.abs(two[name] - array).max() < 1e-5 for name, array in one.items())
    losses = [
        [event.loss for event in read(each / "events.jsonl") if isinstance(event, StepFinished)]
        for each in (tmp_path / "one", run)
    ]
    assert len(losses[1]) == 12 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    half = tmp_path / "half"
    launched(tmp_path, "train", alone, "--run", str(half), "--backend", "mlx", fault="checkpoint-open:3:kill", code=-9)
    launched(tmp_path, "resume", str(half))
    assert weights(half) == weights(run)


def launched(folder: Path, *arguments: str, fault: str = "", code: int = 0) -> list[str]:
    """The standard outputs of two processes that train together; a fault is the first one's, and the second is then ended."""
    with closing(socket.socket()) as first, closing(socket.socket()) as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (first, second)]
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    environments = [
        {**os.environ, "MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank), "EDGETUNE_FAULT": fault if rank == 0 else ""}
        for rank in range(2)
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "edgetune", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    out, errors = processes[0].communicate(timeout=120)
    if code:  # mlx.launch ends the others
        processes[1].kill()
    other, other_errors = processes[1].communicate(timeout=120)
    assert processes[0].returncode == code and (code or processes[1].returncode == 0), errors + other_errors
    return [out, other]
