"""`plan`: what a run will take, before it starts."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgetune.cli.options import Backend, BackendName, Job, Settings
from edgetune.cli.output import Output, Styled, table
from edgetune.errors import Refused
from edgetune.planner.facts import Facts
from edgetune.planner.plan import RunPlan
from edgetune.units import count, duration, rate, size


def plan(
    job: Job,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")],
    settings: Settings = [],  # noqa: B006 - typer makes its own list
    backend: Backend = BackendName.auto,
) -> None:
    """Tell what a run will take: memory by part, time, and disk."""
    from edgetune.config import load
    from edgetune.hardware import reexec_for_speed

    wanted = load(config, settings)
    reexec_for_speed()
    from edgetune.backend.choice import choose_backend
    from edgetune.workspace.planning import plan_run
    from edgetune.workspace.runs import runs_folder
    from edgetune.workspace.training import prepare

    planned = plan_run(prepare(wanted, job.event), runs_folder(), job.event, choose_backend(backend))
    tell(job.output, planned.plan)
    try:
        planned.plan.require_fit()
    except Refused as refusal:
        job.output.error(refusal, document(planned.facts, planned.plan))
        raise typer.Exit(refusal.exit_code) from None
    job.output.document(document(planned.facts, planned.plan))


def tell(out: Output, plan: RunPlan) -> None:
    """The plan for people."""
    memory, time = plan.memory, plan.time
    rows = [[part, size(number)] for part, number in sorted(memory.parts.items(), key=lambda item: -item[1]) if number]
    for line in table(["memory", "at its peak"], [*rows, ["all", size(memory.peak_bytes)]], right=["at its peak"]):
        out.say(*line)
    out.say()
    verdict = Styled("fits", "green") if plan.fits else Styled("does not fit", "red")
    recomputed = "; activations are made again in the backward, to save memory" if memory.recompute else ""
    out.say(verdict, f": {size(memory.usable_bytes)} of memory is usable{recomputed}")
    pace = rate(time.tokens_per_second, "tokens")
    out.say(f"time: {duration(time.seconds)} for {count(time.steps)} steps, {count(time.tokens)} tokens at {pace}")
    out.say(f"disk: {size(plan.disk_bytes)} of {size(plan.free_bytes)} free")
    for each in plan.suggestions:
        saving = ", ".join(filter(None, [each.saving, "" if each.fits else "still too much"]))
        out.say(f"try --set {each.setting}: {size(each.peak_bytes)}, {saving}; {each.cost}")


def document(facts: Facts, plan: RunPlan) -> dict[str, object]:
    """The plan for programs."""
    memory, time = plan.memory, plan.time
    return {
        "fits": plan.fits,
        "peak_bytes": memory.peak_bytes,
        "usable_bytes": memory.usable_bytes,
        "recompute": memory.recompute,
        "share_weights": memory.share_weights,
        "steps": time.steps,
        "tokens": time.tokens,
        "seconds": time.seconds,
        "seconds_by_part": time.parts,
        "tokens_per_second": time.tokens_per_second,
        "disk_bytes": plan.disk_bytes,
        "free_bytes": plan.free_bytes,
        "parts": memory.parts,
        "suggestions": plan.suggestions,
        "facts": msgspec.to_builtins(facts),
    }
