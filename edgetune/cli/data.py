"""`data`: what files of rows would teach a model, and what is wrong with them."""

import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetune.cli.options import Job, Settings
from edgetune.cli.output import Output, Part, Styled
from edgetune.errors import ConfigError, DataError
from edgetune.events import Progress
from edgetune.units import count, percent

if TYPE_CHECKING:
    from edgetune.text.inspect import DataReport
    from edgetune.workspace.row_browser import RowBrowser

LISTED = 12  # problems, and pairs of rows, that are listed for people; --json has them all
HEIGHTS = " ▁▂▃▄▅▆▇█"


def data(
    job: Job,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of rows: JSONL, JSON, CSV, TSV, text, Parquet.")],
    model: Annotated[str, typer.Option(help="A folder, a hub id, or a name from `edgetune models`.")],
    settings: Settings = [],  # noqa: B006 - typer makes its own list
    rows: Annotated[str, typer.Option(metavar="FIRST:COUNT", help="Also show these rows as the model sees them.")] = "",
    held_out: Annotated[int, typer.Option(min=0, help="Also list what so many held-out rows ask and answer.")] = 0,
    lines: Annotated[bool, typer.Option("--lines", help="For programs: requests and answers are JSON lines.")] = False,
) -> None:
    """Show what would be learned, and every problem with its line. Ends with 2 where training would refuse the rows."""
    from edgetune.workspace.inspection import inspect_rows
    from edgetune.workspace.row_browser import RowBrowser, held_out_prompts, page_of

    page = page_of(rows) if rows else None
    if rows and page is None:
        raise ConfigError(f"--rows {rows!r}: not of the form FIRST:COUNT", hint="for example --rows 17:3")
    found = inspect_rows(model, files, settings, job.event)
    if lines:
        from edgetune.cli.data_lines import serve

        job.event(Progress(stage="sorting", done=0, total=0, unit="rows"))
        serve({**summed(found.report), "refusal": found.refusal or None}, RowBrowser(found), sys.stdin, job.output.out)
        return
    tell(job.output, found.report)
    shown = rows_in_full(RowBrowser(found), *page) if page else []
    for row in shown:
        tell_row(job.output, row)
    prompts = held_out_prompts(RowBrowser(found), held_out) if held_out else []
    for each in prompts:
        job.output.say(Styled(f"held out  {each['prompt']}", "dim"))
        job.output.say(f"          {each['answer']}")
    if found.refusal:
        job.output.say(Styled("training would refuse this:", "red"), f" {found.refusal}")
    more: dict[str, Any] = {**({"shown": shown} if rows else {}), **({"held_out": prompts} if held_out else {})}
    job.output.document({**vars(found.report), "refusal": found.refusal or None, **more})
    if found.refusal:
        raise typer.Exit(DataError.exit_code)


def summed(report: "DataReport") -> dict[str, Any]:
    """The report without its lists."""
    return {key: value for key, value in vars(report).items() if key not in ("pairs", "problems")}


def rows_in_full(browser: "RowBrowser", first: int, count: int) -> list[dict[str, Any]]:
    """So many rows from `first` on, each with its tokens as pieces of text."""
    return [browser.detail(at) for at in range(first, min(first + count, len(browser.entries)))]


def tell_row(output: Output, row: dict[str, Any]) -> None:
    """One row: what is trained stands between brackets, and in colour."""
    trained = sum(piece.flags & 1 for piece in row["pieces"])
    output.say()
    held = ", held out" if row["held_out"] else ""
    output.say(
        Styled(f"{row['file']}:{row['line']}: {count(len(row['pieces']))} tokens, {count(trained)} trained{held}", "dim")
    )
    for _, message in row["problems"]:
        output.say(Styled(f"  {message}", "yellow"))
    parts: list[Part] = []
    for is_trained, run in groupby(row["pieces"], key=lambda piece: piece.flags & 1):
        text = "".join(piece.text for piece in run)
        parts.append(Styled(f"⟦{text}⟧", "green") if is_trained else text)
    output.say(*(parts or [row["raw"]]))


def tell(output: Output, report: "DataReport") -> None:
    """The report on one screen."""
    lengths = report.lengths
    share = f" ({percent(report.trained_tokens / report.tokens)})" if report.tokens else ""
    output.say(f"{count(report.rows)} rows read: {count(report.train_rows)} to learn, {count(report.valid_rows)} held out")
    output.say(f"{count(report.tokens)} tokens, of which {count(report.trained_tokens)} are learned{share}")
    if lengths.counts:
        output.say(
            f"{count(lengths.shortest)} ", Styled(spark(lengths.counts), "cyan"), f" {count(lengths.longest)} tokens a row"
        )
        middle = f"half have {count(lengths.median)} at most, nine of ten {count(lengths.p90)}"
        output.say(Styled(f"{middle}; {count(report.longest_allowed)} are allowed", "dim"))
    changed = [
        f"{count(number)} {name}"
        for name, number in (
            ("too long and left out", report.dropped),
            ("cut", report.cut),
            ("split", report.split),
            ("bad", report.bad),
        )
        if number
    ]
    if changed:
        output.say(Styled("not learned as they are: ", "yellow"), ", ".join(changed))
    tell_pairs(output, report)
    for problem in report.problems[:LISTED]:
        output.say(f"  {problem.file}:{problem.line}: {problem.message}")
    if len(report.problems) > LISTED:
        output.say(f"  and {count(len(report.problems) - LISTED)} more; --json lists them all")


def tell_pairs(output: Output, report: "DataReport") -> None:
    """Rows that repeat others, counted, with examples of those that matter most."""
    if not report.pairs:
        return
    repeated = f"{count(report.exact_duplicates)} exactly, {count(report.near_duplicates)} nearly"
    output.say(Styled("rows that repeat another: ", "yellow"), repeated)
    leaks = [pair for pair in report.pairs if pair.leak]
    if leaks:
        output.say(Styled("held-out rows that are learned, too: ", "red"), f"{count(len(leaks))}; their loss flatters")
    for pair in leaks[: LISTED // 4]:
        output.say(f"  {pair.file}:{pair.line} is {'' if pair.exact else 'nearly '}{pair.other_file}:{pair.other_line}")


def spark(counts: tuple[int, ...]) -> str:
    """A histogram in one line; whatever is not empty can be seen."""
    highest = max(counts)
    return "".join(HEIGHTS[-(-number * (len(HEIGHTS) - 1) // highest)] for number in counts)
