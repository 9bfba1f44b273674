"""JSONL and JSON arrays as values with their lines. JSON here is what the standard says: no NaN, no key twice."""

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgetune.errors import DataError
from edgetune.files import clean
from edgetune.text.lines import LONGEST, Line, chunks, lines, text_of
from edgetune.text.rows import Problem
from edgetune.units import size

SPACE = " \t\n\r"
HINT = "one row a line (JSONL), or one JSON array of rows"


class Parsed(NamedTuple):
    """One value of the file, where it begins, and how many characters it takes."""

    line: int
    value: object
    size: int


class StrictJson:
    """The standard library's decoder; `flaws` collects what it would let pass."""

    def __init__(self) -> None:
        self.flaws: list[str] = []
        self.decoder = json.JSONDecoder(object_pairs_hook=self.object, parse_constant=self.constant)

    def decode(self, text: str, at: int = 0) -> tuple[object, int]:
        """The value that begins at a position, and where it ends."""
        self.flaws.clear()
        return self.decoder.raw_decode(text, at)

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object, with a flaw noted where a key stands twice."""
        value = dict(pairs)
        if len(value) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            self.flaws.append(f"the key {clean(twice)!r} stands twice in one object")
        return value

    def constant(self, name: str) -> None:
        """NaN and Infinity are no JSON."""
        self.flaws.append(f"{name} is not JSON")


def json_values(path: Path) -> Iterator[Parsed | Problem]:
    """Every value of a file of rows, an array if it begins with "[".

    Raises:
        DataError: the file cannot be read, or an array is broken, after which nothing of it can be trusted.
    """
    first = next((text[:1] for chunk in chunks(path) if (text := chunk.lstrip())), b"")
    return array_values(path) if first == b"[" else line_values(path)


def line_values(path: Path) -> Iterator[Parsed | Problem]:
    """JSONL: blank lines are passed over, a broken line is a problem of its own."""
    strict = StrictJson()
    for line in lines(path):
        try:
            text = text_of(line, path)
            if stripped := text.rstrip(SPACE):
                yield parsed_line(stripped, strict, line, path)
        except DataError as problem:
            kind = "encoding" if line.data is not None else "size"
            yield Problem(str(path), line.number, kind, problem.message.removeprefix(f"{path}:{line.number}: "))


def parsed_line(text: str, strict: StrictJson, line: Line, path: Path) -> Parsed | Problem:
    """One line of JSONL."""
    try:
        value, end = strict.decode(text, len(text) - len(text.lstrip(SPACE)))
    except json.JSONDecodeError as problem:
        return Problem(str(path), line.number, "json", f"column {problem.pos + 1}: {reason(problem)}")
    except RecursionError:
        return Problem(str(path), line.number, "json", "is nested too deeply")
    except ValueError as problem:  # a number of thousands of digits
        return Problem(str(path), line.number, "json", str(problem))
    if end < len(text):
        return Problem(str(path), line.number, "json", f"column {end + 1}: more after the end of the row")
    if strict.flaws:
        return Problem(str(path), line.number, "json", strict.flaws[0])
    return Parsed(line.number, value, len(text))


def reason(problem: json.JSONDecodeError) -> str:
    """The library's sentence, with what people mostly did."""
    hints = {"Expecting property name enclosed in double quotes": " (a comma too many, or single quotes?)"}
    return problem.msg[:1].lower() + problem.msg[1:] + hints.get(problem.msg, "")


class ArrayText:
    """The text of an array, of which as much is in memory as one value needs."""

    def __init__(self, path: Path):
        self.path, self.source = path, decoded(path)
        self.text, self.at, self.line = "", 0, 1
        self.before = 0  # characters of the text's first line that were let go

    def more(self) -> bool:
        """Reads on, letting go of what is behind; False at the end of the file."""
        added = ""
        while len(added) <= len(self.text) - self.at:  # as much again: a value is looked at few times
            chunk = next(self.source, None)
            if chunk is None:
                break
            added += chunk
        if added:
            begin = line_start(self.text, self.at)
            self.before = self.at - begin if begin else self.before + self.at
            self.text, self.at = self.text[self.at :] + added, 0
        return bool(added)

    def move(self, to: int) -> None:
        """Goes on to a position, counting lines."""
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def next_character(self) -> str:
        """The next character that is no space; none at the end of the file."""
        while True:
            to = self.at
            while to < len(self.text) and self.text[to] in SPACE:
                to += 1
            self.move(to)
            if to < len(self.text):
                return self.text[to]
            if not self.more():
                return ""

    def error(self, message: str, at: int | None = None) -> DataError:
        """A sentence with line and column."""
        at = self.at if at is None else at
        line = self.line + self.text.count("\n", self.at, at)
        begin = line_start(self.text, at)
        column = at - begin + 1 + (0 if begin else self.before)
        return DataError(f"column {column}: {message}", file=self.path, line=line, hint=HINT)


def line_start(text: str, at: int) -> int:
    """Where the line of a position begins; 0 where that is the text's first."""
    return text.rfind("\n", 0, at) + 1


def decoded(path: Path) -> Iterator[str]:
    r"""The file's text, some of it at a time, with \n for every line end.

    Raises:
        DataError: it is not UTF-8; the sentence says in which line.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    line = 1
    for chunk in chunks(path):
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as problem:
            line += problem.object[: problem.start].count(b"\n")
            byte = f"byte 0x{problem.object[problem.start]:02x}"
            raise DataError(f"is not UTF-8: {byte}", file=path, line=line, hint="save the file as UTF-8") from None
        line += text.count("\n")
        yield text


def array_values(path: Path) -> Iterator[Parsed | Problem]:
    """The values of one JSON array."""
    text, strict = ArrayText(path), StrictJson()
    text.next_character()
    text.move(text.at + 1)
    if text.next_character() == "]":
        return
    while True:
        value, end = array_value(text, strict)
        if strict.flaws:
            yield Problem(str(path), text.line, "json", strict.flaws[0])
        else:
            yield Parsed(text.line, value, end - text.at)
        text.move(end)
        following = text.next_character()
        if following not in (",", "]"):
            raise text.error("a comma or the end of the array is missing" if following else "the array does not end")
        text.move(text.at + 1)
        if following == "]":
            break
        if text.next_character() == "]":
            raise text.error("a comma before the end of the array")
    if text.next_character():
        raise text.error("more after the end of the array")


def array_value(text: ArrayText, strict: StrictJson) -> tuple[object, int]:
    """The value that begins here and where it ends; reads on while the text does not hold all of it."""
    text.next_character()
    while True:
        try:
            value, end = strict.decode(text.text, text.at)
            if end < len(text.text) or not text.more():
                return value, end
        except json.JSONDecodeError as problem:
            if len(text.text) - text.at > LONGEST:
                raise text.error(f"a row of more than {size(LONGEST)}, or: {reason(problem)}") from None
            if not text.more():
                raise text.error(reason(problem), problem.pos) from None
        except RecursionError:
            raise text.error("is nested too deeply") from None
        except ValueError as problem:
            raise text.error(str(problem)) from None
