"""`eval`: how good a model is on rows that it has not seen."""

from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import Backend, BackendName, Detach, Job
from edgetune.units import count


def evaluate(
    job: Job,
    model: Annotated[str, typer.Option(help="A folder, a hub id, or a name from `edgetune models`.")],
    data: Annotated[list[Path], typer.Option(metavar="FILE", help="Files of rows.")],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT or mlx-lm folder, or a run.")] = None,
    task: Annotated[str, typer.Option(help="Also let it answer, and compare: exact, label or overlap.")] = "",
    per_token: Annotated[
        bool, typer.Option("--per-token", help="With --json: the log-probability of every trained token.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Score so many rows at most, spread evenly over all; 0: all.")] = 0,
    worst: Annotated[int, typer.Option(min=0, help="Tell only so many rows, the highest loss first; 0: all.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=8, help="The longest row, in tokens; longer ones are left out.")] = 4096,
    backend: Backend = BackendName.auto,
    detach: Detach = False,
) -> None:
    """Measure loss and perplexity on rows, and a task's own metric."""
    if detach:
        from edgetune.cli.detached import begin, without

        return begin(job, without(job.arguments))
    from edgetune.hardware import reexec_for_speed

    reexec_for_speed()
    from edgetune.workspace.outcomes import evaluate_rows

    result = evaluate_rows(model, adapter, data, task, max_tokens, job.event, backend, limit)
    scores, out = result.scores, job.output
    tokens = f"{count(scores.tokens)} tokens of {count(len(scores.rows))} rows"
    out.say(f"loss {scores.loss:.4f} · perplexity {scores.perplexity:.2f} · {tokens}")
    for name, value in result.metrics.items():
        out.say(f"{name} {value:.3f}")
    for answer in [answer for answer in result.answers if answer.reply.strip() != answer.reference.strip()][:5]:
        out.say(f"  {answer.prompt}")
        out.say(f"    should be  {answer.reference}")
        out.say(f"    is         {answer.reply}")
    rows = [
        {"file": row.file, "line": row.line, "loss": row.loss, **({"logprobs": row.logprobs} if per_token else {})}
        for row in (sorted(scores.rows, key=lambda row: -row.loss)[:worst] if worst else scores.rows)
    ]
    out.document(
        {
            "loss": scores.loss,
            "perplexity": scores.perplexity,
            "tokens": scores.tokens,
            "metrics": result.metrics,
            "rows": rows,
            **({"answers": result.answers} if task else {}),
        }
    )
