"""A loss curve as text: braille dots for the training loss, ◆ for the validation loss, for every face of a run.

The picture is lines of spans with a role each: the command line, the app and the report give the roles their own colours.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

from edgetune.units import count
from edgetune.workspace.run_state import Point

Role = Literal["axis", "train", "valid"]
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Unicode's braille patterns: bits by dot row and column
BRAILLE = 0x2800
NEAR = 1e-4  # losses closer than this share of their size are drawn as one level


class Span(NamedTuple):
    """A piece of a line, and what it shows."""

    text: str
    role: Role


Line = list[Span]


class Scale(NamedTuple):
    """What the picture's edges stand for."""

    first: int  # step
    last: int
    low: float  # loss
    high: float

    def across(self, step: int) -> float:
        """Where a step is between left and right, as a share."""
        return (step - self.first) / (self.last - self.first) if self.last > self.first else 0.0

    def down(self, loss: float) -> float:
        """Where a loss is between top and bottom, as a share; halves, so that no difference overflows."""
        span = self.high / 2 - self.low / 2
        return (self.high / 2 - loss / 2) / span if span > 0 else 0.5


class Signs(NamedTuple):
    """The characters of a picture."""

    tick: str
    valid: str
    train: str  # one per cell; "": braille


UNICODE = Signs("┤", "◆", "")
ASCII = Signs("|", "o", "*")


def draw(
    train: Iterable[Point],
    valid: Iterable[Point],
    width: int,
    height: int,
    window: tuple[int, int] | None = None,
    signs: Signs = UNICODE,
) -> list[Line]:
    """The losses of the steps in `window` (first and last, both within), in at most `width` by `height` cells.

    Left out, the window reaches from 0 to the last step there is. No lines where there is nothing to draw. Losses that are
    not finite are passed over.
    """
    lines, points = finite(train, window), finite(valid, window)
    if not (lines or points) or width < 1 or height < 1:
        return []
    scale = scale_of([*lines, *points], window)
    rows = height - 1 if height >= 3 else height
    gutter = labels(scale, rows)
    if width - len(gutter[0]) - 1 < 4:
        gutter = []  # no room to say values: the shape alone
    columns = width - (len(gutter[0]) + 1 if gutter else 0)
    picture = [trimmed(row) for row in cells(lines, points, scale, columns, rows, signs)]
    if not gutter:
        return picture
    body = [joined([Span(f"{label}{signs.tick}", "axis"), *row]) for label, row in zip(gutter, picture, strict=True)]
    if height < 3:
        return body
    return [*body, [Span(" " * (len(gutter[0]) + 1) + step_labels(scale, columns), "axis")]]


def finite(points: Iterable[Point], window: tuple[int, int] | None) -> list[Point]:
    """The points that can be drawn."""
    return [
        Point(*point) for point in points if math.isfinite(point[1]) and (window is None or window[0] <= point[0] <= window[1])
    ]


def scale_of(points: Sequence[Point], window: tuple[int, int] | None) -> Scale:
    """The window, and the range of the losses; one level gets room above and below."""
    losses = [point.loss for point in points]
    low, high = min(losses), max(losses)
    if high / 2 - low / 2 <= NEAR * max(abs(low), abs(high), NEAR):
        room = max(0.05 * abs(high), 0.01)
        low, high = max(low - room, -1.7e308), min(high + room, 1.7e308)
    first, last = window or (min(0, min(point.step for point in points)), max(point.step for point in points))
    return Scale(first, last, low, high)


# ---- the picture -------------------------------------------------------------------------------------------------------


def cells(
    train: Sequence[Point], valid: Sequence[Point], scale: Scale, columns: int, rows: int, signs: Signs
) -> list[list[Span]]:
    """One span a cell: the training loss as a line of dots, marks of the validation loss over it."""
    across, down = (1, 1) if signs.train else (2, 4)
    masks = [[0] * columns for _ in range(rows)]
    for x, y in path([dot(point, scale, across * columns, down * rows) for point in by_column(train, scale, across * columns)]):
        masks[y // down][x // across] |= DOTS[y % down][x % across]
    picture = [[Span(cell(mask, signs), "train") for mask in row] for row in masks]
    for point in valid:
        x, y = dot(point, scale, columns, rows)
        picture[y][x] = Span(signs.valid, "valid")
    return picture


def cell(mask: int, signs: Signs) -> str:
    """The character of a cell whose dots are these bits."""
    return (signs.train or chr(BRAILLE + mask)) if mask else " "


def dot(point: Point, scale: Scale, columns: int, rows: int) -> tuple[int, int]:
    """Column and row of a point in a grid."""
    x, y = scale.across(point.step), scale.down(point.loss)
    return min(max(round(x * (columns - 1)), 0), columns - 1), min(max(round(y * (rows - 1)), 0), rows - 1)


def by_column(points: Sequence[Point], scale: Scale, columns: int) -> list[Point]:
    """One point for each column of dots: the mean of those that fall into it."""
    ordered = sorted(points, key=lambda point: point.step)
    groups = [list(group) for _, group in groupby(ordered, key=lambda point: dot(point, scale, columns, 1)[0])]
    return [Point(group[len(group) // 2].step, sum(point.loss / len(group) for point in group)) for group in groups]


def path(dots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The dots, and those on the straight lines between neighbours."""
    between = [
        (round(a + (c - a) * k / reach), round(b + (d - b) * k / reach))
        for (a, b), (c, d) in pairwise(dots)
        for reach in [max(abs(c - a), abs(d - b), 1)]
        for k in range(1, reach)
    ]
    return [*dots, *between]


def trimmed(row: list[Span]) -> list[Span]:
    """A row without the blank cells at its end."""
    end = max((place for place, span in enumerate(row) if span.text != " "), default=-1)
    return row[: end + 1]


def joined(row: Sequence[Span]) -> Line:
    """Neighbours of one role as one span."""
    line: Line = []
    for span in row:
        if line and line[-1].role == span.role:
            line[-1] = Span(line[-1].text + span.text, span.role)
        else:
            line.append(span)
    return line


# ---- the axes ----------------------------------------------------------------------------------------------------------


def labels(scale: Scale, rows: int) -> list[str]:
    """What stands left of each row: the loss in its middle, in every row of a low picture, in every fourth of a high one."""
    every = 1 if rows <= 8 else 4
    losses = {row: value_at(scale, row, rows) for row in range(rows) if row % every == 0 or row == rows - 1}
    texts = {row: number(loss, scale, len(losses)) for row, loss in losses.items()}
    wide = max(len(text) for text in texts.values())
    return [f" {texts.get(row, ''):>{wide}}" for row in range(rows)]


def value_at(scale: Scale, row: int, rows: int) -> float:
    """The loss that a row stands for."""
    share = row / (rows - 1) if rows > 1 else 0.0
    return scale.high * (1 - share) + scale.low * share


def number(loss: float, scale: Scale, ticks: int) -> str:
    """A loss with as many decimals as tell neighbouring ticks apart, two at least."""
    if max(abs(scale.high), abs(scale.low)) >= 1e4:
        return f"{loss:.1e}"
    gap = (scale.high - scale.low) / max(ticks - 1, 1)
    decimals = min(max(2, math.ceil(-math.log10(gap))), 6) if gap > 0 else 2
    return f"{loss:.{decimals}f}"


def step_labels(scale: Scale, columns: int) -> str:
    """Steps below their columns: the first, the last, and as many between as have room."""
    parts = 4 if columns >= 40 else 2 if columns >= 20 else 1
    text = ""
    for part in range(parts + 1):
        step = scale.first + (scale.last - scale.first) * part // parts
        word = count(step)
        middle = round(scale.across(step) * (columns - 1))
        start = 0 if part == 0 else columns - len(word) if part == parts else middle - len(word) // 2
        if start >= len(text) + (1 if text else 0) and start + len(word) <= columns:
            text = f"{text:<{start}}{word}"
    return text


def plain(lines: Sequence[Line]) -> list[str]:
    """The picture without its roles."""
    return ["".join(span.text for span in line) for line in lines]
