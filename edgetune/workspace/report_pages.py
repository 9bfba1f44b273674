"""The report on disk: a Markdown page and the curve as an image, whole or absent, written when a run ends.

Names, messages, prompts and replies come from files and models: they are cleaned, escaped or fenced, never markup.
"""

import re
from collections.abc import Callable
from pathlib import Path

from edgetune.config import RunConfig, load
from edgetune.errors import ConfigError, EdgeTuneError
from edgetune.events import Event, RunFailed, RunFinished, RunStopped, Warned, read
from edgetune.files import clean, whole_file, write_file
from edgetune.workspace.report import report_of
from edgetune.workspace.report_facts import Report
from edgetune.workspace.report_svg import svg
from edgetune.workspace.report_text import facts, headline, number, story
from edgetune.workspace.run_state import Sample
from edgetune.workspace.runs import is_alive

SAMPLES = 8
REPLY = 2000  # characters of a reply that are shown
MARKUP = re.compile(r"([\\`*_\[\]<>|~#$&{}@]|(?<=w)\.|:(?=//))")


def report_on(run: Path, alive: bool | None = None) -> Report:
    """The report of a run folder as it stands. `alive`: whether a process trains it, where the caller knows."""
    file = run / "events.jsonl"
    events = read(file) if file.is_file() else iter(())
    return report_of(config_of(run), events, shown(run), is_alive(run) if alive is None else alive)


def config_of(run: Path) -> RunConfig | None:
    """The run's config; None where it cannot be read: the events tell enough."""
    try:
        return load(run / "run.toml")
    except ConfigError:
        return None


def shown(run: Path) -> str:
    """A run's folder as commands name it from anywhere, without this person's own name where it lies in their home."""
    path = run.absolute()
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) and path != home else str(path)


# ---- writing -----------------------------------------------------------------------------------------------------------


def reporting(run: Path, on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    """Passes events on; after a run's last one its report is written. One that cannot be written is a warning."""

    def follow(event: Event) -> None:
        on_event(event)
        if isinstance(event, RunFinished | RunStopped | RunFailed):
            try:
                write_pages(report_on(run, alive=False), run / "report.md", picture="loss.svg")
            except (OSError, EdgeTuneError, UnicodeError) as error:
                on_event(Warned(message=f"the report was not written: {error}", hint=f"edgetune report {shown(run)}"))

    return follow


def write_pages(report: Report, file: Path, price: float | None = None, picture: str = "") -> None:
    """Writes the page, and the curve beside it.

    Raises:
        DiskFull, InputError: they cannot be written.
    """
    picture = picture or f"{file.stem}.svg"
    image = svg(report)
    if image:
        with whole_file(file.with_name(picture), "report") as part:
            write_file(part, image, "report-content")
    with whole_file(file, "report") as part:
        write_file(part, markdown(report, picture if image else "", price), "report-content")


# ---- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(report: Report, picture: str = "", price: float | None = None) -> str:
    """The report as a page: result, advice, curve, facts, story, samples."""
    loss, what = number(report)
    parts = [f"# {escaped(report.name)} {escaped(headline(report))}", f"**{loss}** {escaped(what)}"]
    if report.error:
        parts.append(f"**Error:** {escaped(report.error)}")
    parts.append(f"**Next:** {escaped(report.advice.what)}: {escaped(report.advice.why)}.")
    if report.advice.command:
        parts.append(fenced(report.advice.command, "sh"))
    if picture:
        parts.append(f"![Training and held-out loss by step](<{picture.translate(URL)}>)")
    parts.append(table([(fact.label, fact.text) for fact in facts(report, price)]))
    if lines := story(report):
        parts += ["## What happened", table([(line.label, line.text) for line in lines])]
    if report.samples:
        parts += ["## Samples", *(fenced(conversation(sample), "text") for sample in report.samples[:SAMPLES])]
    return "\n\n".join(parts) + "\n"


URL = {ord(sign): f"%{ord(sign):02X}" for sign in '<>\\\n\r\t"%'}


def escaped(text: str) -> str:
    """Text on one line in which nothing is markup (CommonMark 0.31: a backslash before ASCII punctuation)."""
    return MARKUP.sub(r"\\\1", " ".join(clean(text).split()))


def table(rows: list[tuple[str, str]]) -> str:
    """Two columns without a head."""
    return "\n".join(["| | |", "|---|---|", *(f"| {escaped(label)} | {escaped(text)} |" for label, text in rows)])


def fenced(text: str, kind: str) -> str:
    """Text as it is, in a fence longer than any in it."""
    text = clean(text)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def conversation(sample: Sample) -> str:
    """A prompt, the first answer and the newest."""
    lines = [indented("›", sample.prompt, 2), ""]
    first = "before" if sample.first_step == 0 else f"step {sample.first_step:,}"
    lines.append(indented(first, sample.first, 12))
    if sample.step != sample.first_step:
        lines.append(indented(f"step {sample.step:,}", sample.reply, 12))
    return "\n".join(lines)


def indented(label: str, text: str, indent: int) -> str:
    """A label, and text beside it whose further lines begin in the same column."""
    cut = text if len(text) <= REPLY else f"{text[:REPLY]}…"
    lines = cut.splitlines() or [""]
    return "\n".join([f"{label:<{indent}}{lines[0]}".rstrip(), *((" " * indent + line).rstrip() for line in lines[1:])])
