"""Where a command's words go, and the only print(): results on standard output, all else on standard error.

With `--json` standard output carries one JSON document and nothing else. All text is cleaned here, once, so that nothing
in a file, a name or a model's answer can drive the terminal.
"""

import json
import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from shutil import get_terminal_size
from typing import Any, NamedTuple, TextIO

from msgspec import Struct, structs
from rich.cells import cell_len, set_cell_size

from edgetune.errors import EdgeTuneError, StoppedEarly
from edgetune.files import clean

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
ERASE_LINE = "\r\x1b[K"


class Styled(NamedTuple):
    """A piece of text with one of STYLES. Where colour is unwanted it is plain: meaning is never by colour alone."""

    text: str
    style: str


Part = str | Styled


class Output:
    """One command's voice. The streams are those of its beginning, so that a stray print cannot reach the document."""

    def __init__(self, as_json: bool = False):
        self.as_json, self.out, self.err = as_json, sys.stdout, sys.stderr
        self.live = moves(self.err)
        self.status_is_shown = False

    def say(self, *parts: Part) -> None:
        """A result, for people; with `--json` the document tells it instead."""
        if not self.as_json:
            self.clear_status()
            print(render(parts, coloured(self.out)), file=self.out, flush=True)

    def note(self, *parts: Part) -> None:
        """Progress, a warning, an error: always on standard error. A closed terminal must not end a night's run."""
        with suppress(OSError):
            self.clear_status()
            print(render(parts, coloured(self.err)), file=self.err, flush=True)

    def status(self, *parts: Part) -> None:
        """The line at the bottom that is drawn over and over; nothing where standard error is no terminal."""
        if self.live:
            with suppress(OSError):
                line = render(fit(parts, get_terminal_size().columns - 1), coloured(self.err))
                print(ERASE_LINE + line, end="", file=self.err, flush=True)
                self.status_is_shown = True

    def urgent(self, text: str) -> None:
        """A note from a signal handler: it goes past the stream's buffer, which the interrupted code may be writing to."""
        with suppress(OSError):
            os.write(self.err.fileno(), f"{ERASE_LINE if self.live else ''}{clean(text)}\n".encode())

    def clear_status(self) -> None:
        """Takes the bottom line away, before something else is written."""
        if self.status_is_shown:
            self.status_is_shown = False
            with suppress(OSError):
                print(ERASE_LINE, end="", file=self.err, flush=True)

    def document(self, value: Any) -> None:
        """The one JSON document, where it was asked for. In ASCII: so nothing in it can drive a terminal."""
        if self.as_json:
            self.clear_status()
            print(json.dumps(builtins(value), allow_nan=False), file=self.out, flush=True)

    def error(self, error: EdgeTuneError, facts: Mapping[str, Any] | None = None) -> None:
        """One line that says what is wrong, one that says what to do, and the document where it was asked for, with what is
        known besides."""
        message, hint = one_line(error.message), one_line(error.hint) or "`edgetune --help` lists the commands"
        early = isinstance(error, StoppedEarly)
        self.note(Styled("stopped:", "yellow") if early else Styled("error:", "red"), f" {message}")
        self.note(Styled("hint:", "cyan"), f" {hint}")
        self.document({**(facts or {}), "error": {"kind": error.kind, "message": message, "hint": hint}})


def moves(stream: TextIO) -> bool:
    """Whether a line can be drawn over on this stream."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def coloured(stream: TextIO) -> bool:
    """Whether this stream shows colours and the person wants them (no-color.org)."""
    return moves(stream) and not os.environ.get("NO_COLOR")


def render(parts: Sequence[Part], colour: bool) -> str:
    """The parts as one text, cleaned, in colour or plain."""
    return "".join(
        f"\x1b[{STYLES[part.style]}m{clean(part.text)}\x1b[0m" if isinstance(part, Styled) and colour
        else clean(part.text if isinstance(part, Styled) else part)
        for part in parts
    )  # fmt: skip


def fit(parts: Sequence[Part], width: int) -> list[Part]:
    """The parts, cut so that they fill no more than `width` cells of one line."""
    fitting: list[Part] = []
    for part in parts:
        text = clean(part.text if isinstance(part, Styled) else part).replace("\n", " ").replace("\t", " ")
        if cell_len(text) > width:
            text = set_cell_size(text, max(width, 0))
        width -= cell_len(text)
        fitting.append(Styled(text, part.style) if isinstance(part, Styled) else text)
    return fitting


def one_line(text: str) -> str:
    """Text on a single line: every run of white space is one blank."""
    return " ".join(text.split())


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> list[list[Part]]:
    """Lines of columns as wide as their widest cell, two blanks apart. `right` holds the heads that align to the right."""
    cells = [[one_line(clean(cell)) for cell in row] for row in [head, *rows]]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [
            " " * (width - cell_len(cell)) + cell if name in right else set_cell_size(cell, width)
            for name, cell, width in zip(head, row, widths, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return [[Styled(line(cells[0]), "dim")], *([line(row)] for row in cells[1:])]


def builtins(value: Any) -> Any:
    """Plain JSON values of dicts, lists, records and paths; a number that is not finite becomes null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Struct():
            return builtins(structs.asdict(value))
        case Mapping():
            return {str(key): builtins(item) for key, item in value.items()}
        case list() | tuple():
            return [builtins(item) for item in value]
        case _ if is_dataclass(value):
            return {each.name: builtins(getattr(value, each.name)) for each in fields(value)}
        case _:
            return str(value)
