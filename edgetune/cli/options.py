"""What every command shares: its options, and the job that they make.

A command is a function of a Job and its own arguments; `command` adds --json, --events and --offline to them.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from edgetune.cli.event_view import EventView
from edgetune.cli.output import Output, Styled
from edgetune.errors import EdgeTuneError
from edgetune.events import Event, to_line
from edgetune.files import append_line, disk_errors

Arguments = ParamSpec("Arguments")
ARGUMENTS = "edgetune.arguments"  # where the parser's context has the command line


class BackendName(StrEnum):
    """What --backend takes."""

    auto = "auto"
    mlx = "mlx"
    numpy = "numpy"


Backend = Annotated[BackendName, typer.Option(help="What computes: auto takes MLX where it has a GPU, NumPy elsewhere.")]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change any key of the config, as in training.rate=1e-4."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Standard output carries one JSON document, at the end.")]
EventsFile = Annotated[
    Path | None, typer.Option("--events", metavar="FILE", help="Append every event of the job, one JSON line each.")
]
Detach = Annotated[bool, typer.Option("--detach", help="In the background: it outlives this terminal. Follow it with `watch`.")]
Offline = Annotated[bool, typer.Option("--offline", help="Make no network call.")]


class Job:
    """One command at work: its output, and where its events go.

    Raises:
        InputError: the events file cannot be written.
    """

    def __init__(self, output: Output, events: Path | None = None, arguments: Sequence[str] = ()):
        self.output, self.events, self.view = output, events, EventView(output)
        self.arguments = tuple(arguments)  # the command line that this is
        if events:
            with disk_errors(events):
                events.open("ab").close()

    def event(self, event: Event) -> None:
        """Shows an event to the person, and appends it to the events file. That file's end is not the job's end."""
        if self.events:
            try:
                append_line(self.events, to_line(event), "event-copy")
            except (OSError, EdgeTuneError) as error:
                self.output.note(Styled("warning:", "yellow"), f" no more events are written to {self.events}: {error}")
                self.events = None
        self.view.show(event)


def command(function: Callable[Concatenate[Job, Arguments], None]) -> Callable[..., None]:
    """Gives a command its Job, and to its own options those that all commands share."""
    signature = inspect.signature(function, eval_str=True)

    @wraps(function)
    def run(context: typer.Context, as_json: bool, events: Path | None, offline: bool, **own: Any) -> None:
        if offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        call: Callable[..., None] = function
        call(Job(context.obj, events, context.meta.get(ARGUMENTS, ())), **own)

    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *[parameter.replace(kind=keyword) for parameter in list(signature.parameters.values())[1:]],
        inspect.Parameter("as_json", keyword, default=False, annotation=AsJson),
        inspect.Parameter("events", keyword, default=None, annotation=EventsFile),
        inspect.Parameter("offline", keyword, default=False, annotation=Offline),
    ]
    run.__signature__ = signature.replace(parameters=shared)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shared}
    return run
