"""`selftest`: what is promised, proved on this very machine."""

import signal
from types import FrameType
from typing import Annotated

import typer

from edgetune.cli.options import Backend, BackendName, Job, command
from edgetune.cli.output import Styled
from edgetune.cli.signals import StopSignals
from edgetune.errors import VerificationFailed
from edgetune.units import count, duration

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


class StopTest(StopSignals):
    """A signal ends the test: its processes are ended and its folder is removed."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal."""
        self.received += 1
        if self.received == 1:
            self.output.urgent(f"ending the test ({signal.Signals(number).name})")


@app.callback()
def selftest() -> None:
    """Prove on this machine what is promised. Each test says what it did and what came of it."""


def resume(
    job: Job,
    kills: Annotated[int, typer.Option(min=1, max=10_000, help="How often the run is killed.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="What the moments are drawn with.")] = 0,
    backend: Backend = BackendName.auto,
) -> None:
    """Kill a short run at random moments, and prove that resuming ends bit for bit where an uninterrupted run ends."""
    from edgetune.hardware import reexec_for_speed

    reexec_for_speed()
    from edgetune.workspace.selftest import resume_test

    with StopTest(job.output) as stop:
        stop.begin()
        proof = resume_test(kills, seed, job.event, stop.requested, backend)
    out = job.output
    runs = f"{count(proof.kills)} kills in {count(proof.runs)} x {count(proof.steps)} steps"
    verdict = Styled("identical", "green") if proof.identical else Styled("not identical", "red")
    out.say(verdict, f"  {runs}: {proof.lost} lost, {proof.different} different · {duration(proof.seconds)}")
    if proof.identical:
        out.say("           every run ended with the adapter of the one that was left in peace, bit for bit")
    for reason in proof.reasons:
        out.say(Styled("           lost: ", "red"), reason)
    out.document(
        {
            "kills": proof.kills,
            "identical": proof.identical,
            "runs": proof.runs,
            "lost": proof.lost,
            "different": proof.different,
            "reasons": proof.reasons,
            "steps": proof.steps,
            "seed": seed,
            "seconds": proof.seconds,
        }
    )
    if not proof.identical:
        raise typer.Exit(VerificationFailed.exit_code)


app.command("resume")(command(resume))
