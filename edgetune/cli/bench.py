"""`bench`: how fast this machine trains, in a table that can be pasted into an issue."""

import platform
import signal
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from edgetune.cli.doctor import NUMPY, in_child
from edgetune.cli.options import Backend, BackendName, Job
from edgetune.cli.output import Output
from edgetune.cli.signals import StopSignals
from edgetune.errors import EdgeTuneError, StoppedEarly
from edgetune.units import count, lap, parameters, rate, size

if TYPE_CHECKING:
    from edgetune.workspace.bench import Figures, LeftOut, Rung, Wanted

HEAD = ("model", "parameters", "backend", "step", "tokens/s", "peak memory")
PEER_HEAD = ("mlx-lm step", "mlx-lm tokens/s", "mlx-lm peak memory", "times mlx-lm")
WORDS = ("model", "backend")  # columns that are not numbers


class StopBench(StopSignals):
    """A signal ends what is measured at once: there is nothing to save."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal; the measured process is ended by whoever waits for it, and the scratch folder removed."""
        self.received += 1
        if self.received == 1:
            self.output.urgent(f"ending the measurement ({signal.Signals(number).name})")


def bench(
    job: Job,
    shapes: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Measure these, however long; else those that fit and are quick.")
    ] = "",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps that count; one more warms up.")] = 4,
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Rows of a step.")] = 4,
    tokens: Annotated[int, typer.Option(min=8, max=1 << 17, help="Tokens of a row.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each shape, in turns with mlx-lm.")] = 1,
    alone: Annotated[bool, typer.Option("--alone", help="Leave mlx-lm out where it is installed.")] = False,
    backend: Backend = BackendName.auto,
) -> None:
    """Measure how fast this machine trains, as a table to paste."""
    from edgetune.workspace.bench import LeftOut, Rung, Wanted, bench, chosen

    names = chosen(split(shapes))
    wanted = Wanted(split(shapes), steps, rows, tokens, rounds, str(backend), alone)
    done: list[Rung | LeftOut] = []
    with StopBench(job.output) as stop:
        stop.begin()
        try:
            with closing(bench(wanted, job.event, stop.requested)) as outcomes:
                for outcome in outcomes:
                    done.append(outcome)
                    if isinstance(outcome, Rung):
                        job.output.note(f"{outcome.name}: {sentence(outcome.ours)}")
        except EdgeTuneError as error:
            say(job.output, wanted, done)  # what is measured stays measured
            if not isinstance(error, StoppedEarly):
                raise
            rest = [name for name in names if name not in {outcome.name for outcome in done}]
            raise StoppedEarly(
                f"stopped while {rest[0]} was measured", hint=f"edgetune bench --shapes {','.join(rest)} measures the rest"
            ) from None
    say(job.output, wanted, done)
    job.output.document(document(wanted, done))


def split(names: str) -> tuple[str, ...]:
    """The names between commas."""
    return tuple(name for name in names.split(",") if name.strip())


def say(out: Output, wanted: "Wanted", done: "Sequence[Rung | LeftOut]") -> None:
    """The table and what it was made on, for people; nothing where nothing was measured."""
    from edgetune.workspace.bench import LeftOut, Rung

    rungs = [outcome for outcome in done if isinstance(outcome, Rung)]
    left_out = [f"{outcome.name} ({outcome.reason})" for outcome in done if isinstance(outcome, LeftOut)]
    if rungs and not out.as_json:
        for line in markdown(rungs):
            out.say(line)
        out.say()
        out.say(f"{settings(wanted)} {machine()}.")
    if left_out:
        out.say()
        out.say(f"left out: {'; '.join(left_out)}")


def markdown(rungs: "Sequence[Rung]") -> list[str]:
    """A Markdown table whose columns are also lined up as plain text; mlx-lm's columns only where it was measured."""
    with_peer = any(rung.mlx_lm for rung in rungs)
    head = [*HEAD, *(PEER_HEAD if with_peer else ())]
    rows = [cells(rung)[: len(head)] for rung in rungs]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if name in WORDS else cell.rjust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if name in WORDS else "-" * (width - 1) + ":" for name, width in zip(head, widths, strict=True)]
    return [line(head), line(rule), *map(line, rows)]


def cells(rung: "Rung") -> list[str]:
    """One row of the table."""
    ratio = f"{rung.ratio:.2f}" if rung.ratio else ""
    return [rung.name, parameters(rung.parameters), rung.backend, *figures(rung.ours), *figures(rung.mlx_lm), ratio]


def figures(measured: "Figures | None") -> list[str]:
    """Step, tokens per second, memory; empty cells for what was not measured."""
    if measured is None:
        return ["", "", ""]
    return [lap(measured.step_seconds), count(measured.tokens_per_second), size(measured.peak_bytes)]


def sentence(measured: "Figures") -> str:
    """The same in a line of its own."""
    step, memory = lap(measured.step_seconds), size(measured.peak_bytes)
    return f"{rate(measured.tokens_per_second, 'tokens')} · {step} a step · peak {memory}"


def settings(wanted: "Wanted") -> str:
    """What was trained."""
    from edgetune.workspace.bench import RANK

    what = f"LoRA of rank {RANK} on all linear layers, {count(wanted.rows)} rows of {count(wanted.tokens)} tokens a step"
    of = f" in each of {count(wanted.rounds)} rounds" if wanted.rounds > 1 else ""
    steps = "the second step" if wanted.steps == 1 else f"the median of {count(wanted.steps)} steps after the first"
    return f"{what}, random bfloat16 weights, {steps}{of}."


def machine() -> str:
    """Chip, cores, memory, system and versions, with the kernels that a training process gets."""
    from edgetune.hardware import child_environment, this_machine

    here = this_machine()
    worked, numpy = in_child(NUMPY, child_environment())
    peers = [f"{name} {found}" for name in ("mlx", "mlx-lm") if (found := version_of(name))]
    versions = ", ".join([f"EdgeTune {version_of('edgetune')}", numpy if worked else f"NumPy {version_of('numpy')}", *peers])
    chip = f"{here.chip} ({here.architecture}), {here.physical_cores} cores, {size(here.total_memory_bytes)}"
    return f"{chip}; {here.system}; Python {platform.python_version()}, {versions}"


def version_of(package: str) -> str:
    """The installed version; empty where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def document(wanted: "Wanted", done: "Sequence[Rung | LeftOut]") -> dict[str, object]:
    """The same facts for programs."""
    from edgetune.workspace.bench import LeftOut, Rung

    rows = [
        {
            "name": rung.name,
            "parameters": rung.parameters,
            "backend": rung.backend,
            "step_seconds": rung.ours.step_seconds,
            "tokens_per_second": rung.ours.tokens_per_second,
            "peak_bytes": rung.ours.peak_bytes,
            "mlx_lm": rung.mlx_lm,
            "ratio": rung.ratio,
        }
        for rung in done
        if isinstance(rung, Rung)
    ]
    left_out = [outcome for outcome in done if isinstance(outcome, LeftOut)]
    return {"rows": rows, "left_out": left_out, "settings": settings(wanted), "machine": machine()}
