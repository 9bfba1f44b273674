"""Where projects lie and how their runs are started and followed: the app's only door to the workspace."""

from collections.abc import Sequence
from pathlib import Path

from edgetune.errors import InputError
from edgetune.workspace import follow, jobs, projects
from edgetune.workspace.project_file import Project, checked, empty_config, read_config, write_config
from edgetune.workspace.projects import all_projects, create, next_run, projects_folder, remove, rename, run_folders
from edgetune.workspace.run_state import RunState
from edgetune.workspace.runs import RunSummary, is_alive, summary

__all__ = [
    "Follower", "Project", "all_projects", "checked", "create", "empty_config", "find_project", "log_of_run", "next_run",
    "projects_folder", "read_config", "remove", "rename", "run_folders", "runs_of", "spawn", "write_config",
]  # fmt: skip
NO_STATE = RunState()


def find_project(name: str) -> Project | None:
    """The project of that name, if there is one."""
    try:
        return projects.find_project(name) if name else None
    except InputError:
        return None


def runs_of(project: Project) -> list[RunSummary]:
    """The project's runs, the newest first."""
    runs = [path.parent for path in project.runs.glob("*/run.toml")]
    return sorted((summary(run) for run in runs), key=lambda each: -each.changed)


def spawn(arguments: Sequence[str], run: Path) -> int:
    """Starts our own command line as a job that outlives the app, for a run; gives its process's number.

    Raises:
        InputError, DiskFull: the job's folder cannot be written.
    """
    return jobs.start(list(arguments), run=run).record.pid


def log_of_run(run: Path) -> Path:
    """What the last job of a run has said."""
    job = jobs.job_of_run(run)
    return job.log if job else run.parent / f"{run.name}.log"


class Follower:
    """Reads a run's events as they come, a chunk at a time; the longest run opens from its snapshot."""

    def __init__(self, run: Path):
        self.run, self.file = run, follow.Follower(run / "events.jsonl")
        self.is_new = True  # nothing was read yet

    @property
    def state(self) -> RunState:
        """What the events have told so far."""
        return self.file.state

    def poll(self) -> bool:
        """Folds what has been written since; whether there was anything."""
        before, self.is_new = self.file.offset, False
        self.file.poll()
        return self.file.offset != before

    @property
    def is_alive(self) -> bool:
        """Whether the process that trains still lives."""
        return is_alive(self.run)
