"""`adapter`: what can be done with an adapter alone."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import Job, command
from edgetune.cli.output import Styled
from edgetune.units import count

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


class AdapterFormat(StrEnum):
    """What --to takes."""

    peft = "peft"
    mlx = "mlx"
    gguf = "gguf"


@app.callback()
def adapter() -> None:
    """Work with an adapter alone. Its formats are PEFT's, mlx-lm's and GGUF."""


def convert(
    job: Job,
    source: Annotated[Path, typer.Argument(help="A PEFT or mlx-lm folder, a GGUF adapter, or a run.")],
    to: Annotated[AdapterFormat, typer.Option(metavar="FORMAT", help="peft, mlx or gguf.")],
    out: Annotated[Path, typer.Option(help="The new folder; for gguf, the new file.")],
    model: Annotated[str, typer.Option(help="Its base; GGUF needs it. A folder, a hub id, or a listed name.")] = "",
) -> None:
    """Convert an adapter to another format, losslessly or not at all."""
    from edgetune.workspace.adapters import convert_adapter

    result = convert_adapter(source, to.value, out, model, job.event)
    job.output.say(Styled("done", "green"), f" {count(result.modules)} modules of rank {result.rank}")
    job.output.say(f"     {result.out}")
    job.output.document({"out": str(result.out), "modules": result.modules, "rank": result.rank})


app.command("convert")(command(convert))
