"""Which answer was better: one JSON line for each rating, in the project's folder, and what they add up to."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from edgetune.files import append_line

FILE = "ratings.jsonl"  # in a project's folder
Verdict = Literal["a", "tie", "b"]


class Rating(Struct, frozen=True, kw_only=True):
    """One prompt, two answers, and which was better. `a` and `b` name the sources, whatever side they were shown on."""

    prompt: str
    a: str
    b: str
    reply_a: str
    reply_b: str
    verdict: Verdict
    blind: bool
    held_out: bool = False


class Score(Struct, frozen=True):
    """How often which was better."""

    a: int = 0
    tie: int = 0
    b: int = 0
    held_out: int = 0

    @property
    def rated(self) -> int:
        """How many prompts were rated."""
        return self.a + self.tie + self.b

    @property
    def b_wins(self) -> float | None:
        """The share of decided prompts that B won; None where none was decided."""
        return self.b / (self.a + self.b) if self.a + self.b else None


def has_ratings(folder: Path) -> bool:
    """Whether anything was rated in the project of this folder."""
    return (folder / FILE).is_file()


def rate(file: Path, rating: Rating) -> None:
    """Adds a rating.

    Raises:
        DiskFull, InputError: the file cannot be written.
    """
    append_line(file, msgspec.json.encode(rating), "rating")


def ratings(file: Path) -> Iterator[Rating]:
    """The ratings of a file; lines that are none are passed over."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Rating)
        except msgspec.MsgspecError:
            continue


def score(found: Iterable[Rating], a: str, b: str) -> Score:
    """What the ratings of these two sources add up to."""
    counts = {"a": 0, "tie": 0, "b": 0}
    held_out = 0
    for rating in found:
        if (rating.a, rating.b) == (a, b):
            counts[rating.verdict] += 1
            held_out += rating.held_out
    return Score(counts["a"], counts["tie"], counts["b"], held_out)
