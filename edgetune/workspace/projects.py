"""Projects: a person's goal with its base model, rows, runs and exports, as a folder under EDGETUNE_HOME/projects.

`project.toml` is the config of the next run, as edited so far (the model and the rows may still be missing), and a section
[project] of its own. Removed projects lie in EDGETUNE_HOME/trash until somebody empties it.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from edgetune.config import RunConfig
from edgetune.errors import EdgeTuneError, InputError, Refused
from edgetune.files import clean, disk_errors, home, move, safe_name, whole_folder, write_file
from edgetune.workspace.project_file import About, Project, empty_config, read_both, told
from edgetune.workspace.runs import RunSummary, all_runs, is_alive

TRASH_DAYS = 30


@dataclass(frozen=True)
class ProjectSummary:
    """One line of the list. `stage`: what comes next ("model", "data", "ready"), how the newest run stands ("starting",
    "training", "paused", "stopped", "interrupted", "failed", "finished"), "exported", or "damaged" with the problem."""

    name: str
    folder: str
    goal: str
    model: str
    data: list[str]
    stage: str
    run: RunSummary | None
    best_loss: float | None
    changed: float  # seconds since 1970
    problem: str = ""


@dataclass(frozen=True)
class Trashed:
    """A project that was removed."""

    name: str
    folder: Path
    removed: float  # seconds since 1970


# ---- making and finding ------------------------------------------------------------------------------------------------


def projects_folder() -> Path:
    """Where all projects lie."""
    return home() / "projects"


def all_projects() -> list[Project]:
    """Every project, by name; what is wrong in one is told when it is read."""
    return [Project(file.parent) for file in sorted(projects_folder().glob("[!.]*/project.toml"))]


def find_project(name: str) -> Project:
    """The project of that name, however its letters are written.

    Raises:
        InputError: there is none.
    """
    known = {project.name.lower(): project for project in all_projects()}
    if found := known.get(name.lower()):
        return found
    near = get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {known[near[0]].name}?" if near else "`edgetune projects` lists them"
    raise InputError(f"no project {clean(name)!r}", hint=hint)


def create(name: str, config: RunConfig | None = None, goal: str = "") -> Project:
    """A new project.

    Raises:
        InputError: the name is none, or taken, or the place cannot be written.
        DiskFull: there is no room.
    """
    project = free_place(name)
    about = About(goal, time.strftime("%Y-%m-%dT%H:%M:%S"))
    with whole_folder(project.folder, "project") as part:
        write_file(part / "project.toml", told(config or empty_config(), about), "project-content")
    return project


def free_place(name: str) -> Project:
    """Where a project of that name would lie.

    Raises:
        InputError: the name is none, or taken: names that differ only in their letters' case are one on many disks.
    """
    project = Project(projects_folder() / safe_name(name))
    taken = {path.name.lower() for path in projects_folder().iterdir()} if projects_folder().is_dir() else set[str]()
    if project.name.lower() in taken:
        raise InputError(f"there is a project {project.name} already", hint="choose another name")
    return project


def rename(project: Project, name: str) -> Project:
    """The project under another name.

    Raises:
        InputError: the name is none, or taken.
        Refused: a run of it trains.
    """
    require_quiet(project, "rename")
    same = name.lower() == project.name.lower()
    new = Project(projects_folder() / safe_name(name)) if same else free_place(name)
    with disk_errors(new.folder):
        move(project.folder, new.folder, "project-move")
    return new


def require_quiet(project: Project, wish: str) -> None:
    """Refuses what would pull a folder away from under a run.

    Raises:
        Refused: a run of it trains.
    """
    for run in run_folders(project):
        if is_alive(run):
            raise Refused(f"cannot {wish} {project.name}: {run.name} trains", hint=f"edgetune stop {project.name}/{run.name}")


# ---- runs, and how a project stands ------------------------------------------------------------------------------------


def run_folders(project: Project) -> list[Path]:
    """The folders of the project's runs, the newest first: nothing of them is read."""
    with suppress(OSError):
        return sorted((path for path in project.runs.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    return []


def next_run(project: Project) -> Path:
    """The folder of a run that is to come; it is not made."""
    number = 1
    while (project.runs / f"run-{number}").exists():
        number += 1
    return project.runs / f"run-{number}"


def overview(project: Project) -> ProjectSummary:
    """Looks at a project: it reads its runs, so it is not for a handler of keys."""
    problem, about, config = "", About(), empty_config()
    try:
        config, about = read_both(project)
    except EdgeTuneError as error:
        problem = error.message
    runs = list(all_runs(project.runs))
    best = min((run.valid_loss for run in runs if run.valid_loss is not None), default=None)
    newest = runs[0] if runs else None
    changed = max(newest.changed if newest else 0.0, project.file.stat().st_mtime)
    stage = "damaged" if problem else stage_of(project, config, newest)
    known = (about.goal, config.model, config.data.train)
    return ProjectSummary(project.name, str(project.folder), *known, stage, newest, best, changed, problem)


def stage_of(project: Project, config: RunConfig, run: RunSummary | None) -> str:
    """How far a project is, in one word."""
    if run and run.phase != "finished":
        return run.phase
    if run:
        return "exported" if has_exports(project) else "finished"
    return "model" if not config.model else "data" if not config.data.train else "ready"


def has_exports(project: Project) -> bool:
    """Whether anything was exported."""
    return any(True for place in (project.exports, project.runs) for _ in place.rglob("*.gguf"))


def all_overviews() -> Iterator[ProjectSummary]:
    """Every project, looked at, the one that changed last first."""
    found: list[ProjectSummary] = []
    for project in all_projects():
        with suppress(OSError):  # it has just been removed
            found.append(overview(project))
    yield from sorted(found, key=lambda each: -each.changed)


def bytes_in(folder: Path) -> int:
    """The bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total


# ---- trash -------------------------------------------------------------------------------------------------------------


def trash_folder() -> Path:
    """Where removed projects lie."""
    return home() / "trash"


def remove(project: Project) -> Path:
    """Puts a project into the trash; gives where it lies there.

    Raises:
        Refused: a run of it trains.
        InputError: it cannot be moved.
    """
    require_quiet(project, "remove")
    trash = trash_folder() / f"{project.name}~{time.time():.6f}"
    with disk_errors(trash):
        trash.parent.mkdir(parents=True, exist_ok=True)
        move(project.folder, trash, "project-move")
    return trash


def trashed() -> list[Trashed]:
    """What lies in the trash, what was removed last first."""
    found: list[Trashed] = []
    for folder in trash_folder().glob("*~*"):
        name, _, stamp = folder.name.rpartition("~")
        with suppress(ValueError):
            found.append(Trashed(name, folder, float(stamp)))
    return sorted(found, key=lambda each: -each.removed)


def restore(name: str) -> Project:
    """Takes the project of that name that was removed last out of the trash.

    Raises:
        InputError: none of that name lies there, or there is one again.
    """
    found = next((each for each in trashed() if each.name.lower() == name.lower()), None)
    if found is None:
        raise InputError(f"no project {clean(name)!r} lies in the trash", hint="`edgetune projects` lists those that are there")
    project = free_place(found.name)
    with disk_errors(project.folder):
        projects_folder().mkdir(parents=True, exist_ok=True)
        move(found.folder, project.folder, "project-move")
    return project


def empty_trash(days: float = TRASH_DAYS) -> int:
    """Removes for good what was put into the trash longer ago; gives how many projects those were."""
    old = [each for each in trashed() if time.time() - each.removed >= days * 86400]
    for each in old:
        shutil.rmtree(each.folder, ignore_errors=True)
    return len(old)
