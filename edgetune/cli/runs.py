"""`runs`: the runs of this person, and how each stands."""

from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import Job
from edgetune.cli.output import Styled, table
from edgetune.units import count, duration


def runs(
    job: Job,
    folder: Annotated[Path | None, typer.Argument(help="A folder of runs; left out, all of yours.")] = None,
) -> None:
    """List the runs, the newest first."""
    import time

    from edgetune.workspace.runs import all_runs, every_run, name_of, runs_folder

    found = list(all_runs(folder)) if folder else every_run()
    rows = [
        [
            name_of(Path(each.run)) if not folder else Path(each.run).name,
            each.phase,
            f"{count(each.step)}/{count(each.total_steps)}",
            "" if each.train_loss is None else f"{each.train_loss:.4f}",
            "" if each.valid_loss is None else f"{each.valid_loss:.4f}",
            f"{duration(time.time() - each.changed)} ago",
        ]
        for each in found
    ]
    if found:
        for line in table(["run", "state", "steps", "loss", "held-out", "changed"], rows, right=["steps", "loss", "held-out"]):
            job.output.say(*line)
        for each in found:
            if each.why:
                name = name_of(Path(each.run))
                job.output.note(Styled(f"{name}:", "yellow"), f" interrupted: {each.why}")
                job.output.note(Styled("hint:", "cyan"), f" `edgetune resume {name}` continues it")
    else:
        job.output.note(f"no runs in {folder or runs_folder()}")
    job.output.document({"runs": found})
