"""`jobs`: what was started with --detach or by the app."""

import time

from edgetune.cli.options import Job
from edgetune.cli.output import table
from edgetune.units import duration


def jobs(job: Job) -> None:
    """List the jobs in the background, the newest first. `watch` follows one, `stop` ends it."""
    from edgetune.workspace import jobs

    known = [(each, each.poll()) for each in jobs.all_jobs()]
    rows = [
        [
            each.id,
            status.state,
            f"{duration(time.time() - each.record.started)} ago",
            each.run.name if each.run else "",
            status.message,
        ]
        for each, status in known
    ]
    if rows:
        for line in table(["job", "state", "started", "run", "why"], rows):
            job.output.say(*line)
    else:
        job.output.note("no jobs")
    job.output.document(
        {
            "jobs": [
                {
                    "id": each.id,
                    "state": status.state,
                    "exit_code": status.exit_code,
                    "message": status.message,
                    "hint": status.hint,
                    "run": each.record.run or None,
                    "arguments": each.record.arguments,
                    "pid": each.record.pid,
                    "started": each.record.started,
                }
                for each, status in known
            ]
        }
    )
