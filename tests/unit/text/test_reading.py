import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetune.errors import DataError
from edgetune.text import lines, table_rows
from edgetune.text.reading import read_rows
from edgetune.text.rows import Problem, RawRow

Write = Callable[[str, Any], Path]


def texts(path: Path) -> list[tuple[int, str]]:
    return [(row.line, row.value["text"]) for row in read_rows([path]) if isinstance(row, RawRow)]


def found(path: Path) -> tuple[list[RawRow], list[Problem]]:
    all_rows = list(read_rows([path]))
    return [row for row in all_rows if isinstance(row, RawRow)], [row for row in all_rows if isinstance(row, Problem)]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_tables(write: Write, name: str, separator: str) -> None:
    text = 'prompt;completion\n"one; two";"a ""b""\nc"\r\n\nq;d\n'.replace(";", separator)
    rows, problems = found(write(name, text))
    assert not problems
    assert [(row.line, row.value["prompt"], row.value["completion"]) for row in rows] == [
        (2, f"one{separator} two", 'a "b"\nc'),
        (5, "q", "d"),
    ]


def test_cells_that_hold_lists_are_json(write: Write) -> None:
    messages = json.dumps([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]).replace('"', '""')
    rows, problems = found(write("a.csv", f'messages,tools\n"{messages}",\n"[1",\n'))
    assert rows[0].messages() == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert [(problem.line, problem.kind, problem.message) for problem in problems] == [
        (3, "json", "the cell `messages` is not JSON")
    ]


def test_ragged_rows_and_large_cells(write: Write) -> None:
    large = "x" * 1_000_000
    rows, problems = found(write("a.csv", f"text,note\n{large},1\na\nb,2,3\nc,4\n"))
    assert [row.value["text"][:3] for row in rows] == ["xxx", "c"]
    assert [(problem.line, problem.message) for problem in problems] == [(3, "1 cells too few"), (4, "1 cells too many")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text,text\na,b\n", "must name each column once"),
        ("text,\na,b\n", "must name each column once"),
        ('text\na\n"never ends\nb\n', ":3: unexpected end of data"),
        ('text\n"a" b\n', ":2: "),
        ("text\n\xff\n".encode("latin-1"), ":2: is not UTF-8"),
    ],
)
def test_broken_tables(write: Write, text: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        found(write("a.csv", text))


def test_paragraphs_and_lines(write: Write) -> None:
    assert texts(write("a.txt", "\none\r\ntwo\n\n \nthree\n\n")) == [(2, "one\ntwo"), (6, "three")]
    assert texts(write("b.txt", "one\ntwo\rthree\n\n")) == [(1, "one"), (2, "two"), (3, "three")]


def test_a_paragraph_without_end(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgetune.text import text_rows

    monkeypatch.setattr(text_rows, "LONGEST", 100)
    with pytest.raises(DataError, match="a paragraph of more than"):
        found(write("a.txt", "one\n\n" + "many words\n" * 50))


def test_files_without_rows_and_of_no_known_form(write: Write) -> None:
    for name in ("a.jsonl", "a.txt", "a.json"):
        with pytest.raises(DataError, match="holds no rows"):
            found(write(name, "\n \n"))
    for name, text in (("a.json", "[]"), ("a.csv", "text\n")):
        with pytest.raises(DataError, match="holds no rows"):
            found(write(name, text))
    with pytest.raises(DataError, match="unknown form") as caught:
        found(write("a.xlsx", "x"))
    assert ".jsonl" in caught.value.hint


def test_a_bad_second_file_is_told_before_the_first_is_read(write: Write) -> None:
    with pytest.raises(DataError, match="no such file"):
        next(read_rows([write("a.jsonl", [{"text": "a"}]), Path("/absent.jsonl")]))


def test_rows_of_other_kinds_are_noted_once(write: Write) -> None:
    rows, problems = found(
        write("a.jsonl", [{"text": "a"}, {"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a"}, {"text": "b"}])
    )
    assert len(rows) == 4
    (note,) = problems
    assert (note.line, note.kind, note.bad) == (2, "kinds", False)
    assert note.message == "a row of kind prompt; the file has rows of kind text (from line 1)"


def test_parquet_without_pyarrow_names_the_extra(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs pyarrow") as caught:
        found(write("a.parquet", b"PAR1"))
    assert "edgetune[parquet]" in caught.value.hint


def test_parquet(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    chat = [{"role": "user", "content": "q", "weight": None}, {"role": "assistant", "content": "a", "weight": 1}]
    parquet.write_table(arrow.table({"messages": [chat, chat]}), tmp_path / "a.parquet")
    rows, problems = found(tmp_path / "a.parquet")
    assert not problems and [row.line for row in rows] == [1, 2]
    assert rows[0].messages() == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 1}]
    with pytest.raises(DataError, match="not a readable Parquet file"):
        found(write("b.parquet", b"PAR1 and no more"))


def test_nulls_that_parquet_fills_in_are_taken_out() -> None:
    assert table_rows.plain({"a": None, "b": [{"c": None, "d": 1}]}) == {"b": [{"d": 1}]}


def test_a_large_file_is_never_whole_in_memory(write: Write) -> None:
    import tracemalloc

    path = write("a.json", "[" + ",".join(['{"text": "' + "word " * 100 + '"}'] * 20_000) + "]")
    assert path.stat().st_size > 10_000_000
    tracemalloc.start()
    count = sum(1 for _ in read_rows([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 8 * lines.CHUNK


def test_real_datasets(assets: Path) -> None:
    folder = assets / "datasets"
    cases = {
        "mlx-wikisql/train.jsonl": ("text", 1000),
        "banking77/test.csv": ("text", 3080),
        "fastchat/dummy_conversation.json": ("conversations", 500),
        "llamafactory-demos/glaive_toolcall_en_demo.json": ("conversations", 300),
        "tinyshakespeare/input.txt": ("text", 7000),
        "uci-sentiment-sentences/yelp_labelled.txt": ("text", 954),
    }
    for name, (kind, least) in cases.items():
        rows, problems = found(folder / name)
        assert len(rows) >= least and not problems, name
        assert {row.kind for row in rows} == {kind}
    rows, problems = found(folder / "llamafactory-demos/dpo_en_demo.json")
    assert not rows and all("chosen" in problem.message for problem in problems)
    rows, problems = found(folder / "oasst-en100/en_100_text.jsonl")
    assert not rows and all("must be an object" in problem.message for problem in problems)
