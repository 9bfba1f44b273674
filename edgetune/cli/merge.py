"""`merge`: a base and an adapter become one model folder."""

from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import Detach, Job
from edgetune.cli.output import Styled
from edgetune.units import count


def merge(
    job: Job,
    model: Annotated[str, typer.Option(help="The base: a folder, a hub id, or a name from `edgetune models`.")],
    adapter: Annotated[Path, typer.Option(help="The adapter: a PEFT or mlx-lm folder, or a run.")],
    out: Annotated[Path, typer.Option(help="The new model folder.")],
    detach: Detach = False,
) -> None:
    """Merge an adapter into its base. One Hugging Face folder, computed in float, in the base's own precision."""
    if detach:
        from edgetune.cli.detached import begin, without

        return begin(job, without(job.arguments))
    from edgetune.export.merge import merge as merged
    from edgetune.workspace.models import find_model

    result = merged(find_model(model, job.event), adapter, out, job.event)
    job.output.say(Styled("done", "green"), f" {count(result.tensors)} tensors in {result.dtype}")
    job.output.say(f"     {result.out}")
    job.output.document({"out": str(result.out), "tensors": result.tensors, "dtype": result.dtype})
