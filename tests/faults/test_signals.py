"""RELIABILITY.md, 21 to 24: signals, a terminal that closes, a parent that dies, a process that is stopped and goes on."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from edgetune.events import RunFinished, RunStopped, StepFinished
from edgetune.workspace.run_state import replay
from tests.faults.forks import forked
from tests.faults.runs import checkpoints, events, process, wait_for, weights

pytestmark = pytest.mark.slow  # together

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def steps(run: Path) -> list[StepFinished]:
    return [event for event in events(run) if isinstance(event, StepFinished)]


def has_begun(run: Path) -> bool:
    return (run / "events.jsonl").exists() and len(steps(run)) >= 2


@pytest.mark.parametrize("number", SIGNALS)
def test_21_the_first_signal_saves_and_stops(
    number: signal.Signals, config: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer = process("train", config, "--run", run, "--json")
    wait_for(lambda: has_begun(run))
    trainer.send_signal(number)
    out, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 4, errors
    assert json.loads(out)["error"]["kind"] == "stopped_early"
    stopped = events(run)[-1]
    assert isinstance(stopped, RunStopped) and checkpoints(run)[-1].name == f"step-{stopped.step:06d}"
    assert forked("resume", run).code == 0 and weights(run) == uninterrupted


@pytest.mark.parametrize("second", SIGNALS)
def test_21_the_second_one_leaves_at_once(second: signal.Signals, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """In the midst of a save that hangs: nothing half is believed afterwards."""
    run = tmp_path / "run"
    trainer = process("train", config, "--run", run, fault="checkpoint-flush:12:sleep")
    wait_for(lambda: bool(list((run / "checkpoints").glob(".step-000004.*"))))
    time.sleep(0.2)
    trainer.send_signal(signal.SIGINT)
    assert trainer.stderr is not None
    while "stopping after this step" not in trainer.stderr.readline():
        pass
    began = time.monotonic()
    trainer.send_signal(second)
    trainer.communicate(timeout=10)
    assert trainer.returncode == 128 + second and time.monotonic() - began < 2
    assert [folder.name for folder in checkpoints(run)] == ["step-000000", "step-000003"]
    assert forked("resume", run).code == 0 and weights(run) == uninterrupted


@pytest.mark.parametrize("own_session", [True, False])
def test_22_the_terminal_is_closed(own_session: bool, config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """A run of its own session goes on without it; one of the terminal's is told, saves, and stops."""
    run = tmp_path / "run"
    if own_session:
        child, terminal = os.openpty()
        ends = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
        trainer = process("train", config, "--run", run, start_new_session=True, **ends)
        os.close(terminal)
    else:
        pid, child = pty.fork()
        if pid == 0:
            os.execlp(sys.executable, sys.executable, "-m", "edgetune", "train", str(config), "--run", str(run))
    while not has_begun(run):
        os.read(child, 1 << 16)
    os.close(child)
    code = trainer.wait() if own_session else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    last = events(run)[-1]
    assert isinstance(last, RunFinished if own_session else RunStopped), (code, last)
    if not own_session:
        assert code == 4
        assert forked("resume", run).code == 0
    assert weights(run) == uninterrupted


def test_23_whoever_started_it_is_killed(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """The pipe of what it says is closed, and nobody waits for it: the run goes on to its end."""
    run = tmp_path / "run"
    parent = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "edgetune", "train", {str(config)!r}, "--run", {str(run)!r}],
                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""
    app = subprocess.Popen([sys.executable, "-c", parent])
    wait_for(lambda: has_begun(run))
    app.kill()
    app.wait()
    wait_for(lambda: isinstance(events(run)[-1], RunFinished))
    assert weights(run) == uninterrupted


def test_24_a_process_that_is_stopped_goes_on_as_if_nothing_had_been(config: Path, tmp_path: Path) -> None:
    """What it tells of its pace does not count the time away: CLOCK_MONOTONIC does, so our own clock looks for it."""
    run, away = tmp_path / "run", 3.0
    trainer = process("train", config, "--run", run, "--set", "training.steps=40", "--json")
    wait_for(lambda: has_begun(run))
    began = time.monotonic()
    trainer.send_signal(signal.SIGSTOP)
    time.sleep(away)
    trainer.send_signal(signal.SIGCONT)
    out, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 0, errors
    assert time.monotonic() - began > away
    assert max(step.seconds for step in steps(run)) < away / 2
    document = json.loads(out)
    assert document["seconds"] < time.monotonic() - began - away / 2 + 3
    state = replay(events(run))
    assert state.phase == "finished" and state.tokens_per_second > 0


def test_24_the_time_that_is_left_recovers(config: Path, tmp_path: Path) -> None:
    """One step that took an hour by any clock moves the estimate no more than any other step."""
    run = tmp_path / "run"
    assert forked("train", config, "--run", run).code == 0
    told = events(run)[:-1]
    lines = [each for each in told if isinstance(each, StepFinished)]
    usual = replay(told[: told.index(lines[9]) + 1]).seconds_left
    slow = [msgspec.structs.replace(each, seconds=3600.0) if each is lines[5] else each for each in told]
    left = replay(slow[: told.index(lines[9]) + 1]).seconds_left
    assert usual is not None and left is not None and left < 3 * usual + 1
