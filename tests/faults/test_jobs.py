"""RELIABILITY.md 14, 15, 22, 23 and 62 where they concern jobs, and kills at the points of what the workspace keeps."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgetune.events import RunStarted, StepFinished, read, to_line
from edgetune.training.control import Pause, Stop, send
from edgetune.workspace import follow, jobs, project_file, projects
from edgetune.workspace.follow import Follower
from edgetune.workspace.job import Job
from edgetune.workspace.run_state import replay
from edgetune.workspace.runs import is_alive, summary
from tests.faults.forks import Child
from tests.faults.runs import weights

ENDS = ("open", "content", "written", "flushed", "renamed")
KILLED = (
    *(f"{name}-{end}" for name in ("job", "project") for end in ENDS), "project-flush", "project-move-flushed",
    "project-move-renamed", "snapshot", "snapshot-flushed", "snapshot-renamed",
)  # fmt: skip
STARTED = RunStarted(
    run="r", first_step=0, total_steps=9, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1,
    trained_tokens=1, planned_peak_bytes=1,
)  # fmt: skip
STEP = StepFinished(step=4, loss=2.5, rate=1, gradient_norm=1, tokens=1, trained_tokens=1, seconds=1, memory_bytes=1)


def until(what: Any, seconds: float = 90.0) -> None:
    """Waits for something to be true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def steps(run: Path) -> int:
    return Follower(run / "events.jsonl").catch_up().step


# ---- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [point for point in KILLED if point.startswith("job")])
def test_1_kill_while_a_job_is_written_down(point: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing half written is listed, and what was started anyway is either listed or gone in the end."""
    worker = tmp_path / "worker"
    worker.write_text("#!/bin/sh\nexit 0\n")
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    killed = Child(lambda: int(jobs.start(["eval"]) is ...), f"{point}:1:kill").wait()
    assert killed.code == -signal.SIGKILL
    assert len(jobs.all_jobs()) == (point == "job-renamed")
    job = jobs.start(["eval"])
    until(lambda: job.poll().state == "done")
    assert job.id in {each.id for each in jobs.all_jobs()}


@pytest.mark.parametrize("point", [point for point in KILLED if point.startswith("project")])
def test_1_kill_while_a_project_is_written(point: str) -> None:
    """A project is there or not; its config is the old one or the new one."""

    def work() -> int:
        project = projects.create("desk", goal="g")
        project_file.write_config(project, project_file.empty_config(), goal="h")
        projects.restore(projects.remove(projects.rename(project, "help")).name.partition("~")[0])
        return 0

    assert Child(work, f"{point}:1:kill").wait().code == -signal.SIGKILL
    for found in projects.all_overviews():
        assert found.goal in ("g", "h") and not found.problem
    for project in projects.all_projects():
        projects.remove(project)
    assert Child(work).wait().code == 0
    assert [each.name for each in projects.all_projects()] == ["help"]


@pytest.mark.parametrize("point", [point for point in KILLED if point.startswith("snapshot")])
def test_1_kill_while_a_snapshot_is_written(point: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"".join(to_line(event) + b"\n" for event in (STARTED, STEP, STEP)))

    def work() -> int:
        follower = Follower(file)
        follower.catch_up()
        follow.keep_snapshot(follower)
        return 0

    assert Child(work, f"{point}:1:kill").wait().code == -signal.SIGKILL
    assert Follower(file).catch_up() == replay(read(file))
    assert Child(work).wait().code == 0
    assert follow.read_snapshot(file) is not None


# ---- who trains --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_14_a_second_job_on_a_run_is_told_of_the_first(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = jobs.start(["train", str(config), "--run", str(run), "--set", "training.steps=500"], run=run)
    until(lambda: steps(run) >= 1)
    second = jobs.start(["resume", str(run)], run=run)
    until(lambda: second.poll().state != "running")
    status = second.poll()
    assert (status.state, status.exit_code) == ("failed", 2) and is_alive(run)
    assert str(first.record.pid) in status.message or "trains already" in status.message
    first.send(signal.SIGKILL)
    until(lambda: first.poll().state == "killed")
    third = jobs.start(["resume", str(run)], run=run)
    before = summary(run).step
    until(lambda: third.poll().state != "running" or steps(run) > before)
    assert third.poll().state == "running"
    send(run, Stop())
    until(lambda: third.poll().state == "stopped")


def test_15_a_copy_of_a_run_from_another_machine_is_not_alive(tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    run.mkdir()
    (run / "run.toml").write_text('model = "tiny"\n')
    (run / "events.jsonl").write_bytes(to_line(STARTED) + b"\n" + to_line(STEP) + b"\n")
    (run / "run.lock").write_text(json.dumps({"pid": os.getpid(), "host": "another", "started": time.time()}))
    shutil.copytree(run, copy)
    assert not is_alive(copy) and summary(copy).phase == "interrupted" and "ran out of memory" in summary(copy).why


@pytest.mark.slow
def test_22_a_terminal_that_is_closed_takes_nothing_with_it(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """The command runs in a terminal of its own, which is gone as soon as the run has begun."""
    run = tmp_path / "run"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "edgetune", "train", str(config), "--run", str(run), "--detach"])
    until(lambda: steps(run) >= 1)
    os.close(terminal)
    os.kill(pid, signal.SIGHUP)
    os.waitpid(pid, 0)
    job = jobs.job_of_run(run)
    assert job
    until(lambda: job.poll().state != "running")
    assert job.poll().state == "done" and weights(run) == uninterrupted


@pytest.mark.slow
def test_23_a_starter_that_is_killed_takes_nothing_with_it(config: Path, uninterrupted: bytes, tmp_path: Path) -> None:
    """Even its whole group: the job is in a session of its own, and its words go to a file."""
    run = tmp_path / "run"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom edgetune.workspace.jobs import start\n"
        f"start(['train', {str(config)!r}, '--run', {str(run)!r}], run=Path({str(run)!r}))\ntime.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until(lambda: steps(run) >= 1)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    job = jobs.job_of_run(run)
    assert job and job.run == run
    until(lambda: job.poll().state != "running")
    status = job.poll()
    assert (status.state, status.result["run"]) == ("done", str(run)) and weights(run) == uninterrupted


@pytest.mark.slow
def test_20_a_job_that_is_killed_while_it_waits_is_explained_and_goes_on(
    config: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = jobs.start(["train", str(config), "--run", str(run)], run=run)
    until(lambda: steps(run) >= 1)
    send(run, Pause())
    until(lambda: Follower(run / "events.jsonl").catch_up().phase == "paused")
    os.kill(first.record.pid, signal.SIGKILL)
    until(lambda: first.poll().state == "killed")
    known = summary(run)
    assert known.phase == "interrupted" and known.why.startswith("killed (signal 9)")
    second = jobs.start(["resume", str(run)], run=run)
    until(lambda: second.poll().state == "done")
    assert weights(run) == uninterrupted


@pytest.mark.parametrize(
    "script",
    [
        "yes nonsense | head -c 30000000; exit 0",
        r"printf '\377\376\n'; printf '\377' >&2; exit 5",
        "printf '{\"a\": '",
        "exit 7",
    ],
)
def test_62_a_child_that_talks_nonsense_keeps_nobody_waiting(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker"
    worker.write_text(f"#!/bin/sh\nfor events; do :; done\nyes nonsense | head -c 3000000 > $events\n{script}\n")
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    job = jobs.start(["eval"])
    follower, longest, state = Follower(job.events, with_snapshot=False), 0.0, "running"
    while state == "running" or follower.is_behind:
        began = time.process_time()
        assert follower.poll() == []
        state = job.poll().state
        longest = max(longest, time.process_time() - began)
        time.sleep(0.01)
    assert longest < 1.0 and state in ("done", "failed")
    assert Job(job.folder).poll().result == {}
