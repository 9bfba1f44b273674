"""The runs of this person: where new ones go, and how each of them stands."""

import signal
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from edgetune.errors import CheckpointError
from edgetune.events import RunFinished
from edgetune.exits import explain_exit
from edgetune.files import clean, disk_errors, home
from edgetune.locks import is_held
from edgetune.workspace.follow import Follower
from edgetune.workspace.run_state import RunState

RUNNING = ("starting", "training", "paused")


@dataclass(frozen=True)
class RunSummary:
    """One line of `edgetune runs`. `phase` is "interrupted" where the process that trained is gone without a word."""

    run: str
    model: str
    phase: str
    step: int
    total_steps: int
    train_loss: float | None
    valid_loss: float | None
    adapter: str | None
    changed: float  # seconds since 1970
    project: str = ""  # that it belongs to
    why: str = ""  # it was interrupted


def runs_folder() -> Path:
    """Where runs go that were given no folder."""
    return home() / "runs"


def new_run_folder(model: str, today: date, place: Path | None = None) -> Path:
    """Makes an empty folder for a new run: the model's short name, the day, and a number that is free. `place`: where,
    if not among this person's runs.

    Raises:
        InputError: the place cannot be written.
    """
    letters = (character if character.isalnum() and character.isascii() else "-" for character in Path(model).name[:40])
    stem = f"{''.join(letters).strip('-') or 'run'}-{today:%Y%m%d}"
    number = 1
    while (folder := (place or runs_folder()) / f"{stem}-{number}").exists():
        number += 1
    with disk_errors(folder):
        folder.mkdir(parents=True)
    return folder


def find_run(name: str) -> Path:
    """The folder of a run that is given as a path, by its name, or as PROJECT/NAME.

    Raises:
        CheckpointError: there is none, or more than one.
    """
    project, _, run = name.rpartition("/")
    places = [Path(name), runs_folder() / name]
    if project and "/" not in project:
        places += [folder / run for folder in runs_of_projects() if folder.parent.name.lower() == project.lower()]
    for folder in places:
        if (folder / "run.toml").is_file():
            return folder
    found = [folder / name for folder in runs_of_projects() if "/" not in name and (folder / name / "run.toml").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{folder.parent.parent.name}/{folder.name}" for folder in found)
        raise CheckpointError("more than one project has a run of that name", file=clean(name), hint=f"say which: {names}")
    raise CheckpointError("no run here", file=clean(name), hint="`edgetune runs` lists them")


def runs_of_projects() -> list[Path]:
    """The folders of runs that the projects have."""
    return sorted((home() / "projects").glob("[!.]*/runs"))


def all_runs(folder: Path) -> Iterator[RunSummary]:
    """The runs in a folder, the one that changed last first."""
    runs = [path.parent for path in folder.glob("*/run.toml") if path.is_file()]
    yield from sorted((summary(run) for run in runs), key=lambda each: -each.changed)


def name_of(run: Path) -> str:
    """The shortest name that `find_run` finds a run by."""
    if run.parent == runs_folder():
        return run.name
    return f"{run.parent.parent.name}/{run.name}" if run.parent in runs_of_projects() else str(run)


def every_run() -> list[RunSummary]:
    """The runs in this person's runs folder and in all projects, the one that changed last first."""
    places = [runs_folder(), *runs_of_projects()]
    return sorted((each for place in places for each in all_runs(place)), key=lambda each: -each.changed)


def summary(run: Path) -> RunSummary:
    """How a run stands, from its events alone."""
    state = run_state(run)
    ended = state.ended if isinstance(state.ended, RunFinished) else None
    phase = "interrupted" if state.phase in RUNNING and not is_alive(run) else state.phase
    return RunSummary(
        run=str(run),
        model=model_of(run),
        phase=phase,
        step=state.step,
        total_steps=state.total_steps,
        train_loss=ended.train_loss if ended else state.loss,
        valid_loss=state.best_loss,
        adapter=str(run / Path(ended.adapter).name) if ended else None,
        changed=state.last_time or (run / "run.toml").stat().st_mtime,
        project=run.parent.parent.name if run.parent in runs_of_projects() else "",
        why=why_interrupted(run, state) if phase == "interrupted" else "",
    )


def why_interrupted(run: Path, state: RunState) -> str:
    """What is known of the end of a run whose process is gone without a word."""
    import psutil  # here, not above: most commands never ask

    from edgetune.workspace.jobs import job_of_run

    job = job_of_run(run)
    status = job.poll() if job else None
    if status and status.state == "killed" and status.exit_code != -signal.SIGKILL:
        return status.message
    if state.last_time and state.last_time < psutil.boot_time():
        return "the machine was switched off or started anew"
    return explain_exit(-signal.SIGKILL)[0]


def run_state(run: Path) -> RunState:
    """The state that a run's events have left it in."""
    return Follower(run / "events.jsonl").catch_up()


def model_of(run: Path) -> str:
    """The model that a run's config names; "?" where it cannot be read."""
    try:
        return str(tomllib.loads((run / "run.toml").read_text("utf-8"))["model"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError):
        return "?"


def is_alive(run: Path) -> bool:
    """Whether a process trains it: only the system's lock tells, which no clock, no copy and no reused number can mislead."""
    return is_held(run / "run.lock")
