import json
from pathlib import Path

import pytest

from edgetune.cli.data import spark
from edgetune.cli.main import main


def run_main(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_a_good_file(rows: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("data", rows, "--model", tiny_model, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["train_rows"] + document["valid_rows"], document["problems"]) == (24, 24, [])
    assert 0 < document["trained_tokens"] < document["tokens"] and sum(document["lengths"]["counts"]) == 24
    assert document["refusal"] is None


def test_a_good_file_for_people(rows: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("data", rows, "--model", tiny_model) == 0
    out = capsys.readouterr().out
    assert out.startswith("24 rows read: ") and "held out\n" in out and "are learned (" in out


def test_problems_are_named_with_their_lines(rows: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines[:3], '{"messages": ', *lines[3:], '{"text": "\x1b[2Jevil"']) + "\n")
    assert run_main("data", rows, "--model", tiny_model) == 2
    out = capsys.readouterr().out
    assert f"  {rows}:4: " in out and f"  {rows}:26: " in out and "\x1b" not in out
    assert "training would refuse this:" in out


def test_all_problems_are_in_the_document(rows: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text(rows.read_text() + "{broken\n" * 40)
    assert run_main("data", rows, "--model", tiny_model, "--json") == 2
    document = json.loads(capsys.readouterr().out)
    assert [problem["line"] for problem in document["problems"]] == list(range(25, 65))
    assert (
        set(document["problems"][0]) == {"file", "line", "kind", "message", "tokens", "trained"}
        and "40 of 64 rows" in document["refusal"]
    )
    assert run_main("data", rows, "--model", tiny_model) == 2
    assert "  and 28 more; --json lists them all" in capsys.readouterr().out


def test_settings_are_those_of_a_config(rows: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(
        "data", rows, "--model", tiny_model, "--set", "data.max_tokens=8", "--set", "data.long_rows=cut", "--json"
    ) in (0, 2)
    document = json.loads(capsys.readouterr().out)
    assert document["longest_allowed"] == 8 and document["cut"] + document["dropped"] == 24
    assert run_main("data", rows, "--model", tiny_model, "--set", "data.valid=0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["valid_rows"] == 0


def test_rows_that_repeat_and_leak(rows: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join([*lines, lines[0]]))
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(lines[1])
    assert run_main("data", rows, "--model", tiny_model, "--set", f'data.valid=["{held_out}"]') == 0
    out = capsys.readouterr().out
    assert "rows that repeat another: 1 exactly, 0 nearly\n" in out
    assert "held-out rows that are learned, too: 1; " in out and f"  {held_out}:1 is {rows}:2" in out


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00\x00"])
def test_files_that_cannot_be_read(
    content: bytes | None, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jsonl"
    if content is not None:
        file.write_bytes(content)
    assert run_main("data", file, "--model", tiny_model) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {file}") and "hint: " in err


def test_no_such_model(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("data", rows, "--model", "absent/model", "--offline") == 2
    assert "absent" in capsys.readouterr().err


def test_a_histogram_shows_whatever_is_not_empty() -> None:
    assert spark((0, 1, 500, 1000)) == " ▁▄█"


def test_held_out_rows_are_listed_as_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["data", str(tmp_path / "rows.jsonl"), "--model", "starter", "--set", "data.valid=0.2"]
    assert main([*asked, "--held-out", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["held_out"]
    assert len(told) == 3 and all(row["answer"] == f"It is {row['prompt'][8:-1]}." for row in told)
    assert main(asked) == 0 and "held out  What" not in capsys.readouterr().out
