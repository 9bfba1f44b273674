"""`--detach`: a command goes on in the background, once it has begun; what stops it before that is told here."""

import time
from collections.abc import Sequence
from pathlib import Path

from edgetune.cli.options import Job
from edgetune.cli.output import Styled
from edgetune.errors import ChildFailed, EdgeTuneError, InputError, Refused, StoppedEarly, VerificationFailed
from edgetune.events import AnyEvent, JobEnded, RunFinished, RunStarted
from edgetune.workspace import jobs
from edgetune.workspace.follow import Follower
from edgetune.workspace.job import JobStatus
from edgetune.workspace.runs import name_of

LOOK = 0.1  # seconds between two looks at it
QUIET = 5.0  # seconds after which a job that is no run has begun, although it has told nothing
SHARED = ("--detach", "--json"), ("--events",)  # what a child is given anew: alone, and with a value
CODES = {1: EdgeTuneError, 2: InputError, 3: Refused, 4: StoppedEarly, 5: VerificationFailed}


def without(arguments: Sequence[str], *valued: str) -> list[str]:
    """A command line without --detach, --json, --events, and other options that take a value."""
    flags, with_value = set(SHARED[0]), {*SHARED[1], *valued}
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*kept, argument, *rest]
        if argument in with_value:
            next(rest, None)
        elif argument not in flags and argument.partition("=")[0] not in with_value:
            kept.append(argument)
    return kept


def begin(job: Job, arguments: Sequence[str], run: Path | None = None) -> None:
    """Starts a job, and shows what it does until it has begun.

    Raises:
        EdgeTuneError: what the job itself says is wrong, with its exit code.
    """
    started = jobs.start(arguments, run=run)
    name = name_of(run.absolute()) if run else started.id
    try:
        status = show_beginning(job, started)
    except KeyboardInterrupt:
        job.output.note(f"it goes on in the background: edgetune watch {started.id} · edgetune stop {started.id}")
        raise
    if status.state not in ("running", "done"):
        raise error_of(status)
    job.output.clear_status()
    if status.state == "done":
        job.output.say(Styled("done", "green"), f" {started.id}")
    else:
        job.output.say(Styled("started", "green"), f" {name}: it goes on when this terminal is closed")
        wishes = ("watch", "pause", "stop") if run else ("watch", "stop")
        job.output.say(Styled(f"     {' · '.join(f'edgetune {wish} {name}' for wish in wishes)}", "dim"))
    told = {"run": str(run) if run else None, "job": started.id, "pid": started.record.pid}
    job.output.document(told | ({"result": status.result} if status.state == "done" else {}))


def show_beginning(job: Job, started: jobs.Job) -> JobStatus:
    """Shows the events of a job until it has begun what it is for, or is over; how it stands then."""
    follower, since = Follower(started.events, with_snapshot=False), time.monotonic()
    while True:
        status = started.poll()
        found = follower.poll()
        for event in found:
            if not isinstance(event, JobEnded | RunFinished):
                job.view.show(event)
        if any(begins(event, started) for event in found) or (not started.run and time.monotonic() - since > QUIET):
            return started.poll()
        if status.state != "running" and not follower.is_behind:
            return status
        time.sleep(LOOK)


def begins(event: AnyEvent, started: jobs.Job) -> bool:
    """Whether everything that can be wrong with the input has been looked at."""
    return isinstance(event, RunStarted) if started.run else not isinstance(event, JobEnded)


def error_of(status: JobStatus) -> EdgeTuneError:
    """What a job says is wrong, as the error that it was there."""
    if status.state == "cancelled":
        return StoppedEarly(status.message, hint=status.hint)
    known = {made.__name__: made for made in every_error()}
    name = "".join(word.capitalize() for word in status.kind.split("_"))
    kind = known.get(name) or CODES.get(status.exit_code or 0, ChildFailed)
    return kind(status.message or "the job has ended", hint=status.hint or "its log tells more")


def every_error() -> list[type[EdgeTuneError]]:
    """All kinds of errors."""
    found: list[type[EdgeTuneError]] = [EdgeTuneError]
    for kind in found:
        found += kind.__subclasses__()
    return found
