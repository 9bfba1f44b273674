"""The loss curve as text: it stays inside its frame, and what it shows is there."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from edgetune.workspace.curve import ASCII, UNICODE, Signs, draw, plain
from edgetune.workspace.run_state import Point

LOSSES = st.floats() | st.floats(0, 12)
POINTS = st.lists(st.builds(Point, st.integers(0, 10**7), LOSSES), max_size=40)
SIGNS = st.sampled_from([UNICODE, ASCII])
FALLING = [Point(step, 1.4 + 1.7 * math.exp(-step / 90)) for step in range(1, 413)]
CHECKED = [Point(step, 1.5 + 1.5 * math.exp(-step / 90)) for step in range(0, 401, 100)]


@given(POINTS, POINTS, st.integers(-2, 100), st.integers(-2, 30), SIGNS)
def test_never_wider_or_taller_than_asked(
    train: list[Point], valid: list[Point], width: int, height: int, signs: Signs
) -> None:
    lines = plain(draw(train, valid, width, height, signs=signs))
    assert len(lines) <= max(height, 0)
    assert all(cell_len(line) <= width and line == line.rstrip() for line in lines)
    drawable = any(math.isfinite(point.loss) for point in [*train, *valid])
    assert bool(lines) == (drawable and width > 0 and height > 0)


@given(POINTS, st.integers(0, 10**6), st.integers(0, 10**6), SIGNS)
def test_only_the_window_is_drawn(points: list[Point], first: int, length: int, signs: Signs) -> None:
    window = (first, first + length)
    inside = [point for point in points if first <= point.step <= first + length]
    assert draw(points, points, 60, 10, window, signs) == draw(inside, inside, 60, 10, window, signs)


@given(st.lists(st.builds(Point, st.integers(0, 1000), st.floats(0, 12)), min_size=1, max_size=30))
def test_losses_that_are_not_finite_change_nothing(points: list[Point]) -> None:
    broken = [Point(500, loss) for loss in (math.nan, math.inf, -math.inf)]
    assert draw([*points, *broken], broken, 60, 10, (0, 1000)) == draw(points, [], 60, 10, (0, 1000))


@given(st.lists(st.builds(Point, st.integers(0, 1000), st.floats(0, 12)), min_size=1, max_size=30), SIGNS)
def test_every_validation_is_marked_in_its_column(points: list[Point], signs: Signs) -> None:
    lines = plain(draw([], points, 60, 10, (0, 1000), signs))
    gutter = lines[0].index(signs.tick) + 1
    columns = {gutter + round(point.step / 1000 * (60 - gutter - 1)) for point in points}
    assert {place for line in lines[:-1] for place, sign in enumerate(line) if sign == signs.valid} == columns


def test_a_run_on_its_way_looks_like_this() -> None:
    assert plain(draw(FALLING, CHECKED, 60, 7, (0, 600))) == [
        " 3.08┤◆⡄",
        " 2.75┤ ⠈⠢⡀",
        " 2.42┤   ⠈⠢⣀",
        " 2.08┤      ⠑⠢⣀◆",
        " 1.75┤         ⠉⠑⠢⠤⣀⣀   ◆",
        " 1.42┤               ⠉⠉⠑⠒⠒⠒⠤⠤⠤⠤⠤◆⠤⣀⣀⣀⣀⣀⣀⣀◆⣀",
        "      0           150          300           450         600",
    ]


def test_without_braille_the_same_places_are_marked() -> None:
    lines = plain(draw(FALLING, CHECKED, 60, 7, (0, 600), ASCII))
    assert all(line.isascii() for line in lines)
    assert lines[0] == " 3.08|o" and lines[5] == " 1.42|                  ********o********o*"


def test_roles_tell_axis_training_and_validation_apart() -> None:
    lines = draw(FALLING, CHECKED, 60, 7)
    assert {span.role for line in lines for span in line} == {"axis", "train", "valid"}
    assert all(span.text == "◆" for line in lines for span in line if span.role == "valid")
    assert [span.role for span in lines[-1]] == ["axis"]


@pytest.mark.parametrize("points", [[Point(7, 1.25)], [Point(step, 1.25) for step in range(100)]])
def test_one_point_and_a_flat_line_stand_in_the_middle(points: list[Point]) -> None:
    lines = plain(draw(points, [], 40, 6))
    assert lines[2].startswith(" 1.25┤") and [line for line in lines if len(line) > 6 and line[5] == "┤"] == [lines[2]]


def test_a_blow_up_leaves_the_picture_whole() -> None:
    lines = plain(draw([*FALLING, Point(413, 1e30)], [], 60, 7))
    assert lines[0].startswith(" 1.0e+30┤") and lines[5].startswith(" 1.4e+00┤")


def test_losses_that_lie_close_are_told_apart() -> None:
    lines = plain(draw([Point(0, 1.4012), Point(9, 1.4021)], [], 60, 5))
    assert [line.split("┤")[0] for line in lines[:-1]] == [" 1.4021", " 1.4018", " 1.4015", " 1.4012"]
