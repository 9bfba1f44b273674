"""`demo`: the whole job, offline, on the starter model."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetune.cli.options import Job
from edgetune.cli.output import Styled, table
from edgetune.cli.signals import StopSignals
from edgetune.cli.train import follower
from edgetune.units import count, duration, percent, size

if TYPE_CHECKING:
    from edgetune.evaluation.tasks import Answered


def demo(
    job: Job,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where run and files go; left out, EDGETUNE_HOME/demo.")
    ] = None,
) -> None:
    """Watch a small model learn a support desk's answers: train, compare, merge, export, prove, talk. Offline."""
    from edgetune.files import home
    from edgetune.workspace.demo import CHATS, Demo

    began, out = time.monotonic(), job.output
    show = Demo(keep or home() / "demo", job.event)

    heading(job, "Before", "the starter model is asked what it cannot know")
    prepared, plan = show.plan()
    before = show.score()
    tell_answers(job, before.answers)
    heading(
        job,
        "Training",
        f"{count(len(prepared.train))} rows · planned {duration(plan.time.seconds)}, {size(plan.memory.peak_bytes)}",
    )
    started = time.monotonic()
    with StopSignals(out) as stop:
        show.on_event = follower(job, stop)
        finished = show.train(prepared, plan, stop.requested)
    show.on_event = job.event
    trained = time.monotonic() - started
    heading(job, "After", "the same questions, none of which was in the training rows")
    after = show.score(Path(finished.adapter))
    tell_answers(job, after.answers)
    columns = ["", "before", "after"]
    rows = [
        ["loss", f"{before.loss:.3f}", f"{after.loss:.3f}"],
        ["exact answers", percent(before.accuracy), percent(after.accuracy)],
    ]
    for line in table(columns, rows, right=columns[1:]):
        out.say(*line)
    heading(job, "Proof", "merged, converted, quantised: every hop on the same rows")
    exported = show.export()
    gguf = next(file.path for file in exported.files if file.kind == CHATS)
    heading(job, "Conversation", f"{gguf.name}, through llama.cpp")
    turns = show.converse(gguf)
    for turn in turns:
        out.say(Styled("  you    ", "dim"), turn.question)
        out.say(Styled("  model  ", "dim"), turn.reply)
    seconds = time.monotonic() - began
    out.say()
    columns = ["", "planned", "measured"]
    rows = [
        ["time", duration(plan.time.seconds), duration(trained)],
        ["memory", size(plan.memory.peak_bytes), size(finished.peak_bytes)],
    ]
    for line in table(columns, rows, right=columns[1:]):
        out.say(*line)
    out.say()
    out.say(Styled("done", "green"), f" in {duration(seconds)}. Talk to it:  edgetune chat {gguf}")
    out.document(
        {
            "before": {"loss": before.loss, "accuracy": before.accuracy},
            "after": {"loss": after.loss, "accuracy": after.accuracy},
            "gguf": str(gguf),
            "certificate": str(exported.certificate),
            "reply": turns[-1].reply,
            "seconds": seconds,
            "planned": {"seconds": plan.time.seconds, "peak_bytes": plan.memory.peak_bytes},
            "measured": {"seconds": trained, "peak_bytes": finished.peak_bytes},
        }
    )


def heading(job: Job, title: str, what: str) -> None:
    """One part of the demo begins."""
    job.output.say()
    job.output.say(Styled(title, "bold"), f"  {what}")


def tell_answers(job: Job, answers: "Sequence[Answered]") -> None:
    """Two of the answers, to see what the figures mean."""
    for each in answers[:: max(1, len(answers) // 2)][:2]:
        job.output.say(Styled("  asked  ", "dim"), each.prompt)
        job.output.say(Styled("  says   ", "dim"), each.reply)
