"""Files of rows as lines: the encodings that people have, no line that fills the memory, nothing that hangs."""

import codecs
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edgetune.errors import DataError
from edgetune.units import size

CHUNK = 1 << 20
LONGEST = 32 << 20  # bytes of one line, or of one row
MARKS = (  # UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip


class Line(NamedTuple):
    """One line, with its end. `data` is None where it is longer than LONGEST."""

    number: int
    data: bytes | None


def check_file(path: Path) -> None:
    """Looks at a file before it is opened: a FIFO would wait, a device would never end.

    Raises:
        DataError: it is absent, not a regular file, not readable, or empty.
    """
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise DataError("no such file", file=path, hint="check the path; relative paths start at the config file") from None
    except OSError as problem:
        raise DataError(f"cannot be read: {problem.strerror}", file=path) from None
    if stat.S_ISDIR(facts.st_mode):
        raise DataError("is a folder", file=path, hint="name the files in it")
    if not stat.S_ISREG(facts.st_mode):
        raise DataError("is not a regular file", file=path, hint="write the rows to a file first")
    if not facts.st_size:
        raise DataError("is empty", file=path)


def chunks(path: Path) -> Iterator[bytes]:
    """The file as UTF-8 without a byte-order mark, some of it at a time; UTF-16 and UTF-32 are told by their marks.

    Raises:
        DataError: it cannot be read, or is UTF-16 or UTF-32 with a mistake in it.
    """
    encoding = "utf-8"
    try:
        with path.open("rb") as file:
            head = file.read(CHUNK)
            mark, encoding = next(((mark, name) for mark, name in MARKS if head.startswith(mark)), (b"", "utf-8"))
            decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)()
            chunk = head[len(mark) :]
            while chunk:
                yield decoder.decode(chunk).encode() if decoder else chunk
                chunk = file.read(CHUNK)
            if decoder:
                decoder.decode(b"", True)
    except UnicodeError as problem:
        raise DataError(f"is not valid {encoding.upper()}: {problem}", file=path, hint="save it as UTF-8") from None
    except OSError as problem:
        raise DataError(f"cannot be read: {problem.strerror}", file=path) from None


def lines(path: Path) -> Iterator[Line]:
    r"""The lines of a file, their ends (\n, \r\n or \r) included, numbered from 1."""
    number, kept, skipping = 1, b"", False
    for chunk in chunks(path):
        parts = (kept + chunk).splitlines(keepends=True)
        kept = b"" if parts[-1].endswith(b"\n") else parts.pop()  # "\r" may be half of an end
        for part in parts:
            yield Line(number, None if skipping or len(part) > LONGEST else part)
            number, skipping = number + 1, False
        if len(kept) > LONGEST:
            kept, skipping = kept[-1:], True
    if kept or skipping:
        yield Line(number, None if skipping else kept)


def text_of(line: Line, path: Path) -> str:
    """A line's text.

    Raises:
        DataError: the line is too long, or not UTF-8; the sentence says at which column.
    """
    if line.data is None:
        raise DataError(
            f"a line of more than {size(LONGEST)}", file=path, line=line.number, hint="one row a line; is this JSONL?"
        )
    try:
        return line.data.decode()
    except UnicodeDecodeError as problem:
        column = 1 + len(line.data[: problem.start].decode("utf-8", "replace"))
        byte = f"byte 0x{line.data[problem.start]:02x} at column {column}"
        raise DataError(f"is not UTF-8: {byte}", file=path, line=line.number, hint="save the file as UTF-8") from None
