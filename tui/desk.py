"""What is open: a project, its config, its run, and what is known of them. Screens show it and change it; it draws nothing."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgetune.config import RunConfig, to_toml
from edgetune.errors import ConfigError, EdgeTuneError
from edgetune.events import RunFailed, RunFinished, RunStopped
from edgetune.files import home, whole_file, write_file
from edgetune.workspace.run_state import RunState
from edgetune.workspace.runs import RUNNING, RunSummary
from tui import store
from tui.ratings import has_ratings
from tui.settings import Settings
from tui.store import Follower, Project
from tui.widgets.top_bar import Mark, Way

UNDONE = 200  # changes that can be taken back
ALIVE_EVERY = 1.0  # seconds between two looks whether a run's process lives


@dataclass(frozen=True)
class Note:
    """Something that a person should hear of, whichever screen is shown."""

    title: str
    text: str
    severity: Literal["information", "warning", "error"] = "information"


class Desk:
    """The project and the run that are open. Every change of it ends in `note_change`, and the app shows it soon after."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.project: Project | None = None
        self.config = store.empty_config()
        self.undone: list[RunConfig] = []
        self.unsaved = False
        self.way = Way()
        self.changed = False
        self.follower: Follower | None = None
        self.looked = 0.0  # when the run's process was looked at
        self.alive = False

    # ---- the project -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The project's name; empty where none is open."""
        return self.project.name if self.project else ""

    @property
    def folder(self) -> Path:
        """Where the project keeps its own files."""
        return self.project.folder if self.project else home()

    @property
    def base_model(self) -> str:
        """The base model, as `--model` takes it; empty where none is chosen."""
        return self.config.model

    @base_model.setter
    def base_model(self, name: str) -> None:
        self.change(model=name)

    @property
    def data_arguments(self) -> list[str]:
        """The project's rows and what is done to them, as `edgetune data` takes them."""
        data = self.config.data
        values = {"max_tokens": data.max_tokens, "long_rows": data.long_rows, "train_on": data.train_on}
        settings = [f"data.{key}={value}" for key, value in values.items()]
        valid = data.valid
        settings.append(f"data.valid={msgspec.json.encode(valid).decode()}")
        settings.append(f"training.seed={self.config.training.seed}")
        return [*data.train, *(part for setting in settings for part in ("--set", setting))]

    def add_data(self, file: Path) -> None:
        """One more file of rows."""
        if str(file) not in self.config.data.train:
            self.change(**{"data.train": [*self.config.data.train, str(file)]})

    def open_last(self) -> int:
        """Opens what was open when the app was left, or a project whose run is training: that comes first.

        Gives the stage to show: the run where one is training, or else home.
        """
        if self.project:
            return 3 if self.is_live else 0
        projects = store.all_projects()
        live = next((each for each in projects for run in store.run_folders(each) if store.is_alive(run)), None)
        chosen = live or store.find_project(self.settings.project) or (projects[0] if len(projects) == 1 else None)
        if chosen:
            with contextlib.suppress(ConfigError):  # home shows what is wrong with it
                self.open(chosen)
        return 3 if self.is_live else 0

    def open(self, project: Project) -> None:
        """Opens a project, and the run that was started last in it.

        Raises:
            ConfigError: its config cannot be read; nothing is changed then.
        """
        config = store.read_config(project)
        self.save()
        self.project, self.config, self.undone, self.unsaved = project, config, [], False
        self.settings.change(project=project.name)
        folders = store.run_folders(project)
        self.open_run(next((run for run in folders if store.is_alive(run)), folders[0] if folders else None))

    def close(self) -> None:
        """Nothing is open any more."""
        self.project, self.config, self.undone, self.unsaved = None, store.empty_config(), [], False
        self.open_run(None)

    # ---- the config --------------------------------------------------------------------------------------------------

    def change(self, **settings: Any) -> None:
        """Changes keys of the config, by their dotted names: `change(**{"adapter.rank": 8})`. It can be undone.

        Raises:
            ConfigError: a key is unknown, or its value of the wrong type or out of bounds; nothing is changed then.
        """
        values = msgspec.to_builtins(self.config)
        for key, value in settings.items():
            *parents, last = key.split(".")
            inner = values
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        self.put(store.checked(values))

    def put(self, config: RunConfig) -> None:
        """Replaces the whole config. It can be undone."""
        if config == self.config:
            return
        self.undone = [*self.undone[-UNDONE + 1 :], self.config]
        self.config, self.unsaved = config, True
        self.note_change()

    def undo(self) -> bool:
        """Takes the last change back; False where there is none."""
        if not self.undone:
            return False
        self.config, self.unsaved = self.undone.pop(), True
        self.note_change()
        return True

    def save(self) -> None:
        """Keeps the config in the project's folder.

        Raises:
            DiskFull, InputError: it cannot be written.
        """
        if self.unsaved and self.project:
            self.unsaved = False
            store.write_config(self.project, self.config)

    # ---- the run -----------------------------------------------------------------------------------------------------

    @property
    def run(self) -> Path | None:
        """The folder of the run that is open."""
        return self.follower.run if self.follower else None

    @run.setter
    def run(self, folder: Path | None) -> None:
        self.open_run(folder)

    @property
    def state(self) -> RunState:
        """What the run has told."""
        return self.follower.state if self.follower else RunState()

    @property
    def is_live(self) -> bool:
        """Whether the run's process lives and has not told its end: it trains, or prepares, or waits."""
        return self.alive and self.state.phase in RUNNING

    def runs(self) -> list[RunSummary]:
        """The runs of the project, the newest first. It reads every run: not for a handler of keys."""
        return store.runs_of(self.project) if self.project else []

    def open_run(self, folder: Path | None) -> None:
        """Follows a run."""
        self.follower = Follower(folder) if folder else None
        self.looked = 0.0
        self.look()
        self.note_change()

    def start_run(self) -> Path:
        """Starts a run of the config as it stands, and follows it; gives its folder.

        Raises:
            ConfigError: no project is open, no model is chosen, or no rows are.
            DiskFull, InputError: it cannot be written.
        """
        if self.project is None:
            raise ConfigError("no project is open", hint="n on the home screen makes one")
        if not self.config.model:
            raise ConfigError("no base model is chosen", hint="choose one in 1 Model")
        if not self.config.data.train:
            raise ConfigError("no rows are chosen", hint="choose a file in 2 Data")
        self.save()
        folder = store.next_run(self.project)
        config = self.project.folder / f"{folder.name}.toml"
        with whole_file(config, "project") as part:
            write_file(part, to_toml(self.config), "project-content")
        store.spawn(["train", str(config), "--run", str(folder)], folder)
        self.open_run(folder)
        return folder

    def resume_run(self) -> None:
        """Takes the run that is open up where it stopped, in a new process.

        Raises:
            DiskFull, InputError: its log cannot be written.
        """
        if self.run and not self.alive:
            store.spawn(["resume", str(self.run)], self.run)
            self.looked = 0.0

    def log_of(self, run: Path) -> Path:
        """What a run's process writes besides its events."""
        return store.log_of_run(run)

    def look(self) -> None:
        """Looks whether the run's process lives, now and then."""
        if self.follower and time.monotonic() - self.looked > ALIVE_EVERY:
            self.looked, before = time.monotonic(), self.alive
            self.alive = self.follower.is_alive
            self.changed |= self.alive != before
        elif not self.follower:
            self.alive = False

    def follow(self) -> list[Note]:
        """Reads what the run has said since the last call; gives what a person should hear of."""
        if not self.follower:
            return []
        before, fresh = self.state, self.follower.is_new
        moved = self.follower.poll()
        self.look()
        if moved:
            self.note_change()
        return [] if fresh else notes_of(before, self.state, self.follower.run.name)

    # ---- what the app asks -------------------------------------------------------------------------------------------

    def screen_of(self, stage: int) -> str:
        """The screen that shows a stage now: training is two, before and while it runs."""
        if stage == 3:
            return "train" if self.run else "plan"
        return ("home", "model", "data", "plan", "compare", "export")[stage]

    def note_change(self) -> None:
        """Something has changed: the way is looked at anew, and the app will show it."""
        self.way = way_of(self.config, self.state, self.is_live, has_exports(self.project, self.run), has_ratings(self.folder))
        self.changed = True

    def take_change(self) -> bool:
        """Whether something has changed since the last call."""
        changed, self.changed = self.changed, False
        return changed

    def try_save(self) -> EdgeTuneError | None:
        """Saves; gives what is wrong instead of raising it."""
        try:
            self.save()
        except EdgeTuneError as error:
            return error
        return None


def notes_of(before: RunState, after: RunState, name: str) -> list[Note]:
    """What a person should hear of a run between two looks at it."""
    if before.phase == after.phase:
        return []
    match after.ended:
        case RunFinished() as end:
            best = "" if end.valid_loss is None else f"held-out loss {end.valid_loss:.3f}; "
            return [Note(f"{name} is done", f"{best}compare it with its base in 4")]
        case RunFailed() as end:
            return [Note(f"{name} failed", f"{end.message}\n{end.hint}".strip(), "error")]
        case RunStopped() as end:
            return [Note(f"{name} stopped", f"{end.reason}: everything is saved", "warning")]
        case None:
            paused = after.phase == "paused"
            return [Note(f"{name} waits", after.waits_for or "paused", "warning")] if paused else []


def way_of(config: RunConfig, state: RunState, live: bool, exported: bool, compared: bool = False) -> Way:
    """How far a project is on each of the five stages."""
    data: Mark = "open"
    if config.data.train:
        data = "done" if all(Path(name).is_file() for name in config.data.train) else "alarm"
    return Way(done_if(bool(config.model)), data, train_mark(state, live), done_if(compared), done_if(exported))


def done_if(there: bool) -> Mark:
    """The mark of a stage that is done as soon as something of it is there."""
    return "done" if there else "open"


def train_mark(state: RunState, live: bool) -> Mark:
    """How far training is."""
    if live:
        return "now"
    if state.phase == "finished":
        return "done"
    return "alarm" if state.phase == "failed" or state.starts else "open"


def has_exports(project: Project | None, run: Path | None) -> bool:
    """Whether anything was exported."""
    places = [*([project.exports] if project else []), *([run / "exports"] if run else [])]
    return any(True for place in places for _ in place.glob("*.gguf"))
