"""Long work as jobs of the workspace: they outlive the app, and an app that is opened later finds them again."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from edgetune.events import AnyEvent
from edgetune.workspace import jobs
from edgetune.workspace.follow import Follower
from edgetune.workspace.job import Job, JobStatus
from tui.child import ChildError

LOOK = 0.1  # seconds between two looks at a job


async def work(
    arguments: Sequence[str],
    on_event: Callable[[AnyEvent], None],
    on_start: Callable[[Job], None] = lambda job: None,
) -> dict[str, Any]:
    """Starts `edgetune ARGUMENTS` as a job and follows it to its end; gives its document. `on_start` is given the job.

    Raises:
        ChildError: it refused, died, or was cancelled (kind "cancelled").
        DiskFull, InputError: it could not be started.
    """
    job = await asyncio.to_thread(jobs.start, list(arguments))
    on_start(job)
    return await follow(job, on_event)


async def follow(job: Job, on_event: Callable[[AnyEvent], None]) -> dict[str, Any]:
    """Follows a job to its end. Who stops following leaves it going.

    Raises:
        ChildError: it refused, died, or was cancelled (kind "cancelled").
    """
    told = Follower(job.events, with_snapshot=False)
    while True:
        status = await asyncio.to_thread(job.poll)
        for event in told.poll():
            on_event(event)
        if status.state != "running" and not told.is_behind:
            return outcome(status)
        await asyncio.sleep(LOOK)


def outcome(status: JobStatus) -> dict[str, Any]:
    """What came of a job that is over.

    Raises:
        ChildError: nothing good did.
    """
    if status.state == "done":
        return status.result
    error = ChildError(status.message, status.hint, status.kind, status.exit_code or 0)
    error.document = status.result
    raise error


def running(*beginning: str) -> Job | None:
    """The job at work whose arguments begin like this; the newest where there are more."""
    alike = (job for job in jobs.all_jobs() if tuple(job.record.arguments[: len(beginning)]) == beginning)
    return next((job for job in alike if job.is_running()), None)
