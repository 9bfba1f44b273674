"""Untrusted text on the screen: names, rows, answers and error texts appear literally, and never drive the terminal."""

import re
from typing import Any

from rich.segment import Segment
from rich.text import Text
from textual.color import Color
from textual.content import Content
from textual.filter import LineFilter

from edgetune.files import clean

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def literal(text: Any, style: str = "") -> Content:
    """Text as it is: no markup is read in it, and control characters are shown as escapes."""
    return Content.styled(clean(str(text)), style) if style else Content(clean(str(text)))


def one_line(text: Any, style: str = "") -> Content:
    """Text on a single line: every run of white space is one blank."""
    return literal(" ".join(str(text).split()), style)


def cell(text: Any, style: str = "", right: bool = False) -> Text:
    """A table's cell: literal, on one line, never wrapped."""
    justify = "right" if right else "left"
    return Text(clean(" ".join(str(text).split())), style=style, justify=justify, no_wrap=True, overflow="ellipsis")


class LiteralFilter(LineFilter):
    """The last net: whatever reached a widget without `literal` leaves its control characters here."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments without a character that a terminal would obey."""
        if not any(UNSAFE.search(segment.text) for segment in segments):
            return segments
        return [
            segment if segment.control else Segment(UNSAFE.sub("", segment.text), segment.style, segment.control)
            for segment in segments
        ]
