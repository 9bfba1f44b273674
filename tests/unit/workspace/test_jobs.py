import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgetune.errors import DiskFull, InputError, Refused
from edgetune.events import JobEnded, read
from edgetune.workspace import job as job_module
from edgetune.workspace import jobs
from edgetune.workspace.job import Job, JobStatus
from edgetune.workspace.jobs import start

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 60
PYTHON = sys.executable  # some tests put a script in its place


def ended(job: Job) -> JobStatus:
    until = time.monotonic() + PATIENCE
    while (status := job.poll()).state == "running":
        assert time.monotonic() < until
        time.sleep(0.02)
    return status


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets jobs run a shell script in Python's place; the last of its arguments is the file of events."""

    def run(script: str) -> None:
        file = tmp_path / "worker"
        file.write_text(f"#!/bin/sh\nfor events; do :; done\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return run


def test_a_job_that_is_done_has_its_document() -> None:
    job = start(["models"])
    status = ended(job)
    assert (status.state, status.exit_code) == ("done", 0) and status.result["models"]
    assert list(read(job.events))[-1].__class__ is JobEnded
    assert jobs.find_job(job.id).poll() == status and [each.id for each in jobs.all_jobs()] == [job.id]


def test_a_job_that_fails_says_why_as_the_command_does(tmp_path: Path) -> None:
    status = ended(start(["train", "nope.toml"], place=tmp_path))
    assert (status.state, status.exit_code, status.kind) == ("failed", 2, "config_error")
    assert status.message == "nope.toml: no such file" and status.hint
    status = ended(start(["train", "--nonsense"]))
    assert (status.state, status.exit_code) == ("failed", 2) and "--nonsense" in status.message


def test_a_folder_of_python_files_is_a_place_to_work_in(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    assert ended(start(["models"], place=tmp_path)).state == "done"


def test_a_killed_job_is_explained_to_all(worker: Callable[[str], None]) -> None:
    worker("kill -9 $$")
    job = start(["eval"])
    for status in (ended(job), Job(job.folder).poll()):
        assert (status.state, status.exit_code) == ("killed", -signal.SIGKILL) and "ran out of memory" in status.message


def test_the_signal_is_known_where_the_starter_lives(worker: Callable[[str], None]) -> None:
    worker("kill -SEGV $$")
    job = start(["eval"])
    assert ended(job).message == Job(job.folder).poll().message == "crashed (signal 11)"


def test_a_job_that_dies_with_a_code_and_no_word(worker: Callable[[str], None]) -> None:
    worker("echo 'ModuleNotFoundError: nothing here' >&2; exit 1")
    status = ended(start(["eval"]))
    assert (status.state, status.exit_code, status.message) == ("failed", 1, "ModuleNotFoundError: nothing here")


@pytest.mark.parametrize("document", [r"\377\376", '{"half": ', "[1]", "7", "[[[[[["])
def test_a_document_that_is_none(worker: Callable[[str], None], document: str) -> None:
    worker(f"printf '{document}'; exit 0")
    status = ended(start(["eval"]))
    assert (status.state, status.result) == ("done", {})


def test_a_job_outlives_its_starter(worker: Callable[[str], None], tmp_path: Path) -> None:
    worker(
        f'while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo \'{{"event":"JobEnded","exit_code":3,"message":"m"}}\' > $events; exit 3'
    )
    code = (
        f"import sys; sys.executable = {sys.executable!r}; from edgetune.workspace.jobs import start; print(start(['eval']).id)"
    )
    told = subprocess.run([PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    job = jobs.find_job(told.stdout.strip())
    assert job.poll().state == "running"
    (tmp_path / "go").touch()
    status = ended(job)
    assert (status.state, status.exit_code, status.message) == ("failed", 3, "m")


def test_cancelling(worker: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    worker("sleep 60")
    job = start(["export"])
    with pytest.raises(Refused):
        job.remove()
    Job(job.folder).cancel()
    assert ended(job).state == "cancelled"
    job.remove()
    assert jobs.all_jobs() == []
    worker("trap '' TERM; while :; do sleep 0.05; done")
    monkeypatch.setattr(job_module, "GRACE", 0.3)
    job = start(["export"])
    time.sleep(0.2)
    job.cancel()
    assert ended(job).state == "cancelled"


def test_what_cannot_be_written_down_is_not_started(monkeypatch: pytest.MonkeyPatch, worker: Callable[[str], None]) -> None:
    worker("sleep 60")
    before = dict(jobs.children)  # of tests that started real ones
    monkeypatch.setenv("EDGETUNE_FAULT", "job-content:1:enospc")
    with pytest.raises(DiskFull):
        start(["eval"])
    assert list(jobs.jobs_folder().iterdir()) == [] and jobs.children == before


def test_damaged_jobs_are_passed_over() -> None:
    for name, content in (("a", b"{"), ("b", b"\xff"), ("c", b"{}")):
        (jobs.jobs_folder() / name).mkdir(parents=True)
        (jobs.jobs_folder() / name / "job.json").write_bytes(content)
    assert jobs.all_jobs() == []
    for name in ("a", "nope", "../x", "\x1b"):
        with pytest.raises(InputError, match="no job of that name"):
            jobs.find_job(name)


def test_old_jobs_are_swept_and_living_ones_kept(worker: Callable[[str], None]) -> None:
    worker("sleep 60")
    old, living = start(["eval"]), start(["eval"])
    old.send(signal.SIGKILL)
    ended(old)
    for job in (old, living):
        job.keep(started=time.time() - jobs.KEPT_SECONDS - 1)
    jobs.sweep()
    assert [job.id for job in jobs.all_jobs()] == [living.id]
    living.send(signal.SIGKILL)
    ended(living)


def test_the_record_is_what_others_need(worker: Callable[[str], None], tmp_path: Path) -> None:
    worker("exit 0")
    job = start(["train", "x.toml", "--run", "r"], run=tmp_path / "r")
    ended(job)
    stored = msgspec.json.decode((job.folder / "job.json").read_bytes())
    assert stored["arguments"] == ["train", "x.toml", "--run", "r"] and stored["run"] == str(tmp_path / "r")
    found = jobs.job_of_run(tmp_path / "r")
    assert found and found.id == job.id


def test_a_log_cannot_fill_the_disk(tmp_path: Path) -> None:
    """However many lines there are: its end is kept, and no line of it is half there."""
    log = tmp_path / "log.txt"
    code = (
        "import sys\nfrom edgetune.workspace.bounded_log import bound_standard_error\nbound_standard_error()\n"
        "for n in range(60_000): print('line', n, 'ä' * 30, file=sys.stderr)\n"
    )
    with log.open("ab") as err:
        environment = {**os.environ, "EDGETUNE_JOB_LOG": str(log)}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=err, env=environment, check=True)
    lines = log.read_text("utf-8").splitlines()
    assert log.stat().st_size < 2 << 20 and lines[-1] == f"line 59999 {'ä' * 30}" and lines[0].startswith("line ")


def test_only_a_jobs_own_log_is_cut(tmp_path: Path) -> None:
    other, log = tmp_path / "other", tmp_path / "log.txt"
    log.touch()
    code = (
        "import sys\nfrom edgetune.workspace.bounded_log import bound_standard_error\nbound_standard_error()\n"
        "sys.stderr.write('x' * (3 << 20))\n"
    )
    with other.open("ab") as err:
        environment = {**os.environ, "EDGETUNE_JOB_LOG": str(log)}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=err, env=environment, check=True)
    assert other.stat().st_size == 3 << 20


def test_what_the_app_imports_is_light() -> None:
    names = ("jobs", "projects", "follow", "runs", "run_state", "names")
    code = "\n".join(
        ["import sys", *(f"import edgetune.workspace.{name}" for name in names),
         "heavy = {'numpy', 'mlx', 'llama_cpp', 'tokenizers', 'huggingface_hub', 'psutil', 'jinja2'} & sys.modules.keys()",
         "sys.exit(', '.join(heavy) or 0)"]
    )  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
