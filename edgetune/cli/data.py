"""`data`: what will be learned."""
from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import Job


def data(job: Job, files: Annotated[list[Path], typer.Argument(help="Files of rows.")]) -> None:
    """Show what will be learned."""
