"""Where projects lie and how their runs are started and followed: the app's only door to the workspace."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edgetune.config import DataConfig, RunConfig, convert, to_toml
from edgetune.errors import ConfigError, InputError
from edgetune.events import from_line
from edgetune.files import disk_errors, home, safe_name, whole_file
from edgetune.workspace.run_state import RunState, fold
from edgetune.workspace.runs import RunSummary, is_alive, summary

CHUNK = 256 << 10  # bytes of events that are folded at once: some ten milliseconds
children: list[subprocess.Popen[bytes]] = []
NO_STATE = RunState()
NOWHERE = "none"  # stands for a model that is not chosen yet, where a config is checked


@dataclass(frozen=True)
class Project:
    """A person's goal: a base model, rows, runs, exports. Its folder's name is its name."""

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


def projects_folder() -> Path:
    """Where all projects lie."""
    return home() / "projects"


def all_projects() -> list[Project]:
    """Every project, by name."""
    return [Project(file.parent) for file in sorted(projects_folder().glob("[!.]*/project.toml"))]


def find_project(name: str) -> Project | None:
    """The project of that name, if there is one."""
    found = Project(projects_folder() / name) if name else None
    return found if found and found.file.is_file() else None


def create(name: str, config: RunConfig) -> Project:
    """A new project.

    Raises:
        InputError: the name is none, or taken, or the place cannot be written.
    """
    project = Project(projects_folder() / safe_name(name))
    if project.folder.exists():
        raise InputError(f"there is a project {name} already", hint="choose another name")
    with disk_errors(project.folder):
        project.folder.mkdir(parents=True)
    write_config(project, config)
    return project


def rename(project: Project, name: str) -> Project:
    """The project under another name.

    Raises:
        InputError: the name is none, or taken.
    """
    new = Project(projects_folder() / safe_name(name))
    if new.folder.exists():
        raise InputError(f"there is a project {name} already", hint="choose another name")
    with disk_errors(new.folder):
        os.rename(project.folder, new.folder)
    return new


def remove(project: Project) -> Path:
    """Puts a project into the trash; gives where it lies there."""
    trash = home() / "trash" / f"{project.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with disk_errors(trash):
        trash.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(project.folder, trash)
    return trash


# ---- configs -----------------------------------------------------------------------------------------------------------


def checked(values: dict[str, Any]) -> RunConfig:
    """A config whose model may not be chosen yet.

    Raises:
        ConfigError: a key is unknown, of the wrong type or out of bounds.
    """
    chosen = values.get("model", "")
    return replace(convert({**values, "model": chosen or NOWHERE}), model=chosen)


def empty_config() -> RunConfig:
    """What a new project begins with."""
    return RunConfig(model="", data=DataConfig(train=[]))


def read_config(project: Project) -> RunConfig:
    """The project's config.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return checked(tomllib.loads(project.file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=project.file, hint="mend that file, or remove it") from None


def write_config(project: Project, config: RunConfig) -> None:
    """Keeps the project's config."""
    with whole_file(project.file, "project") as part:
        part.write_text(to_toml(config), "utf-8")


# ---- runs --------------------------------------------------------------------------------------------------------------


def runs_of(project: Project) -> list[RunSummary]:
    """The project's runs, the newest first."""
    runs = [path.parent for path in project.runs.glob("*/run.toml")]
    return sorted((summary(run) for run in runs), key=lambda each: -each.changed)


def run_folders(project: Project) -> list[Path]:
    """The folders of the project's runs, the newest first: nothing of them is read."""
    with contextlib.suppress(OSError):
        return sorted((path for path in project.runs.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    return []


def next_run(project: Project) -> Path:
    """The folder of a run that is to come."""
    number = 1
    while (project.runs / f"run-{number}").exists():
        number += 1
    return project.runs / f"run-{number}"


def spawn(arguments: Sequence[str], log: Path) -> int:
    """Starts our own command line in a process that outlives the app; gives its number. What it says goes to `log`."""
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "edgetune", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    children.append(child)
    return child.pid


def reap() -> None:
    """Takes note of children that have ended, so that they do not seem to live."""
    children[:] = [child for child in children if child.poll() is None]


class Follower:
    """Reads a run's events as they come, a chunk at a time."""

    def __init__(self, run: Path):
        self.run, self.state, self.offset, self.rest = run, RunState(), 0, b""

    def poll(self) -> bool:
        """Folds what has been written since; whether there was anything."""
        try:
            with (self.run / "events.jsonl").open("rb") as file:
                file.seek(self.offset)
                chunk = file.read(CHUNK)
        except OSError:
            return False
        self.offset += len(chunk)
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            if event := from_line(line):
                self.state = fold(self.state, event)
        return bool(chunk)

    @property
    def is_alive(self) -> bool:
        """Whether the process that trains still lives."""
        reap()
        return is_alive(self.run)
