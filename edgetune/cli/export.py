"""`export`: GGUF files and their certificate."""

from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import Detach, Job
from edgetune.cli.output import Styled, table
from edgetune.units import percent, size


def export(
    job: Job,
    source: Annotated[str, typer.Argument(help="A run, or a model folder.")],
    out: Annotated[Path, typer.Option(help="The folder for the files.")],
    to: Annotated[str, typer.Option(metavar="TYPES", help="Types of file, as in F16,Q8_0,Q4_K_M.")] = "Q8_0",
    adapter: Annotated[Path | None, typer.Option(help="For a model folder: a PEFT or mlx-lm folder, or a run.")] = None,
    data: Annotated[list[Path], typer.Option(metavar="FILE", help="Held-out rows for the proof; a run has its own.")] = [],  # noqa: B006 - typer makes its own list
    adapter_gguf: Annotated[
        bool, typer.Option("--adapter-gguf", help="Also write the adapter alone, for a GGUF of its base.")
    ] = False,
    detach: Detach = False,
) -> None:
    """Make GGUF files and prove them. Merge, convert, quantise; at every hop nothing may be lost."""
    if detach:
        from edgetune.cli.detached import begin, without

        return begin(job, without(job.arguments))
    from edgetune.hardware import reexec_for_speed

    reexec_for_speed()
    from edgetune.export.pipeline import ExportResult
    from edgetune.export.pipeline import export as exported
    from edgetune.hardware import worker_count
    from edgetune.workspace.outcomes import source_of

    found = source_of(source, adapter, data, job.event)
    result: ExportResult = exported(found, to.split(","), out, worker_count(), job.event, adapter_gguf)
    rows = [
        [
            file.path.name,
            size(file.hop.bytes),
            f"{file.hop.loss_delta:+.4f}",
            f"{file.hop.kl:.4f}",
            percent(file.hop.top1_agreement),
        ]
        for file in result.files
    ]
    for line in table(["file", "size", "loss", "KL", "same token"], rows, right=["size", "loss", "KL", "same token"]):
        job.output.say(*line)
    job.output.say(Styled("proved", "green"), f" {result.certificate}")
    job.output.document(
        {
            "files": [
                {
                    "type": file.kind,
                    "path": str(file.path),
                    "bytes": file.hop.bytes,
                    "loss_delta": file.hop.loss_delta,
                    "kl": file.hop.kl,
                    "top1_agreement": file.hop.top1_agreement,
                }
                for file in result.files
            ],
            "certificate": str(result.certificate),
        }
    )
