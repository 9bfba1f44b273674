"""RELIABILITY.md, A: whatever kills a run, resume ends bit for bit where an uninterrupted run ends."""

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
from edgetune.events import StepFinished, read

CONFIG = """model = "{model}"
[data]
train = ["{rows}"]
valid = 0.2
max_tokens = 64
[adapter]
rank = 4
alpha = 8
dropout = 0.1
[training]
steps = 12
batch = 2
accumulate = 2
rate = 5e-3
[checks]
eval_every = 4
save_every = 3
keep = 2
"""
POINTS = (
    "checkpoint-open", "checkpoint-written", "checkpoint-flushed", "checkpoint-renamed", "latest-open", "latest-written",
    "latest-flushed", "latest-renamed", "rotate-trashed", "append", "config-renamed", "adapter-open", "adapter-written",
    "adapter-flushed", "adapter-renamed",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    lines = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} and {n + 1}."}]}
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.toml").write_text(CONFIG.format(model=tiny_model, rows="rows.jsonl"))
    return folder / "run.toml"


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert edgetune("train", str(config), "--run", str(run)).returncode == 0
    return weights(run)


def edgetune(*arguments: str, fault: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "EDGETUNE_FAULT": fault} if fault else dict(os.environ)
    return subprocess.run(
        [sys.executable, "-m", "edgetune", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def continue_run(config: Path, run: Path) -> "subprocess.CompletedProcess[str]":
    """What a person does after a crash: resume, or train again where not even the run was there yet."""
    return edgetune("resume", str(run)) if (run / "run.toml").exists() else edgetune("train", str(config), "--run", str(run))


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_1_kill_at_every_named_point(point: str, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    run = tmp_path / "run"
    nth = 2 if point.startswith(("checkpoint", "latest", "append")) else 1
    killed = edgetune("train", str(config), "--run", str(run), fault=f"{point}:{nth}:kill")
    assert killed.returncode == -signal.SIGKILL
    done = continue_run(config, run)
    assert done.returncode == 0, done.stderr
    assert weights(run) == uninterrupted
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_1_kill_on_a_quantised_base(config: Path, wide_model: Path, tmp_path: Path) -> None:
    """The base is packed anew when the run goes on, to the same bits."""
    settings = ["--set", f"model={wide_model}", "--set", "training.quantize_base=4bit"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert edgetune("train", str(config), *settings, "--run", str(whole)).returncode == 0
    killed = edgetune("train", str(config), *settings, "--run", str(run), fault="append:9:kill")
    assert killed.returncode == -signal.SIGKILL
    done = edgetune("resume", str(run))
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["checkpoint-written", "rotate-trashed"])
def test_1_kill_on_mlx(point: str, config: Path, tmp_path: Path) -> None:
    """Dropout, moments and order come back on MLX, too: bit for bit, on its CPU build."""
    pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert edgetune("train", str(config), "--run", str(whole), "--backend", "mlx").returncode == 0
    killed = edgetune("train", str(config), "--run", str(run), "--backend", "mlx", fault=f"{point}:2:kill")
    assert killed.returncode == -signal.SIGKILL
    done = edgetune("resume", str(run))
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(whole)


@pytest.mark.slow
def test_2_kill_at_random_moments(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    chance = random.Random(7)
    for trial in range(4):
        run = tmp_path / f"run{trial}"
        for _ in range(3):
            first = not (run / "run.toml").exists()
            arguments = ["train", str(config), "--run", str(run)] if first else ["resume", str(run)]
            process = subprocess.Popen(
                [sys.executable, "-m", "edgetune", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(0.6 + 1.5 * chance.random())
            process.kill()
            process.wait()
        done = continue_run(config, run)
        assert done.returncode == 0, done.stderr
        assert weights(run) == uninterrupted


@pytest.mark.slow
def test_5_a_flipped_byte_is_noticed_and_the_checkpoint_before_is_used(
    config: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert edgetune("train", str(config), "--run", str(run), fault="adapter-open:1:kill").returncode == -signal.SIGKILL
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-5] ^= 1
    (newest / "optimizer.safetensors").write_bytes(content)
    done = edgetune("resume", str(run))
    assert done.returncode == 0, done.stderr
    assert "not what was written" in done.stderr
    assert weights(run) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_7_and_8_a_full_or_broken_disk_while_saving(action: str, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    run = tmp_path / "run"
    failed = edgetune("train", str(config), "--run", str(run), fault=f"checkpoint-written:3:{action}")
    assert failed.returncode == (3 if action == "enospc" else 2)
    assert failed.stderr.count("error:") == 1 and "hint:" in failed.stderr and "Traceback" not in failed.stderr
    assert not list((run / "checkpoints").glob(".*.part"))
    assert edgetune("resume", str(run)).returncode == 0
    assert weights(run) == uninterrupted


@pytest.mark.slow
def test_12_a_changed_config_or_changed_rows_are_refused_by_name(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert edgetune("train", str(config), "--run", str(run), fault="rotate-trashed:1:kill").returncode == -signal.SIGKILL
    written = (run / "run.toml").read_text()
    (run / "run.toml").write_text(written.replace("seed = 7", "seed = 8"))
    changed = edgetune("resume", str(run))
    assert changed.returncode == 2 and "run.toml changed" in changed.stderr
    (run / "run.toml").write_text(written)
    rows = config.parent / "rows.jsonl"
    before = rows.read_text()
    try:
        rows.write_text(before.replace("Say 1", "Tell 1"))
        changed = edgetune("resume", str(run))
    finally:
        rows.write_text(before)
    assert changed.returncode == 2 and "rows" in changed.stderr
    assert edgetune("resume", str(run)).returncode == 0


@pytest.mark.slow
def test_14_one_writer_per_run(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "edgetune", "train", str(config), "--run", str(run)]
    first = subprocess.Popen(
        command, env={**os.environ, "EDGETUNE_FAULT": "checkpoint-open:2:sleep"}, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(run / "checkpoints" / "LATEST")
        second = edgetune("resume", str(run))
        assert second.returncode == 2 and str(first.pid) in second.stderr
    finally:
        first.kill()
        first.wait()
    assert edgetune("resume", str(run)).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_21_a_signal_saves_and_stops(number: signal.Signals, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "edgetune", "train", str(config), "--run", str(run), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(run / "checkpoints" / "LATEST")
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    if process.returncode != 0:  # the run may have ended just before the signal came
        assert process.returncode == 4, errors
        assert json.loads(out)["error"]["kind"] == "stopped_early"
    assert edgetune("resume", str(run)).returncode == 0
    assert weights(run) == uninterrupted


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_one_of_them_writes(config: Path, tmp_path: Path) -> None:
    """As `mlx.launch -n 2 --backend ring` starts them, over this machine's own network; then both are stopped and resumed."""
    pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")
    text = config.read_text().replace("dropout = 0.1", "dropout = 0.0").replace("batch = 2", "batch = 1")
    alone = config.parent / "alone.toml"
    alone.write_text(text)
    assert edgetune("train", str(alone), "--run", str(tmp_path / "one"), "--backend", "mlx").returncode == 0
    run = tmp_path / "two"
    outs = launched(tmp_path, "train", str(alone), "--run", str(run), "--backend", "mlx", "--json")
    assert outs[0].startswith("{") and outs[1] == ""
    one, two = (load_arrays(each / "adapter" / "adapter_model.safetensors") for each in (tmp_path / "one", run))
    assert all(np.abs(two[name] - array).max() < 1e-5 for name, array in one.items())
    losses = [
        [event.loss for event in read(each / "events.jsonl") if isinstance(event, StepFinished)]
        for each in (tmp_path / "one", run)
    ]
    assert len(losses[1]) == 12 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    half = tmp_path / "half"
    launched(tmp_path, "train", str(alone), "--run", str(half), "--backend", "mlx", fault="checkpoint-open:3:eio", code=2)
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
