"""Projects: a person's goal with its base model, rows, runs and exports, as a folder under EDGETUNE_HOME/projects.

`project.toml` is the config of the next run, as edited so far (the model and the rows may still be missing), and a section
[project] of its own. Removed projects lie in EDGETUNE_HOME/trash until somebody empties it.
"""

import re
import shutil
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edgetune.config import DataConfig, RunConfig, apply_setting, convert, relative_to, to_toml, toml_value
from edgetune.errors import ConfigError, EdgeTuneError, InputError, Refused
from edgetune.files import clean, disk_errors, home, move, safe_name, whole_file, whole_folder, write_file
from edgetune.workspace.runs import RunSummary, all_runs, is_alive

NOWHERE = "none"  # stands for a model that is not chosen yet, where a config is checked
TRASH_DAYS = 30
SECTION = "project"


class About(Struct, frozen=True, forbid_unknown_fields=True):
    """What the section [project] holds."""

    goal: str = ""
    created: str = ""  # ISO 8601


@dataclass(frozen=True)
class Project:
    """One project; its folder's name is its name."""

    folder: Path

    @property
    def name(self) -> str:
        """What the person calls it."""
        return self.folder.name

    @property
    def file(self) -> Path:
        """Its config, as it stands."""
        return self.folder / "project.toml"

    @property
    def runs(self) -> Path:
        """Where its runs lie."""
        return self.folder / "runs"

    @property
    def exports(self) -> Path:
        """Where its exports lie."""
        return self.folder / "exports"


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


# ---- the config --------------------------------------------------------------------------------------------------------


def empty_config() -> RunConfig:
    """What a new project begins with."""
    return RunConfig(model="", data=DataConfig(train=[]))


def checked(values: dict[str, Any], file: Path | None = None) -> RunConfig:
    """A config whose model and rows may not be chosen yet.

    Raises:
        ConfigError: a key is unknown, of the wrong type or out of bounds.
    """
    chosen = values.get("model", "")
    data = values.get("data", {})
    rows = {"train": [], **data} if isinstance(data, dict) else data
    return replace(convert({**values, "model": chosen or NOWHERE, "data": rows}, file), model=chosen)


def read_config(project: Project) -> RunConfig:
    """The project's config.

    Raises:
        ConfigError: it cannot be read, or a key is wrong: with its line.
    """
    return read_both(project)[0]


def run_config(project: Project, settings: Sequence[str] = ()) -> RunConfig:
    """The config of a run of this project, with `key=value` settings; relative paths are relative to its folder.

    Raises:
        ConfigError: no model or no rows are chosen yet, or a key is wrong.
    """
    values = msgspec.to_builtins(read_config(project))
    for setting in settings:
        apply_setting(values, setting)
    config = checked(values)
    for missing, what in ((not config.model, "base model"), (not config.data.train, "rows")):
        if missing:
            key = "model" if what == "base model" else "data.train"
            raise ConfigError(f"no {what} chosen yet", file=project.file, hint=f"put {key} there, or --set {key}=…")
    return relative_to(config, project.folder)


def read_about(project: Project) -> About:
    """What the section [project] says; nothing where the file cannot be read."""
    try:
        return read_both(project)[1]
    except EdgeTuneError:
        return About()


def read_both(project: Project) -> tuple[RunConfig, About]:
    """Config and section of a project.

    Raises:
        ConfigError: the file cannot be read, or a key is wrong: with its line.
    """
    try:
        text = project.file.read_text("utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=project.file, hint="mend that place, or remove the file") from None
    section = values.pop(SECTION, {})
    try:
        about = msgspec.convert(section, About)
        return checked(values), about
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at `$.")
        message, hint = f"{SECTION}.{at.rstrip('`')}: {reason}" if at else f"{SECTION}: {reason}", "it has goal and created"
    except ConfigError as error:
        message, hint = error.message, error.hint
    raise ConfigError(message, file=project.file, line=line_of(text, message), hint=hint)


def line_of(text: str, message: str) -> int | None:
    """The line of a TOML file that has the key which a message names; None where it is not found."""
    named = re.search(r"(?:unknown key )?([a-z_]+(?:\.[a-z_]+)*)", message)
    *parents, key = named[1].split(".") if named else [""]
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            section = head[1]
        elif section == ".".join(parents) and re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", line):
            return number
    return None


def write_config(project: Project, config: RunConfig, goal: str | None = None) -> None:
    """Keeps the project's config; its goal, too, where one is given.

    Raises:
        DiskFull, InputError: it cannot be written.
    """
    about = read_about(project)
    with whole_file(project.file, "project") as part:
        write_file(part, told(config, replace(about, goal=about.goal if goal is None else goal)), "project-content")


def told(config: RunConfig, about: About) -> str:
    """A project.toml."""
    lines = [f"{key} = {toml_value(value)}" for key, value in msgspec.to_builtins(about).items()]
    return "\n".join([to_toml(config), f"[{SECTION}]", *lines, ""])


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
