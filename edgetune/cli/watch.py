"""`watch`: a run or a job, followed from any terminal."""

import time
from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.detached import error_of, show_beginning
from edgetune.cli.options import Job
from edgetune.cli.output import Styled
from edgetune.cli.train import report
from edgetune.errors import ChildFailed, StoppedEarly
from edgetune.events import JobEnded, RunFailed, RunFinished, RunStopped
from edgetune.units import count
from edgetune.workspace import jobs
from edgetune.workspace.follow import Follower
from edgetune.workspace.job import JobStatus
from edgetune.workspace.names import has_begun, named
from edgetune.workspace.run_state import RunState
from edgetune.workspace.runs import is_alive, name_of, why_interrupted

LOOK, LOOK_AT_PROCESS = 0.25, 1.0  # seconds


def watch(
    job: Job,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name, or a job of `edgetune jobs`.")],
    plain: Annotated[bool, typer.Option("--plain", help="Calm lines only, nothing is drawn over: for screen readers.")] = False,
) -> None:
    """Follow a run from any terminal until it ends. Ctrl-C leaves it going; the exit code is the run's."""
    folder, started = named(run)
    if plain:
        job.output.live = False
    try:
        if started and started.run and not has_begun(started.run):
            status = show_beginning(job, started)
            if status.state != "running" and not has_begun(started.run):
                raise error_of(status)
            job.view.run = RunState()
        if folder or (started and started.run):
            follow_run(job, folder or Path(started.record.run if started else ""))
        elif started:
            follow_job(job, started)
    except KeyboardInterrupt:
        job.output.clear_status()
        job.output.say(f"{run} goes on; `edgetune stop {run}` ends it")
        job.output.document({"run": str(folder) if folder else None, "left": True})


# ---- a run -------------------------------------------------------------------------------------------------------------


def follow_run(job: Job, run: Path) -> None:
    """Shows what was so far, and then what comes, until the run ends.

    Raises:
        EdgeTuneError: it ended otherwise than well.
    """
    follower = Follower(run / "events.jsonl")
    job.view.catch_up(follower.catch_up())
    looked, lives = 0.0, True
    while True:
        for event in follower.poll():
            job.view.show(event)
        if follower.is_behind:
            continue
        if follower.state.ended or not lives:
            return tell_end(job, run, follower.state)
        if time.monotonic() - looked > LOOK_AT_PROCESS:
            looked, lives = time.monotonic(), is_alive(run)  # what it wrote last is read once more
            continue
        time.sleep(LOOK)


def tell_end(job: Job, run: Path, state: RunState) -> None:
    """How a run ended, as `train` itself would have told it.

    Raises:
        StoppedEarly, ChildFailed, EdgeTuneError: it is not finished.
    """
    hint = f"`edgetune resume {name_of(run)}` continues it"
    match state.ended:
        case RunFinished():
            report(job, state.ended)
        case RunStopped():
            raise StoppedEarly(f"stopped after step {count(state.step)} of {count(state.total_steps)}", hint=hint)
        case RunFailed():
            status = JobStatus("failed", 2, state.ended.message, state.ended.hint, state.ended.kind)
            raise error_of(status)
        case None:
            raise ChildFailed(f"interrupted after step {count(state.step)}: {why_interrupted(run, state)}", hint=hint)


# ---- a job -------------------------------------------------------------------------------------------------------------


def follow_job(job: Job, started: jobs.Job) -> None:
    """Shows the events of a job that is no run until it ends.

    Raises:
        EdgeTuneError: it ended otherwise than well.
    """
    follower = Follower(started.events, with_snapshot=False)
    while True:
        status = started.poll()
        for event in follower.poll():
            if not isinstance(event, JobEnded):
                job.view.show(event)
        if follower.is_behind:
            continue
        if status.state != "running":
            break
        time.sleep(LOOK)
    if status.state != "done":
        raise error_of(status)
    job.output.say(Styled("done", "green"), f" {started.id}")
    job.output.document(status.result)
