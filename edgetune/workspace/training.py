"""Runs from a config to an adapter: the model is found, the rows read, the memory planned, then it is trained."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

from edgetune.backend.choice import Backend, choose_backend
from edgetune.backend.launch import is_launched, rank
from edgetune.config import RunConfig
from edgetune.errors import ConfigError
from edgetune.events import Event, Progress, RunFinished
from edgetune.training import session
from edgetune.training.session import Prepared
from edgetune.workspace.follow import Snapshots
from edgetune.workspace.models import find_model
from edgetune.workspace.planning import plan_resources
from edgetune.workspace.report_pages import reporting
from edgetune.workspace.runs import new_run_folder

OnEvent = Callable[[Event], None]


def prepare(config: RunConfig, on_event: OnEvent, now: str | None = None) -> Prepared:
    """Finds the model and reads the rows of a config.

    Raises:
        ModelError, TokenizerError, TemplateError, DataError, ConfigError: what is wrong, and where.
    """

    def on_rows(rows: int) -> None:
        on_event(Progress(stage="reading rows", done=rows, total=0, unit="rows"))

    return session.prepare(config, find_model(config.model, on_event), now, on_rows)


def train(
    config: RunConfig,
    folder: Path | None,
    on_event: OnEvent,
    should_stop: Callable[[], bool],
    backend: str = "auto",
    place: Path | None = None,
) -> RunFinished:
    """A new run, in `folder` or in a new one in `place`, which is this person's runs if it is left out.

    Raises:
        ConfigError: MLX is asked for and not installed.
        CheckpointError: the folder holds a run already.
        DoesNotFit, DiskFull: the machine cannot hold it; nothing was started.
        StoppedEarly: asked to stop; everything is saved.
    """
    chosen = team_backend(backend)
    prepared = prepare(config, on_event)
    resources = plan_resources(prepared, backend=chosen)
    folder = folder or (new_run_folder(config.model, date.today(), place) if rank() == 0 else Path())
    return session.train(prepared, folder, resources, with_snapshots(folder, reporting(folder, on_event)), should_stop)


def resume(
    folder: Path, on_event: OnEvent, should_stop: Callable[[], bool], force: bool = False, backend: str = "auto"
) -> RunFinished:
    """Continues a run where its newest good checkpoint stands; a finished run is only reported.

    "auto" is the backend that it was begun with.

    Raises:
        CheckpointError: there is no run, another process trains it, or what it was made of has changed (unless `force`).
        DoesNotFit, DiskFull: the machine cannot hold it; nothing was started.
        StoppedEarly: asked to stop; everything is saved.
    """
    if finished := session.finished_run(folder):
        return finished
    begun = session.begun_with(folder)
    chosen = team_backend(begun.backend if begun and backend == "auto" else backend)
    prepared = prepare(session.read_run_config(folder), on_event, session.prepared_at(folder))
    resources = plan_resources(prepared, begun.workers if begun else None, chosen)
    return session.resume(folder, prepared, resources, with_snapshots(folder, reporting(folder, on_event)), should_stop, force)


def with_snapshots(folder: Path, on_event: OnEvent) -> OnEvent:
    """Hears the events of a run, and keeps its state now and then: the longest run opens at once."""
    snapshots = Snapshots(folder / "events.jsonl")

    def hear(event: Event) -> None:
        on_event(event)
        snapshots.note()

    return hear


def team_backend(name: str) -> Backend:
    """The backend of that name; only MLX's processes train together.

    Raises:
        ConfigError: mlx.launch started this process, and NumPy would compute; or MLX is not installed.
    """
    chosen = choose_backend(name)
    if is_launched() and chosen.name != "mlx":
        raise ConfigError("mlx.launch started this, but NumPy would compute", hint="add --backend mlx")
    return chosen
