"""`project.toml`: the config of a project's next run, as edited so far, and a section [project] of its own."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edgetune.config import DataConfig, RunConfig, apply_setting, convert, relative_to, to_toml, toml_value
from edgetune.errors import ConfigError, EdgeTuneError
from edgetune.files import whole_file, write_file

NOWHERE = "none"  # stands for a model that is not chosen yet, where a config is checked
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
