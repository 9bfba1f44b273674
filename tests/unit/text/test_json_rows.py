import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.errors import DataError
from edgetune.text import json_rows, lines
from edgetune.text.json_rows import Parsed, json_values
from edgetune.text.rows import Problem

Write = Callable[[str, Any], Path]


def values(path: Path) -> list[object]:
    return [found.value if isinstance(found, Parsed) else found.message for found in json_values(path)]


def problems(path: Path) -> list[tuple[int, str, str]]:
    return [(found.line, found.kind, found.message) for found in json_values(path) if isinstance(found, Problem)]


def test_jsonl_with_blank_lines_and_line_ends(write: Write) -> None:
    found = list(json_values(write("a.jsonl", '\ufeff{"a": 1}\r\n\n  \n {"a": 2} \r{"a": "\u2028"}')))
    assert [(one.line, one.value) for one in found if isinstance(one, Parsed)] == [
        (1, {"a": 1}),
        (4, {"a": 2}),
        (5, {"a": "\u2028"}),
    ]


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        (
            b'{"a": 1,}',
            "json",
            "column 9: expecting property name enclosed in double quotes (a comma too many, or single quotes?)",
        ),
        (b"{'a': 1}", "json", "column 2: expecting property name"),
        (b'  {"a": 1', "json", "column 10: expecting ',' delimiter"),
        (b'{"a": 1} {"a": 2}', "json", "column 9: more after the end of the row"),
        (b'{"a": NaN}', "json", "NaN is not JSON"),
        (b'{"a": -Infinity}', "json", "-Infinity is not JSON"),
        (b'{"a": {"b": 1, "b": 2}}', "json", "the key 'b' stands twice in one object"),
        (b'{"a": "\x00"}', "json", "column 8: invalid control character"),
        (b'{"a": "\xe9"}', "encoding", "is not UTF-8: byte 0xe9 at column 8"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "json", "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "json", "Exceeds the limit"),
    ],
)
def test_a_broken_line_is_a_problem_of_its_own(write: Write, row: bytes, kind: str, said: str) -> None:
    path = write("a.jsonl", b'{"a": 0}\n' + row + b'\n{"a": 3}\n')
    assert values(path)[::2] == [{"a": 0}, {"a": 3}]
    ((line, found, message),) = problems(path)
    assert (line, found) == (2, kind) and message.startswith(said)


def test_a_line_without_end_is_a_problem_of_its_own(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 1000)
    monkeypatch.setattr(lines, "CHUNK", 100)
    path = write("a.jsonl", [{"a": 0}, {"a": "x" * 3000}, {"a": 1}])
    assert values(path)[::2] == [{"a": 0}, {"a": 1}]
    assert problems(path)[0][:2] == (2, "size")


json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(json_value, max_size=6), indent=st.sampled_from([None, 0, 2]), chunk=st.integers(1, 40), ascii=st.booleans()
)
def test_arrays_are_read_whatever_the_chunks(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, chunk: int, ascii: bool
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.json"
    path.write_text(" \n" + json.dumps(rows, indent=indent, ensure_ascii=ascii) + "\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK", chunk)
        assert values(path) == rows


def test_rows_of_an_array_know_their_lines(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.json", '[\n  {"a":\n 1},\r\n\n  {"a": 2}, {"a": NaN},\r {"a": 3}\n]')
    for chunk in (1 << 20, 3):
        monkeypatch.setattr(lines, "CHUNK", chunk)
        assert [found.line for found in json_values(path)] == [2, 5, 5, 6]
        assert problems(path) == [(5, "json", "NaN is not JSON")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[\n{"a": 1},\n{"a": tru}\n]', r":3: column 7: expecting value"),
        ('[\n{"a": 1}\n{"a": 2}]', r":3: column 1: a comma or the end of the array is missing"),
        ('[{"a": 1}, {"a": 2}', r":1: column 20: the array does not end"),
        ('[{"a": 1}, {"a":', r":1: column 17: expecting value"),
        ('[{"a": 1},\n]', r":2: column 1: a comma before the end"),
        ('[{"a": 1}] x', r":1: column 12: more after the end"),
        ("[" * 100_000, r":1: column 2: is nested too deeply"),
        ("[" + "9" * 5000 + "]", r":1: column 2: Exceeds the limit"),
    ],
)
def test_a_broken_array_is_refused_with_line_and_column(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    for chunk in (1 << 20, 5000, 7) if len(text) < 1000 else (1 << 20,):
        monkeypatch.setattr(lines, "CHUNK", chunk)
        with pytest.raises(DataError, match=said):
            values(write("a.json", text))


def test_an_array_that_is_not_utf_8(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.json:3: is not UTF-8: byte 0xff"):
        values(write("a.json", b'[\n{"a": 1},\n"\xff"]'))


def test_a_row_of_an_array_that_never_ends(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LONGEST", 1000)
    monkeypatch.setattr(lines, "CHUNK", 100)
    with pytest.raises(DataError, match=":2: column 1: a row of more than 1 kB"):
        values(write("a.json", '[\n{"a": "' + "x" * 5000))
