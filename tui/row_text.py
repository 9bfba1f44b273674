"""One row as text on the screen: who says what, what is trained, how well each token is known."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from textual.content import Content

from edgetune.units import count
from tui.literal import literal

TRAINED, CONTROL = 1, 2
MOST = 4000  # tokens that are shown of a row
LABEL = 11  # cells of the speaker's name
SURPRISED, LOST = 2.0, 5.0  # nats from which a token is hardly known, and not at all
Row = Mapping[str, Any]
Logprobs = Sequence[float | None]


def masked(row: Row, width: int, logprobs: Logprobs | None = None) -> list[Content]:
    """The row as the model sees it: speakers at the left, a bar before what is trained."""
    pieces = row["pieces"][:MOST]
    if logprobs is not None and len(logprobs) != len(row["pieces"]):
        logprobs = None
    narrow = width < 44
    label_cells = LABEL if not narrow else LABEL - 1
    lines: list[Content] = []
    for part, at, run in spoken(pieces):
        label = str(row["parts"][part]) if 0 <= part < len(row["parts"]) else ""
        if lines and label != "…":
            lines.append(Content(""))
        for first, trained, content in stretches(run, at, logprobs):
            mark = Content.styled("▌", "$success") if trained else Content(" ")
            for line in content.wrap(max(width - label_cells - 2, 8)):
                name = label if first else ""
                lines.append(Content.styled(f"{literal(name).plain[: label_cells - 1]:<{label_cells}}", "$quiet") + mark + line)
                first = False
    if len(row["pieces"]) > MOST:
        lines.append(Content.styled(f"… and {count(len(row['pieces']) - MOST)} tokens more", "$quiet"))
    return lines


def spoken(pieces: Sequence[Sequence[Any]]) -> Iterator[tuple[int, int, list[Sequence[Any]]]]:
    """(part, number of its first token, its pieces) of what somebody says, and of the template's words that are trained."""
    at = 0
    for (part, trained), run in groupby(pieces, key=lambda piece: (piece[2], piece[1] & TRAINED if piece[2] < 0 else 0)):
        listed = list(run)
        if part >= 0 or trained:
            yield part, at, listed
        at += len(listed)


def stretches(pieces: Sequence[Sequence[Any]], at: int, logprobs: Logprobs | None) -> Iterator[tuple[bool, bool, Content]]:
    """(first, trained, content) of what is trained and what is not."""
    first = True
    for trained, run in groupby(pieces, key=lambda piece: bool(piece[1] & TRAINED)):
        listed = list(run)
        values = logprobs[at : at + len(listed)] if logprobs is not None else [None] * len(listed)
        content = Content("").join(piece_of(piece, value) for piece, value in zip(listed, values, strict=True))
        at += len(listed)
        yield first, trained, content
        first = False


def piece_of(piece: Sequence[Any], logprob: float | None) -> Content:
    """One token; control tokens are quiet, what the model did not expect is marked and coloured."""
    text = str(piece[0])
    if logprob is not None and -logprob >= SURPRISED:
        opened, closed = ("«", "»") if -logprob >= LOST else ("‹", "›")
        style = "bold $error" if -logprob >= LOST else "$warning"
        blank = " " * (len(text) - len(text.lstrip(" ")))
        return Content(blank) + literal(f"{opened}{text.lstrip(' ')}{closed}", style)
    return literal(text, "$quiet" if piece[1] & CONTROL else "")


def templated(row: Row, width: int) -> list[Content]:
    """Every token as the template writes it: control tokens stand out, what is trained is underlined and green."""
    styled: list[Content] = []
    for trained, run in groupby(row["pieces"][:MOST], key=lambda piece: bool(piece[1] & TRAINED)):
        texts = [literal(piece[0], "bold $primary" if piece[1] & CONTROL else "$success" if trained else "") for piece in run]
        whole = Content("").join(texts)
        styled.append(Content.styled("⟦", "$success") + whole + Content.styled("⟧", "$success") if trained else whole)
    return Content("").join(styled).wrap(max(width, 8))


def raw(row: Row, width: int, most: int = 20_000) -> list[Content]:
    """The row as it is written in its file."""
    text = str(row["raw"])
    lines = literal(text[:most]).wrap(max(width, 8))
    return [*lines, Content.styled(f"… and {count(len(text) - most)} characters more", "$quiet")] if len(text) > most else lines


def legend(row: Row, logprobs: Logprobs | None) -> Content:
    """What the marks mean, and how many tokens are of which kind."""
    trained = sum(piece[1] & TRAINED for piece in row["pieces"])
    rest = len(row["pieces"]) - trained
    held = Content.styled("   held out", "$primary") if row["held_out"] else Content("")
    line = (
        Content.styled("▌", "$success")
        + literal(f" trained {count(trained)}")
        + Content.styled(f"   context {count(rest)}", "$quiet")
        + held
    )
    if logprobs is None:
        return line
    known = [-value for value in logprobs if value is not None]
    mean = sum(known) / max(len(known), 1)
    marks = (
        Content.styled("   ‹hardly›", "$warning")
        + Content.styled(" «not»", "bold $error")
        + Content.styled(" expected", "$quiet")
    )
    return line + Content.styled("   loss ", "$quiet") + Content.styled(f"{mean:.2f}", "bold") + marks


def complaints(row: Row, width: int) -> list[Content]:
    """What is wrong with the row, in its own lines."""
    lines: list[Content] = []
    for _, message in row["problems"]:
        for at, line in enumerate(literal(str(message)).wrap(max(width - 2, 8))):
            lines.append(Content.styled("! " if not at else "  ", "bold $warning") + line.stylize("$warning"))
    return lines
