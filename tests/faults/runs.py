"""What the fault tests do with runs: start them, wait for them, continue them, look at what they hand over."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edgetune.events import AnyEvent, read
from tests.faults.forks import Ended, forked


def weights(run: Path) -> bytes:
    """The adapter that a run handed over."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def continue_run(config: Path, run: Path) -> Ended:
    """What a person does after a crash: resume, or train again where not even the run was there yet."""
    return forked("resume", run) if (run / "run.toml").exists() else forked("train", config, "--run", run)


def killed(config: Path, run: Path, fault: str, *arguments: str) -> None:
    """Trains until the process dies at a point: "checkpoint-open:2"."""
    ended = forked("train", config, "--run", run, *arguments, fault=f"{fault}:kill")
    assert ended.code == -9, f"{fault} was never passed: {ended.code} {ended.err}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def events(run: Path) -> list[AnyEvent]:
    """All events of a run."""
    return list(read(run / "events.jsonl"))


def process(*arguments: str | Path, fault: str = "", **options: object) -> "subprocess.Popen[str]":
    """Our command line as a process of its own, for what a fork cannot show: signals, terminals, pipes."""
    environment = os.environ | {"EDGETUNE_FAULT": fault}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    command = [sys.executable, "-m", "edgetune", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
