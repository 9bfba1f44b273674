"""`plan`: what a run will take, before it starts."""

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgetune.cli.options import Backend, BackendName, Job, Settings
from edgetune.cli.output import Output, Styled, table
from edgetune.config import RunConfig, to_toml
from edgetune.errors import ConfigError, Refused
from edgetune.files import disk_errors, whole_file, write_file
from edgetune.planner.deadline import Fitted, fit_into, seconds_until
from edgetune.planner.facts import Facts
from edgetune.planner.plan import RunPlan, replan
from edgetune.planner.suggestions import with_settings
from edgetune.units import count, duration, rate, size


def plan(
    job: Job,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")],
    settings: Settings = [],  # noqa: B006 - typer makes its own list
    done_by: Annotated[
        str, typer.Option(metavar="TIME", help="Cut the work to end at 07:00, or in +8h, and say what is given up.")
    ] = "",
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the config that ends in time there.")] = None,
    backend: Backend = BackendName.auto,
) -> None:
    """Tell what a run will take: memory by part, time, and disk."""
    from edgetune.config import load
    from edgetune.hardware import reexec_for_speed

    if write and (not done_by or write.exists()):
        message = "is there already" if done_by else "--write goes with --done-by"
        raise ConfigError(message, file=write, hint="for example --done-by 07:00 --write tonight.toml, a new file")
    wanted = load(config, settings)
    seconds, began = seconds_until(done_by, time.time()) if done_by else 0.0, time.monotonic()
    reexec_for_speed()
    from edgetune.backend.choice import choose_backend
    from edgetune.workspace.planning import plan_run
    from edgetune.workspace.runs import runs_folder
    from edgetune.workspace.training import prepare

    planned = plan_run(prepare(wanted, job.event), runs_folder(), job.event, choose_backend(backend))
    said = document(planned.facts, planned.plan)
    try:
        if not done_by:
            tell(job.output, planned.plan)
        planned.plan.require_fit()
        if done_by:
            fitted = fit_into(planned.facts, wanted, seconds - (time.monotonic() - began), time.time())
            said = in_time(job.output, planned.facts, wanted, fitted, write)
    except Refused as refusal:
        job.output.error(refusal, said)
        raise typer.Exit(refusal.exit_code) from None
    job.output.document(said)


def in_time(out: Output, facts: Facts, wanted: RunConfig, fitted: Fitted, write: Path | None) -> dict[str, object]:
    """The plan that ends in time, for people and for programs.

    Raises:
        Refused: the machine cannot hold it.
    """
    config = with_settings(wanted, fitted.settings)
    plan = replan(facts, config)
    tell(out, plan)
    plan.require_fit()
    ends = datetime.fromtimestamp(time.time() + plan.time.seconds).strftime("%H:%M")
    limit = datetime.fromtimestamp(fitted.ends_at).strftime("%H:%M")
    out.say(Styled(f"started now, it ends at about {ends}", "green"), f", before {limit}")
    for each in fitted.given_up:
        out.say(f"given up: {each}")
    line = " ".join(f"--set {key}={value}" for key, value in fitted.settings.items())
    out.say(f"settings: {line}" if line else "settings: none are needed")
    if write:
        with disk_errors(write), whole_file(write, "config") as part:
            write_file(part, to_toml(config), "config-content")
        out.say(f"written: {write}")
    return document(facts, plan) | {
        "settings": fitted.settings,
        "given_up": fitted.given_up,
        "done_by": fitted.ends_at,
        "written": str(write) if write else None,
    }


def tell(out: Output, plan: RunPlan) -> None:
    """The plan for people."""
    memory, work = plan.memory, plan.time
    rows = [[part, size(number)] for part, number in sorted(memory.parts.items(), key=lambda item: -item[1]) if number]
    for line in table(["memory", "at its peak"], [*rows, ["all", size(memory.peak_bytes)]], right=["at its peak"]):
        out.say(*line)
    out.say()
    verdict = Styled("fits", "green") if plan.fits else Styled("does not fit", "red")
    recomputed = "; activations are made again in the backward, to save memory" if memory.recompute else ""
    out.say(verdict, f": {size(memory.usable_bytes)} of memory is usable{recomputed}")
    pace = rate(work.tokens_per_second, "tokens")
    out.say(f"time: {duration(work.seconds)} for {count(work.steps)} steps, {count(work.tokens)} tokens at {pace}")
    out.say(Styled("      a quick estimate, from steps on the first layers", "dim"))
    out.say(f"disk: {size(plan.disk_bytes)} of {size(plan.free_bytes)} free")
    for each in plan.suggestions:
        saving = ", ".join(filter(None, [each.saving, "" if each.fits else "still too much"]))
        out.say(f"try --set {each.setting}: {size(each.peak_bytes)}, {saving}; {each.cost}")


def document(facts: Facts, plan: RunPlan) -> dict[str, object]:
    """The plan for programs."""
    memory, work = plan.memory, plan.time
    return {
        "fits": plan.fits,
        "peak_bytes": memory.peak_bytes,
        "usable_bytes": memory.usable_bytes,
        "recompute": memory.recompute,
        "share_weights": memory.share_weights,
        "steps": work.steps,
        "tokens": work.tokens,
        "seconds": work.seconds,
        "seconds_by_part": work.parts,
        "estimate": "quick",
        "tokens_per_second": work.tokens_per_second,
        "disk_bytes": plan.disk_bytes,
        "free_bytes": plan.free_bytes,
        "parts": memory.parts,
        "suggestions": plan.suggestions,
        "facts": msgspec.to_builtins(facts),
    }
