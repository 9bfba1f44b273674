import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetune.cli.main import COMMANDS, main
from edgetune.errors import CheckpointError, DataError, DoesNotFit, EdgeTuneError, StoppedEarly, VerificationFailed
from edgetune.workspace import runs as workspace_runs

ROOT = Path(__file__).resolve().parents[3]


def edgetune(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgetune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `edgetune runs` end with an exception."""

    def fail_with(error: BaseException) -> None:
        def broken(folder: Path) -> None:
            raise error

        monkeypatch.setattr(workspace_runs, "all_runs", broken)

    return fail_with


# ---- help and usage --------------------------------------------------------------------------------------------------


def test_alone_it_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert all(f"\n  {name} " in alone for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: edgetune {name}")
    assert all(option in text for option in ("--json", "--events FILE", "--offline"))
    options = [line for line in text.splitlines() if line.startswith("  -")]
    assert all(len(line.split("  ")) > 2 for line in options), "an option without a word of help"


@pytest.mark.parametrize("group", [[], ["models"]])
def test_the_lists_of_commands_show_whole_sentences(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*group, "--help"])
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert len(listed) > 2 and all(line.endswith(".") and not line.endswith("...") for line in listed), listed


@pytest.mark.parametrize(
    ("arguments", "says", "hints"),
    [
        (["trian"], "No such command 'trian'", "see `edgetune --help`"),
        (["train"], "Missing argument 'CONFIG'", "see `edgetune train --help`"),
        (["train", "a.toml", "b.toml"], "unexpected extra argument", "see `edgetune train --help`"),
        (["runs", "--jsno"], "--jsno", "see `edgetune runs --help`"),
        (["train", "x.toml", "--backend", "torch"], "torch", "see `edgetune train --help`"),
        (["train", "absent.toml"], "absent.toml: no such file", "write one"),
        (["resume", "absent"], "no run here", "`edgetune runs` lists them"),
    ],
)
def test_a_wrong_command_line_is_two_lines_and_exit_code_two(
    arguments: list[str], says: str, hints: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    error, hint = err.splitlines()
    assert out == "" and error.startswith("error: ") and says in error and hint.startswith("hint: ") and hints in hint


def test_with_json_a_wrong_command_line_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "error": {"kind": "input_error", "message": "Missing argument 'CONFIG'.", "hint": "see `edgetune train --help`"}
    }


def test_after_two_dashes_json_is_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


# ---- how errors end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "first"),
    [
        (DataError("is empty", hint="h", file="rows.jsonl", line=3), 2, "error: rows.jsonl:3: is empty"),
        (DoesNotFit("needs 9 GB", hint="h"), 3, "error: needs 9 GB"),
        (StoppedEarly("stopped after step 3 of 9", hint="h"), 4, "stopped: stopped after step 3 of 9"),
        (VerificationFailed("the training was lost", hint="h"), 5, "error: the training was lost"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "error: /x/y: Permission denied"),
        (OSError(28, "No space left on device", "/x/y"), 3, "error: /x/y: no room left on the disk"),
        (MemoryError(), 3, "error: memory ran out"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_exit_codes(failing: Any, error: BaseException, code: int, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    failing(error)
    assert main(["runs", "--json"]) == code
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == first and err.splitlines()[1].startswith("hint: ") and len(err.splitlines()) == 2
    assert set(json.loads(out)["error"]) == {"kind", "message", "hint"}


def test_an_error_without_a_hint_has_one_all_the_same(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    failing(CheckpointError("odd"))
    main(["runs"])
    assert capsys.readouterr().err.splitlines()[1] == "hint: `edgetune --help` lists the commands"


def test_errors_stay_on_their_line_and_cannot_drive_the_terminal(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    failing(EdgeTuneError("one\ntwo\x1b[2J\u202e", hint="a\nb\x07"))
    main(["runs"])
    assert capsys.readouterr().err == "error: one two\\x1b[2J\\u202e\nhint: a b\\x07\n"


def test_a_bug_is_reported_in_a_file_without_secrets(
    failing: Any, isolated: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-very-own-token")
    failing(ZeroDivisionError(f"in {Path.home()}/work with my-very-own-token and hf_abcdefghijkl"))
    assert main(["runs", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: a bug of ours: ZeroDivisionError in test_main.py:") and "Traceback" not in err
    assert json.loads(out)["error"]["kind"] == "bug"
    (report,) = (isolated / "crashes").iterdir()
    text = report.read_text()
    assert str(report) in err and "Traceback" in text and "in ~/work with (token) and (secret)" in text
    assert str(Path.home()) not in text


def test_a_bug_where_nothing_can_be_written_is_still_told(
    failing: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGETUNE_HOME", str(tmp_path / "file"))
    failing(ZeroDivisionError())
    assert main(["runs"]) == 1
    assert "no room for a file" in capsys.readouterr().err


# ---- the process -----------------------------------------------------------------------------------------------------


def test_the_module_is_the_command() -> None:
    done = edgetune("runs", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"runs": []})


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "edgetune", "--help"], stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_closed_streams_are_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m edgetune runs >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=ROOT).returncode == 0


def test_letters_that_the_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    done = edgetune("train", str(tmp_path / "größe.toml"), PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "gr\\xf6\\xdfe.toml: no such file" in done.stderr


def test_stray_prints_do_not_reach_the_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def chatty(folder: Path) -> list[object]:
        print("a library says hello")
        return []

    monkeypatch.setattr(workspace_runs, "all_runs", chatty)
    assert main(["runs", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"runs": []} and "a library says hello" in err
