"""Starting jobs, and finding them again: our own command line as a child that outlives whoever started it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from edgetune.errors import InputError
from edgetune.files import clean, disk_errors, home, safe_name
from edgetune.locks import Held, beginning, hold, name_owner
from edgetune.workspace.bounded_log import LOG_VARIABLE
from edgetune.workspace.job import Job, Record, children, write_record

KEPT_SECONDS, KEPT_JOBS = 14 * 86400, 200


# ---- starting ----------------------------------------------------------------------------------------------------------


def start(arguments: Sequence[str], run: Path | None = None, place: Path | None = None) -> Job:
    """Starts `edgetune ARGUMENTS --json --events FILE` in a session of its own. `run`: the folder of the run that it trains;
    `place`: the working folder, else this process's.

    Raises:
        DiskFull, InputError: it cannot be started or written down; nothing is left of it then.
    """
    sweep()
    folder = new_folder(next((each for each in arguments if not each.startswith("-")), "job"))
    try:
        with disk_errors(folder):
            child = spawn(folder, arguments, place)
        record = Record(
            id=folder.name,
            arguments=list(arguments),
            run=str(run.absolute()) if run else "",
            place=str(place or Path.cwd()),
            pid=child.pid,
            began=beginning(child.pid),
            started=time.time(),
        )
        try:
            name_owner(folder / "job.lock", child.pid)
            write_record(folder, record)
        except BaseException:
            child.kill()
            child.wait()
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    children[str(folder)] = child
    return Job(folder)


def spawn(folder: Path, arguments: Sequence[str], place: Path | None) -> "subprocess.Popen[bytes]":
    """The child: it keeps the lock, its standard output is the result, and its standard error is the log."""
    command = [sys.executable, "-P", "-m", "edgetune", *arguments]
    if "--json" not in arguments:
        command.append("--json")
    command += ["--events", str(folder / "events.jsonl")]
    with (
        (folder / "job.lock").open("wb") as lock,
        (folder / "result.json").open("wb") as result,
        (folder / "log.txt").open("ab") as log,
    ):
        with suppress(Held):  # the folder is new: nobody else has it
            hold(lock.fileno(), folder / "job.lock")
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=log,
            cwd=place,
            env=environment(folder / "log.txt"),
            pass_fds=[lock.fileno()],  # the lock is the child's as soon as we close our end
            start_new_session=True,
        )


def environment(log: Path) -> dict[str, str]:
    """This process's environment, with this package in reach wherever the child works."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    changes = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), LOG_VARIABLE: str(log), "EDGETUNE_HOME": str(home())}
    return {**os.environ, **changes}


def jobs_folder() -> Path:
    """Where all jobs lie."""
    return home() / "jobs"


def new_folder(command: str) -> Path:
    """An empty folder for a job: what it does, when, and a number that is free."""
    stem = f"{safe_name(command)}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        folder = jobs_folder() / f"{stem}-{number}"
        try:
            with disk_errors(jobs_folder()):
                jobs_folder().mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


# ---- finding -----------------------------------------------------------------------------------------------------------


def all_jobs() -> list[Job]:
    """Every job whose record can be read, the newest first."""
    return sorted(readable(), key=lambda job: -job.record.started)


def readable() -> Iterator[Job]:
    """The jobs in no order."""
    for file in jobs_folder().glob("*/job.json"):
        with suppress(InputError):
            yield Job(file.parent)


def find_job(id: str) -> Job:
    """The job of that name.

    Raises:
        InputError: there is none.
    """
    with suppress(InputError):
        return Job(jobs_folder() / safe_name(id))
    raise InputError("no job of that name", file=clean(id), hint="`edgetune jobs` lists them")


def job_of_run(run: Path) -> Job | None:
    """The job that trains or trained a run last."""
    wanted = str(run.absolute())
    return next((job for job in all_jobs() if job.record.run == wanted), None)


def sweep() -> None:
    """Forgets jobs that ended long ago, and the oldest where there are very many."""
    now = time.time()
    for number, job in enumerate(all_jobs()):
        if (number >= KEPT_JOBS or now - job.record.started > KEPT_SECONDS) and not job.is_running():
            shutil.rmtree(job.folder, ignore_errors=True)
