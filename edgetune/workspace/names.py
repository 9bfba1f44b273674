"""What a person calls a run or a job."""

from contextlib import suppress
from pathlib import Path

from edgetune.errors import CheckpointError, InputError
from edgetune.files import clean
from edgetune.workspace import jobs
from edgetune.workspace.runs import find_run


def named(name: str) -> tuple[Path | None, jobs.Job | None]:
    """The run of that name, and the job that trains it or is called so.

    Raises:
        CheckpointError: there is neither.
    """
    with suppress(CheckpointError):
        folder = find_run(name)
        return folder, jobs.job_of_run(folder)
    with suppress(InputError):
        found = jobs.find_job(name)
        return found.run if found.run and has_begun(found.run) else None, found
    for each in jobs.all_jobs():  # a run whose folder is still empty
        if each.run and (each.run.name == name or str(each.run) == str(Path(name).absolute())):
            return None, each
    raise CheckpointError("no run and no job here", file=clean(name), hint="`edgetune runs` and `edgetune jobs` list them")


def has_begun(run: Path) -> bool:
    """Whether a run has said anything."""
    return (run / "events.jsonl").is_file()
