"""`data`: what files of rows would teach a model, and what is wrong with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetune.cli.options import Job, Settings
from edgetune.cli.output import Output, Styled
from edgetune.errors import DataError
from edgetune.units import count, percent

if TYPE_CHECKING:
    from edgetune.text.inspect import DataReport

LISTED = 12  # problems, and pairs of rows, that are listed for people; --json has them all
HEIGHTS = " ▁▂▃▄▅▆▇█"


def data(
    job: Job,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of rows: JSONL, JSON, CSV, TSV, text, Parquet.")],
    model: Annotated[str, typer.Option(help="A folder, a hub id, or a name from `edgetune models`.")],
    settings: Settings = [],  # noqa: B006 - typer makes its own list
) -> None:
    """Show what would be learned, and every problem with its line. Ends with 2 where training would refuse the rows."""
    from edgetune.workspace.inspection import inspect_rows

    found = inspect_rows(model, files, settings, job.event)
    tell(job.output, found.report)
    if found.refusal:
        job.output.say(Styled("training would refuse this:", "red"), f" {found.refusal}")
    job.output.document({**vars(found.report), "refusal": found.refusal or None})
    if found.refusal:
        raise typer.Exit(DataError.exit_code)


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
