"""`demo`: the whole job, offline, on the starter model."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetune.cli.options import Job
from edgetune.cli.output import Output, Styled, table
from edgetune.cli.signals import StopSignals
from edgetune.cli.train import follower
from edgetune.units import count, duration, percent, size

if TYPE_CHECKING:
    from edgetune.evaluation.tasks import Answered


def demo(
    job: Job,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Where run and files go; else EDGETUNE_HOME/demo.")] = None,
) -> None:
    """Watch a small model learn a support desk's answers. Train, compare, merge, export, prove, talk: offline."""
    from edgetune.hardware import reexec_for_speed

    reexec_for_speed()
    from edgetune.files import home
    from edgetune.workspace.demo import CHATS, Demo

    began, out = time.monotonic(), job.output
    show = Demo(keep or home() / "demo", job.event)
    heading(out, "Before", "the starter model is asked what it cannot know")
    prepared, plan = show.plan()
    before = show.score()
    tell_answers(out, before.answers)

    seconds, peak = plan.plan.time.seconds, plan.plan.memory.peak_bytes
    heading(out, "Training", f"on {count(len(prepared.train))} rows, planned: {duration(seconds)}, {size(peak)}")
    started = time.monotonic()
    with StopSignals(out) as stop:
        show.on_event = follower(job, stop)
        finished = show.train(prepared, plan, stop.requested)
    trained, show.on_event = time.monotonic() - started, job.event

    heading(out, "After", "the same questions, none of which stood in the training rows")
    after = show.score(Path(finished.adapter))
    tell_answers(out, after.answers)
    rows = [
        ["loss", f"{before.loss:.3f}", f"{after.loss:.3f}"],
        ["exact answers", percent(before.accuracy), percent(after.accuracy)],
    ]
    tell_table(out, ["", "before", "after"], rows)

    heading(out, "Proof", "merged, converted, quantised: every hop on the same rows")
    exported = show.export()
    gguf = next(file.path for file in exported.files if file.kind == CHATS)
    heading(out, "Conversation", f"with {gguf.name}, through llama.cpp")
    turns = show.converse(gguf)
    for turn in turns:
        out.say(Styled("  you    ", "dim"), turn.question)
        out.say(Styled("  model  ", "dim"), turn.reply)
    whole = time.monotonic() - began
    rows = [["time", duration(seconds), duration(trained)], ["memory", size(peak), size(finished.peak_bytes)]]
    tell_table(out, ["", "planned", "measured"], rows)
    out.say()
    out.say(Styled("done", "green"), f" in {duration(whole)}. Talk to it:  edgetune chat {gguf}")
    out.document(
        {
            "before": {"loss": before.loss, "accuracy": before.accuracy},
            "after": {"loss": after.loss, "accuracy": after.accuracy},
            "gguf": str(gguf),
            "certificate": str(exported.certificate),
            "reply": turns[-1].reply,
            "seconds": whole,
            "planned": {"seconds": seconds, "peak_bytes": peak},
            "measured": {"seconds": trained, "peak_bytes": finished.peak_bytes},
        }
    )


def heading(out: Output, title: str, what: str) -> None:
    """One part of the demo begins."""
    out.say()
    out.say(Styled(title, "bold"), f"  {what}")


def tell_answers(out: Output, answers: "Sequence[Answered]") -> None:
    """Two of the answers, to see what the figures mean."""
    for each in answers[:: max(1, len(answers) // 2)][:2]:
        out.say(Styled("  asked  ", "dim"), each.prompt)
        out.say(Styled("  says   ", "dim"), each.reply)


def tell_table(out: Output, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table of figures, after an empty line."""
    out.say()
    for line in table(head, rows, right=head[1:]):
        out.say("  ", *line)
