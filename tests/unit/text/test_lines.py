import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.errors import DataError
from edgetune.text import lines as module
from edgetune.text.lines import check_file, lines, text_of

Write = Callable[[str, Any], Path]


def read(path: Path) -> list[str]:
    return [text_of(line, path) for line in lines(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(write: Write, encoding: str) -> None:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    assert read(write("a.txt", (mark + "é\nb\u2028c\n").encode(encoding))) == ["é\n", "b\u2028c\n"]


@given(
    parts=st.lists(st.tuples(st.text("ab é\u2028\x0b\x85", max_size=6), st.sampled_from(["\n", "\r\n", "\r"])), max_size=8),
    last=st.text("ab", max_size=3),
    chunk=st.integers(1, 7),
)
def test_line_ends_of_all_kinds(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str]], last: str, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes("".join(text + end for text, end in parts).encode() + last.encode())
    whole = path.read_bytes().splitlines(keepends=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = list(lines(path))
    assert [line.data for line in found] == whole
    assert [line.number for line in found] == list(range(1, len(whole) + 1))


def test_a_line_that_is_too_long_is_passed_over(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 10)
    monkeypatch.setattr(module, "CHUNK", 4)
    found = list(lines(write("a.txt", b"one\n" + b"x" * 50 + b"\r\nthree\n" + b"y" * 20)))
    assert [(line.number, line.data) for line in found] == [(1, b"one\n"), (2, None), (3, b"three\n"), (4, None)]


def test_invalid_utf_8_is_told_with_its_column(write: Write) -> None:
    path = write("a.txt", "good\néé".encode() + b"\xff\n")
    with pytest.raises(DataError, match=r"a\.txt:2: is not UTF-8: byte 0xff at column 3"):
        read(path)


def test_broken_utf_16_is_told(write: Write) -> None:
    with pytest.raises(DataError, match="is not valid UTF-16-LE"):
        read(write("a.txt", b"\xff\xfea\x00\x00\xd8b\x00"))
    with pytest.raises(DataError, match="is not valid UTF-16-LE"):
        read(write("a.txt", b"\xff\xfea\x00b"))


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    fifo, loop, empty = tmp_path / "fifo", tmp_path / "loop", tmp_path / "empty"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    empty.touch()
    cases = {
        tmp_path / "absent": "no such file",
        fifo: "not a regular file",
        tmp_path: "is a folder",
        loop: "cannot be read",
        empty: "is empty",
    }
    for path, said in (cases | {Path("/dev/zero"): "not a regular file"}).items():
        with pytest.raises(DataError, match=said):
            check_file(path)
