"""`report`: what became of a run, in one page that can be read over SSH."""

from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated

import typer

from edgetune.cli.options import Job


def report(
    job: Job,
    run: Annotated[str, typer.Argument(help="The run's folder, or its name in `edgetune runs`.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as Markdown, and the curve as SVG beside it.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="What a kWh costs, to tell what the run did.")] = None,
) -> None:
    """Tell what became of a run, and what to do next."""
    from edgetune.cli.report_page import WIDTH, page, signs
    from edgetune.workspace.report_pages import report_on, write_pages
    from edgetune.workspace.runs import find_run

    told = report_on(find_run(run))
    width = min(max(get_terminal_size().columns, 40), WIDTH)
    for line in page(told, width, signs(job.output.out.encoding), price):
        job.output.say(*line)
    if out:
        write_pages(told, out, price)
        job.output.note(f"written to {out}")
    job.output.document(told)
