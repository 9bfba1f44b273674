"""`report`, as a person reads it over SSH and as a program does."""

import json
from pathlib import Path

import nights
import pytest
from rich.cells import cell_len

from edgetune.cli.main import main
from edgetune.cli.output import render
from edgetune.cli.report_page import page, signs, wrapped
from edgetune.events import to_line
from edgetune.workspace.curve import ASCII, UNICODE
from edgetune.workspace.report import report_of

GOLDEN = Path(__file__).resolve().parents[1] / "workspace" / "golden"


def lines_of(name: str, width: int = 80) -> list[str]:
    night = getattr(nights, name)()
    report = report_of(nights.CONFIG, night.events, "~/runs/support-bot-1", name == "still_training")
    return [render(line, False).rstrip() for line in page(report, width, UNICODE, 0.3)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "night-1"
    folder.mkdir()
    (folder / "run.toml").write_text('model = "m"\n[data]\ntrain = ["rows.jsonl"]\n')
    (folder / "events.jsonl").write_bytes(b"".join(to_line(event) + b"\n" for event in nights.hard().events))
    return folder


@pytest.mark.parametrize("name", ["quiet", "hard", "killed"])
def test_the_report_of_a_night(name: str, in_utc: None) -> None:
    assert "\n".join(lines_of(name)) + "\n" == (GOLDEN / f"{name}.txt").read_text("utf-8")


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("name", [night.__name__ for night in nights.ALL])
def test_every_night_fits_the_width(name: str, width: int) -> None:
    lines = [line for line in lines_of(name, width) if not line.lstrip().startswith("edgetune ")]
    assert all(cell_len(line) <= width for line in lines)


def test_words_wider_than_the_line_are_cut_and_none_is_lost() -> None:
    text = "日本語の長い文 " + "x" * 50 + " end"
    lines = wrapped(text, 20)
    assert all(cell_len(line) <= 20 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_number_stays_beside_its_unit() -> None:
    assert wrapped("it rested for 5 min 20 s", 16) == ["it rested for", "5 min 20 s"]


def test_dumb_terminals_get_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert signs("utf-8") is UNICODE and signs("ascii") is ASCII
    monkeypatch.setenv("TERM", "dumb")
    assert signs("UTF-8") is ASCII


def test_people_and_programs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "morning.md")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("night-1 finished on ") and "1.4980    held-out loss at step 600" in out
    assert (tmp_path / "morning.md").read_text("utf-8").startswith("# night-1 finished on ")
    assert main(["report", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["state"], facts["result"]["best"], facts["times"]["slept"]) == ("finished", 1.498, 1800.0)
    assert facts["advice"]["command"].startswith("edgetune export ")


def test_no_run_is_an_error_with_the_way_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "`edgetune runs` lists them" in capsys.readouterr().err
