"""Plain text as rows: paragraphs between blank lines, or lines where there is no blank line."""

from collections.abc import Iterator
from pathlib import Path

from edgetune.errors import DataError
from edgetune.text.json_rows import Parsed
from edgetune.text.lines import LONGEST, lines, text_of
from edgetune.text.rows import Problem
from edgetune.units import size


def text_values(path: Path) -> Iterator[Parsed | Problem]:
    """The rows of a text file, each {"text": …}, without the line ends around them.

    Raises:
        DataError: it is not UTF-8, or a row is longer than any row may be.
    """
    by_line = not has_paragraphs(path)
    paragraph: list[str] = []
    start = written = 0
    for line in lines(path):
        text = text_of(line, path).replace("\r\n", "\n").replace("\r", "\n")
        start = start if paragraph else line.number
        if text.strip():
            paragraph.append(text)
            written += len(text)
        if paragraph and (by_line or not text.strip()):
            yield Parsed(start, {"text": "".join(paragraph).strip("\n")}, written)
            paragraph, written = [], 0
        if written > LONGEST:
            raise DataError(
                f"a paragraph of more than {size(LONGEST)}", file=path, line=start, hint="put blank lines between rows"
            )
    if paragraph:
        yield Parsed(start, {"text": "".join(paragraph).strip("\n")}, written)


def has_paragraphs(path: Path) -> bool:
    """Whether a blank line stands between two that are not."""
    begun = blank = False
    for line in lines(path):
        if line.data is None or line.data.strip():
            if begun and blank:
                return True
            begun, blank = True, False
        else:
            blank = True
    return False
