import errno
import hashlib
import os
import subprocess
import sys
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune import faults, files
from edgetune.errors import DiskFull, InputError
from edgetune.files import (
    append_line,
    clean,
    home,
    require_space,
    safe_join,
    safe_name,
    sha256,
    sweep,
    whole_file,
    whole_folder,
)

FILE_POINTS = ("file-open", "file-written", "file-flushed", "file-renamed")
FOLDER_POINTS = ("folder-open", "folder-written", "folder-flushed", "folder-renamed")
REPLACE_FILE = """
from pathlib import Path
from edgetune.files import whole_file
with whole_file(Path({target!r})) as part:
    part.write_text("new")
"""
REPLACE_FOLDER = """
from pathlib import Path
from edgetune.files import whole_folder
with whole_folder(Path({target!r})) as part:
    (part / "content").write_text("new")
"""


def run_with_fault(code: str, target: Path, fault: str) -> int:
    script = code.format(target=str(target))
    return subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"EDGETUNE_FAULT": fault}, capture_output=True
    ).returncode


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ---- whole or absent -------------------------------------------------------------------------------------------------


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with whole_file(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and left_behind(target.parent) == []


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ValueError, match="midway"), whole_file(target) as part:
        part.write_text("half")
        raise ValueError("midway")
    assert target.read_text() == "old" and left_behind(tmp_path) == []


@pytest.mark.parametrize("point", FILE_POINTS)
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path, point: str) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    assert run_with_fault(REPLACE_FILE, target, f"{point}:1:kill") == -9
    assert target.read_text() == ("new" if point == "file-renamed" else "old")
    sweep(tmp_path)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("point", [*FOLDER_POINTS, "folder-trashed"])
def test_a_kill_at_any_moment_leaves_a_whole_folder_or_none(tmp_path: Path, point: str) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "content").write_text("old")
    assert run_with_fault(REPLACE_FOLDER, target, f"{point}:1:kill") == -9
    if target.exists():
        assert (target / "content").read_text() == ("new" if point == "folder-renamed" else "old")
    sweep(tmp_path)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("action", ["enospc", "edquot", "efbig"])
def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    monkeypatch.setenv("EDGETUNE_FAULT", f"file-written:1:{action}")
    monkeypatch.setattr(faults, "passages", {})
    with pytest.raises(DiskFull, match="no room left"), whole_file(tmp_path / "file") as part:
        part.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from edgetune.errors import DiskFull
from edgetune.files import whole_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole_file(Path({str(tmp_path / "file")!r})) as part:
        part.write_bytes(bytes(5000))
except DiskFull:
    raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"), whole_file(tmp_path / "file" / "inside"):
        pass
    with pytest.raises(InputError, match="cannot write"), whole_folder(tmp_path / "file" / "inside"):
        pass


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("first", "second"):
        with whole_folder(target) as part:
            (part / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["second"] and left_behind(tmp_path) == []


def test_lines_are_added_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    for line in (b"one", b"two\n"):
        append_line(file, line)
    assert file.read_bytes() == b"one\ntwo\n"


def test_sha256_tells_its_progress(tmp_path: Path) -> None:
    file, seen = tmp_path / "file", list[int]()
    file.write_bytes(bytes(3 * files.CHUNK // 2))
    assert sha256(file, seen.append) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert seen == [files.CHUNK, files.CHUNK // 2]


def test_space_is_asked_for_where_the_file_will_lie(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(DiskFull, match="free"):
        require_space(tmp_path / "not" / "yet" / "there", 1 << 60)


def test_home_is_where_the_person_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGETUNE_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.setenv("EDGETUNE_HOME", "~/mine")
    assert home() == Path.home() / "mine"
    monkeypatch.delenv("EDGETUNE_HOME")
    assert home().name == "edgetune" and home().is_absolute()


def test_an_unknown_system_error_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, files.disk_errors(tmp_path):
        raise OSError(errno.EBUSY, "busy")
    assert caught.value.errno == errno.EBUSY


# ---- names and text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "SmolLM2-135M", "run_1.2", "_x", "0", "x" * 64])
def test_good_names(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-flag",
        "a/b",
        "a\\b",
        "a b",
        "é",
        "x" * 65,
        "con",
        "NUL.txt",
        "lpt1",
        "a\n",
        "a\x1b[2J",
        "C:x",
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError) as caught:
        safe_name(name)
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("inside", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "a\\b", "", ".", "a\x1bb", "a\nb"])
def test_paths_that_leave_their_folder(tmp_path: Path, inside: str) -> None:
    with pytest.raises(InputError):
        safe_join(tmp_path, inside)


@given(st.text(max_size=40))
def test_a_joined_path_never_leaves(inside: str) -> None:
    folder = Path("/base/folder")
    try:
        joined = safe_join(folder, inside)
    except InputError:
        return
    assert PurePosixPath(os.path.normpath(joined)).is_relative_to(folder) and joined != folder


@given(st.text())
def test_cleaned_text_cannot_drive_a_terminal(text: str) -> None:
    cleaned = clean(text)
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in cleaned)
    assert not any(
        unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI") for c in cleaned
    )


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert clean(text) == text
