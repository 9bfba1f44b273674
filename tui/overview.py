"""What home shows of each project: how far it is, what comes next, its runs. It reads disks: not for a handler."""

import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgetune.config import RunConfig
from edgetune.errors import EdgeTuneError
from edgetune.events import RunFailed
from edgetune.files import free_space, home
from edgetune.units import count, size
from edgetune.workspace.projects import bytes_in
from edgetune.workspace.run_state import RunState
from edgetune.workspace.runs import RUNNING, is_alive, run_state
from tui import store
from tui.store import Project

MINUTE, HOUR, DAY = 60, 3600, 86400


class Standing(NamedTuple):
    """How far a project is: a glyph, a word, its colour; what comes next, and the stage where that is done."""

    glyph: str
    word: str
    style: str
    next: str
    stage: int


@dataclass(frozen=True)
class RunLine:
    """One run of a project."""

    folder: Path
    state: RunState
    alive: bool
    method: str = "lora"
    rank: int = 0

    @property
    def name(self) -> str:
        """As its folder is called."""
        return self.folder.name

    @property
    def phase(self) -> str:
        """How it stands; "interrupted" where its process is gone without a word."""
        return "interrupted" if self.state.phase in RUNNING and not self.alive else self.state.phase

    @property
    def loss(self) -> float | None:
        """The best on held-out rows, or the last on trained ones."""
        return self.state.best_loss if self.state.best_loss is not None else self.state.loss


@dataclass(frozen=True)
class Overview:
    """One project, looked at."""

    project: Project
    config: RunConfig
    runs: Sequence[RunLine]
    exported: bool
    bytes: int
    changed: float
    problem: str = ""

    @property
    def best(self) -> RunLine | None:
        """The run with the lowest loss on held-out rows."""
        told = [run for run in self.runs if run.state.best_loss is not None]
        return min(told, key=lambda run: run.state.best_loss or 0.0, default=None)

    @property
    def standing(self) -> Standing:
        """How far it is."""
        return standing_of(self.config, self.runs[0] if self.runs else None, self.exported, self.problem)


def standing_of(config: RunConfig, run: RunLine | None, exported: bool, problem: str = "") -> Standing:
    """How far a project with that config and that newest run is."""
    if problem:
        return Standing("!", "Damaged", "$error", "mend project.toml", 0)
    if run and run.phase in RUNNING:
        return running(run)
    if run and run.phase in ("failed", "interrupted", "stopped"):
        return ended_early(run)
    if run and run.phase == "finished":
        if exported:
            return Standing("✓", "Exported", "$success", "chat with it", 5)
        return Standing("✓", "Trained", "$success", "compare it with its base", 4)
    if not config.model:
        return Standing("○", "Model", "$quiet", "choose a base model", 1)
    if not config.data.train:
        return Standing("○", "Data", "$quiet", "choose rows to learn from", 2)
    return Standing("○", "Ready to train", "$primary", "train", 3)


def running(run: RunLine) -> Standing:
    """A run whose process lives."""
    state = run.state
    if state.phase == "paused":
        return Standing("●", f"Paused {steps(state)}", "$warning", "see why it waits", 3)
    word = f"Train {steps(state)}" if state.total_steps else "Preparing"
    return Standing("●", word, "$primary", "watch training", 3)


def ended_early(run: RunLine) -> Standing:
    """A run that did not come to its end."""
    if run.phase == "failed":
        kind = run.state.ended.kind if isinstance(run.state.ended, RunFailed) else ""
        short = {"does_not_fit": "memory", "disk_full": "disk"}.get(kind, kind.replace("_error", "").replace("_", " "))
        return Standing("!", f"Failed: {short}" if short else "Failed", "$error", "see what went wrong", 3)
    word = f"Stopped {steps(run.state)}" if run.phase == "stopped" else "Interrupted"
    return Standing("!", word, "$warning", "continue the run", 3)


def steps(state: RunState) -> str:
    """Steps done of all."""
    return f"{count(state.step)}/{count(state.total_steps)}"


def overview(project: Project) -> Overview:
    """Looks at a project."""
    try:
        config, problem = store.read_config(project), ""
    except EdgeTuneError as error:
        config, problem = store.empty_config(), error.message
    folders = store.run_folders(project)
    runs = [line_of(folder) for folder in folders if (folder / "run.toml").is_file() or folder == folders[0]]
    exports = [project.exports, *(folder / "exports" for folder in folders)]
    exported = any(True for place in exports for _ in place.glob("*.gguf"))
    changed = max([run.state.last_time for run in runs], default=0.0) or project.folder.stat().st_mtime
    return Overview(project, config, runs, exported, bytes_in(project.folder), changed, problem)


def line_of(folder: Path) -> RunLine:
    """Looks at a run."""
    try:
        adapter = tomllib.loads((folder / "run.toml").read_text("utf-8")).get("adapter", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        adapter = {}
    return RunLine(folder, run_state(folder), is_alive(folder), str(adapter.get("method", "lora")), int(adapter.get("rank", 0)))


def all_overviews() -> list[Overview]:
    """Every project, the one that changed last first."""
    found: list[Overview] = []
    for project in store.all_projects():
        try:
            found.append(overview(project))
        except OSError:  # it has just been removed
            continue
    return sorted(found, key=lambda each: -each.changed)


def ago(then: float, now: float) -> str:
    """When something was, in a word or two."""
    passed = max(now - then, 0.0)
    if passed < MINUTE:
        return "now"
    if passed < HOUR:
        return f"{passed // MINUTE:.0f} min ago"
    if passed < DAY and time.localtime(then).tm_mday == time.localtime(now).tm_mday:
        return f"{passed // HOUR:.0f} h ago"
    if passed < 2 * DAY:
        return "yesterday"
    if passed < 14 * DAY:
        return f"{passed // DAY:.0f} days ago"
    return time.strftime("%-d %b", time.localtime(then)) if passed < 300 * DAY else time.strftime("%b %Y", time.localtime(then))


def lasted(state: RunState) -> str:
    """How long a run took, by the wall clock, in a few cells."""
    if not state.last_time:
        return ""
    minutes = max(state.last_time - state.first_time, 0.0) / MINUTE
    return (
        f"{minutes:.0f} min" if 1 <= minutes < 100 else f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes * 60:.0f} s"
    )


def machine_facts() -> list[tuple[str, str]]:
    """(glyph, words) of what this machine has, without loading any of it."""
    from importlib.metadata import PackageNotFoundError, version
    from platform import machine, system

    facts: list[tuple[str, str]] = [("✓", "Metal")] if (system(), machine()) == ("Darwin", "arm64") else []
    for package, title in (("numpy", "NumPy"), ("mlx", "mlx"), ("llama-cpp-python", "llama.cpp")):
        try:
            facts.append(("✓", f"{title} {'.'.join(version(package).split('.')[:3])}"))
        except PackageNotFoundError:
            if package != "mlx":
                facts.append(("!", f"{title} missing"))
    free = free_space(home())
    return [*facts, ("✓" if free > 2e9 else "!", f"disk {size(free)} free")]
