import io
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from rich.cells import cell_len

from edgetune.cli.output import ERASE_LINE, Output, Styled, builtins, fit, render, table
from edgetune.planner.suggestions import Suggestion


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Closed(Terminal):
    """A terminal that went away."""

    def write(self, text: str, /) -> int:
        raise OSError(5, "Input/output error")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 40 columns with colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    return Terminal()


def on(stream: Terminal) -> Output:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        return Output()


def test_results_and_notes_go_their_own_ways(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.say("result")
    output.note("progress")
    output.document({"not": "asked for"})
    assert capsys.readouterr() == ("result\n", "progress\n")


def test_with_json_there_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.say("result")
    output.note("progress")
    output.document({"loss": float("nan"), "name": "größe \x1b[2J"})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"loss": None, "name": "größe \x1b[2J"} and out.isascii() and "\x1b" not in out
    assert err == "progress\n"


def test_records_and_paths_become_plain_json() -> None:
    class Point(Struct):
        place: Path
        values: tuple[float, ...]

    suggestion = Suggestion("data.max_tokens=512", 5, True, "a cost")
    value = {1: Point(Path("/x"), (0.5, float("inf"))), "s": [suggestion], "t": True}
    expected: dict[str, Any] = {
        "1": {"place": "/x", "values": [0.5, None]},
        "s": [
            {
                "setting": "data.max_tokens=512",
                "peak_bytes": 5,
                "fits": True,
                "cost": "a cost",
                "settings": {},
                "seconds": 0.0,
                "saves_bytes": 0,
                "saves_seconds": 0.0,
            }
        ],
        "t": True,
    }
    assert builtins(value) == expected


def test_what_comes_from_outside_cannot_drive_the_terminal(terminal: Terminal) -> None:
    on(terminal).note("name \x1b[31m", Styled("\x1b]0;title\x07 [bold]", "red"))
    assert terminal.getvalue() == "name \\x1b[31m\x1b[31m\\x1b]0;title\\x07 [bold]\x1b[0m\n"


@pytest.mark.parametrize("setting", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_unwanted(terminal: Terminal, setting: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*setting)
    on(terminal).note(Styled("plain", "red"))
    assert terminal.getvalue() == "plain\n"


def test_the_bottom_line_is_drawn_over_and_taken_away(terminal: Terminal) -> None:
    output = on(terminal)
    output.status("one")
    output.status("two")
    output.note("a line")
    assert terminal.getvalue() == f"{ERASE_LINE}one{ERASE_LINE}two{ERASE_LINE}a line\n"


def test_the_bottom_line_never_wraps(terminal: Terminal) -> None:
    on(terminal).status("数" * 30, Styled("\nnew line", "green"))
    drawn = terminal.getvalue().removeprefix(ERASE_LINE)
    assert cell_len(drawn.replace("\x1b[32m", "").replace("\x1b[0m", "")) == 39 and "\n" not in drawn


def test_no_bottom_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Output().status("moving")
    assert capsys.readouterr() == ("", "")


def test_a_closed_terminal_ends_nothing(terminal: Terminal) -> None:
    output = on(Closed())
    output.note("progress")
    output.status("bar")
    output.urgent("stopping")


def test_a_table_lines_up_whatever_the_letters(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [render(line, False) for line in table(["name", "size"], [["日本", "9"], ["a\nb\x1b", "1,204"]], right=["size"])]
    assert lines == ["name      size", "日本         9", "a b\\x1b  1,204"]


def test_a_table_without_rows_is_its_head() -> None:
    assert [render(line, False) for line in table(["name", "size"], [])] == ["name  size"]


def test_fit_cuts_the_last_part_that_is_too_long() -> None:
    assert fit(["abc", Styled("defgh", "red"), "ij"], 5) == ["abc", Styled("de", "red"), ""]
