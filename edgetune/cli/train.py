"""`train` and `resume`: a run, from its config or from where it stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgetune.backend.launch import rank
from edgetune.cli.notify import at_the_end
from edgetune.cli.options import Backend, BackendName, Job, Settings
from edgetune.cli.output import Styled
from edgetune.cli.signals import StopSignals
from edgetune.events import Event, RunFinished, RunStarted
from edgetune.units import count, duration, rate, size

Notify = Annotated[
    str,
    typer.Option(metavar="COMMAND", help="Run this at the end, without a shell; EDGETUNE_STATE and more tell how it went."),
]


def train(
    job: Job,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")],
    settings: Settings = [],  # noqa: B006 - typer makes its own list
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the run goes; left out, EDGETUNE_HOME/runs.")] = None,
    backend: Backend = BackendName.auto,
    notify: Notify = "",
) -> None:
    """Train a run. Ctrl-C stops it after the step at hand, with everything saved."""
    from edgetune.config import load
    from edgetune.hardware import reexec_for_speed

    wanted = load(config, settings)
    reexec_for_speed()
    from edgetune.workspace import training

    with StopSignals(job.output) as stop:
        finished = training.train(wanted, run, follower(job, stop, notify), stop.requested, backend)
    report(job, finished)


def resume(
    job: Job,
    run: Annotated[str, typer.Argument(help="The run's folder, or its name in `edgetune runs`.")],
    force: Annotated[
        bool, typer.Option(help="Go on although data, model or versions changed: the result will differ.")
    ] = False,
    backend: Backend = BackendName.auto,
    notify: Notify = "",
) -> None:
    """Continue a run exactly where it stopped."""
    from edgetune.hardware import reexec_for_speed
    from edgetune.workspace.runs import find_run

    folder = find_run(run)
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
