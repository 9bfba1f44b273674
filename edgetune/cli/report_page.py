"""A report in a terminal: at most 80 columns, the result and the advice first."""

import os
import re
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

from edgetune.cli.output import Part, Styled, one_line
from edgetune.files import clean
from edgetune.workspace.curve import ASCII, UNICODE, Signs, draw
from edgetune.workspace.report_facts import Report
from edgetune.workspace.report_text import Fact, facts, headline, number, story
from edgetune.workspace.run_state import Sample

WIDTH, LABEL = 80, 8
CURVE_HEIGHT = 10
SAMPLES, SAMPLE_LINES = 3, 5
COLOURS = {"finished": "green", "failed": "red", "interrupted": "red", "stopped": "yellow"}
ROLES = {"axis": "dim", "train": "cyan", "valid": "yellow"}
Line = list[Part]


def signs(encoding: str | None) -> Signs:
    """Braille where the terminal can show it."""
    dumb = os.environ.get("TERM") in ("dumb", "linux")
    return UNICODE if "utf" in (encoding or "").lower() and not dumb else ASCII


def page(report: Report, width: int, signs: Signs, price: float | None = None) -> Iterator[Line]:
    """The whole report: the result and the advice first."""
    colour = COLOURS.get(report.state, "cyan")
    title = one_line(clean(report.name))
    if cell_len(f"{title} {headline(report)}") <= width:
        yield [Styled(title, "bold"), " ", Styled(headline(report), colour)]
    else:
        for style, text in (("bold", title), (colour, headline(report))):
            for line in wrapped(text, width):
                yield [Styled(line, style)]
    yield []
    loss, what = number(report)
    yield from hanging(Styled(loss, "bold"), what, width)
    if report.error:
        yield from hanging(Styled("error", "red"), report.error, width)
    yield from hanging(Styled("next", "green"), f"{report.advice.what}: {report.advice.why}.", width)
    if report.advice.command:
        yield [" " * (LABEL + 2), Styled(report.advice.command, "bold")]
    yield from picture(report, width, signs)
    yield []
    for fact in facts(report, price):
        yield from hanging(Styled(fact.label, "dim"), fact.text, width)
    yield from told("what happened", story(report), width)
    yield from samples(report, width)


def picture(report: Report, width: int, signs: Signs) -> Iterator[Line]:
    """The loss curve and its legend."""
    lines = draw(report.curve, report.validations, width, CURVE_HEIGHT, (0, max(report.total_steps, report.step)), signs)
    if not lines:
        return
    yield []
    for line in lines:
        yield [Styled(span.text, ROLES[span.role]) for span in line]
    legend = f"{signs.train or '⠒'} training" + (f"  {signs.valid} held-out" if report.validations else "")
    yield [Styled(f"{legend:>{width}}", "dim")]


def told(title: str, lines: list[Fact], width: int) -> Iterator[Line]:
    """A title, and what happened when."""
    if lines:
        yield []
        yield [Styled(title, "bold")]
        for line in lines:
            yield from hanging(Styled(f"{line.label:>9}", "dim"), line.text, width, 11)


def samples(report: Report, width: int) -> Iterator[Line]:
    """What it said before, and what it says now."""
    for sample in report.samples[:SAMPLES]:
        yield []
        yield from hanging("›", sample.prompt, width, 2)
        for at, reply in answers(sample):
            yield from hanging(Styled(at, "dim"), reply, width, LABEL + 2)


def answers(sample: Sample) -> list[tuple[str, str]]:
    """The first and the newest answer, each with its step."""
    first = ("before" if sample.first_step == 0 else f"{sample.first_step:,}", sample.first)
    return [first] if sample.first_step == sample.step else [first, (f"{sample.step:,}", sample.reply)]


def hanging(label: Part, text: str, width: int, indent: int = LABEL + 2) -> Iterator[Line]:
    """A label, and text beside it in as many lines as it takes, at most SAMPLE_LINES."""
    lines = wrapped(text, width - indent)
    shown = [*lines[: SAMPLE_LINES - 1], "…"] if len(lines) > SAMPLE_LINES else lines
    blank = " " * (indent - cell_len(label.text if isinstance(label, Styled) else label))
    for place, line in enumerate(shown):
        yield [label, blank, line] if place == 0 else [" " * indent, line]


def wrapped(text: str, width: int) -> list[str]:
    """Words in lines of at most `width` cells, a number beside its unit; a word that is longer is cut."""
    lines = [""]
    for word in re.split(r" (?!(?:h|min|s|%|kWh|B|kB|MB|GB|·)(?:\W|$))", one_line(clean(text))):
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
            continue
        pieces = chop_cells(word, width) or [""]
        lines += pieces if lines[-1] else []
        if not lines[0]:
            lines = pieces
    return lines
