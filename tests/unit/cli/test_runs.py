import json
from pathlib import Path

import pytest

from edgetune.cli.main import main
from edgetune.events import RunStarted, StepFinished, to_line


@pytest.fixture
def run(isolated: Path) -> Path:
    """A run that was broken off, with a name that would like to drive the terminal."""
    folder = isolated / "runs" / "half \x1b[2J"
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text('model = "tiny"\n')
    started = RunStarted(
        run="r", first_step=1, total_steps=1200, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1,
        trained_tokens=1, planned_peak_bytes=1,
    )  # fmt: skip
    step = StepFinished(step=40, loss=2.5, rate=1, gradient_norm=1, tokens=1, trained_tokens=1, seconds=1, memory_bytes=1)
    (folder / "events.jsonl").write_bytes(to_line(started) + b"\n" + to_line(step) + b"\n")
    return folder


def test_a_table_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    head, line = out.splitlines()
    assert head.split() == ["run", "state", "steps", "loss", "held-out", "changed"]
    assert line.startswith("half \\x1b[2J  interrupted  40/1,200  2.5000") and line.endswith(" s ago")
    assert "half \\x1b[2J: interrupted: killed (signal 9)" in err and "edgetune resume half \\x1b[2J" in err


def test_a_document_for_programs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert (found["run"], found["phase"], found["step"], found["valid_loss"]) == (str(run), "interrupted", 40, None)


def test_another_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", f"no runs in {tmp_path}\n")
