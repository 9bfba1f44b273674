"""`train` and `resume`: a run, from its config or from where it stopped."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from edgetune.backend.launch import rank
from edgetune.cli.notify import at_the_end
from edgetune.cli.options import Backend, BackendName, Detach, Job, Settings
from edgetune.cli.output import Styled
from edgetune.cli.signals import StopSignals
from edgetune.config import RunConfig
from edgetune.errors import InputError
from edgetune.events import Event, RunFinished, RunStarted
from edgetune.units import count, duration, rate, size

Notify = Annotated[
    str,
    typer.Option(metavar="COMMAND", help="Run this at the end, without a shell; EDGETUNE_STATE and more tell how it went."),
]


def train(
    job: Job,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="The run's TOML file; a project has its own.")] = None,
    settings: Settings = [],  # noqa: B006 - typer makes its own list
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the run goes; left out, EDGETUNE_HOME/runs.")] = None,
    project: Annotated[str, typer.Option(metavar="NAME", help="A run of this project, in its folder.")] = "",
    backend: Backend = BackendName.auto,
    notify: Notify = "",
    detach: Detach = False,
) -> None:
    """Train a run. Ctrl-C stops it after the step at hand, with everything saved."""
    from edgetune.hardware import reexec_for_speed

    wanted, place = wanted_run(config, settings, project)
    if detach:
        return detach_run(job, wanted.model, run, place)
    reexec_for_speed()
    from edgetune.workspace import training

    with StopSignals(job.output) as stop:
        finished = training.train(wanted, run, follower(job, stop, notify), stop.requested, backend, place)
    report(job, finished)


def wanted_run(config: Path | None, settings: list[str], project: str) -> tuple[RunConfig, Path | None]:
    """The config of a run, and where it goes if it belongs to a project.

    Raises:
        ConfigError: something in it is wrong.
        InputError: there is none, or no such project.
    """
    from edgetune.config import load
    from edgetune.workspace.project_file import run_config
    from edgetune.workspace.projects import find_project

    found = find_project(project) if project else None
    if config:
        return load(config, settings), found.runs if found else None
    if not found:
        raise InputError("Missing argument 'CONFIG'.", hint="see `edgetune train --help`")
    return run_config(found, settings), found.runs


def detach_run(job: Job, model: str, run: Path | None, place: Path | None) -> None:
    """Trains in the background, in a folder that is known before it begins."""
    from datetime import date

    from edgetune.cli.detached import begin, without
    from edgetune.workspace.runs import new_run_folder

    folder = run or new_run_folder(model, date.today(), place)
    command, *rest = without(job.arguments, "--run")
    try:
        begin(job, [command, "--run", str(folder.absolute()), *rest], folder)
    finally:
        with suppress(OSError):  # of a run that never began nothing is left
            folder.rmdir()


def resume(
    job: Job,
    run: Annotated[str, typer.Argument(help="The run's folder, or its name in `edgetune runs`.")],
    force: Annotated[
        bool, typer.Option(help="Go on although data, model or versions changed: the result will differ.")
    ] = False,
    backend: Backend = BackendName.auto,
    notify: Notify = "",
    detach: Detach = False,
) -> None:
    """Continue a run exactly where it stopped or waits."""
    from edgetune.cli.control import go_on
    from edgetune.cli.detached import begin, without
    from edgetune.hardware import reexec_for_speed
    from edgetune.workspace.runs import find_run, is_alive

    folder = find_run(run)
    if is_alive(folder):
        return go_on(job, folder)
    if detach:
        return begin(job, without(job.arguments), folder)
    reexec_for_speed()
    from edgetune.workspace import training

    with StopSignals(job.output) as stop:
        finished = training.resume(folder, follower(job, stop, notify), stop.requested, force, backend)
    report(job, finished)


def follower(job: Job, stop: StopSignals, notify: str = "") -> Callable[[Event], None]:
    """What hears the run's events; from its start on, a signal stops it with everything saved."""

    def follow(event: Event) -> None:
        if isinstance(event, RunStarted):
            stop.begin()
        if not rank():
            job.event(event)
            told(event)

    told = at_the_end(job.output, notify)
    return follow


def report(job: Job, finished: RunFinished) -> None:
    """What a run came to: the same facts for people and for programs. Of processes that train together the first tells."""
    if rank():
        return
    out = job.output
    best = (
        f"held-out loss {finished.valid_loss:.4f} at step {count(finished.best_step)}"
        if finished.valid_loss is not None
        else ""
    )
    losses = " · ".join(filter(None, [best, f"training loss {finished.train_loss:.4f}"]))
    pace = f"{rate(finished.tokens_per_second, 'tokens')} · peak {size(finished.peak_bytes)}"
    out.say(Styled("done", "green"), f" {count(finished.steps)} steps in {duration(finished.seconds)} · {pace}")
    out.say(f"     {losses}")
    out.say(f"     {finished.adapter}")
    out.say(Styled(f"     talk to it:  edgetune chat {finished.run}", "dim"))
    out.document(
        {
            "run": finished.run,
            "adapter": finished.adapter,
            "steps": finished.steps,
            "tokens": finished.tokens,
            "train_loss": finished.train_loss,
            "valid_loss": finished.valid_loss,
            "best_step": finished.best_step,
            "tokens_per_second": finished.tokens_per_second,
            "peak_bytes": finished.peak_bytes,
            "seconds": finished.seconds,
        }
    )
