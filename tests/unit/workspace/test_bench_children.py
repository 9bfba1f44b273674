import os
import time
from pathlib import Path

import pytest

from edgetune.errors import ChildFailed, DoesNotFit, EdgeTuneError, StoppedEarly
from edgetune.workspace import bench_children
from edgetune.workspace.bench_children import Watch, error_of, lines_of


def lines(code: str, tmp_path: Path, watch: Watch | None = None) -> list[bytes]:
    """What a process that writes to the file `out` shows."""
    watch = watch or Watch(lambda done: None, lambda: False)
    return list(lines_of(["-c", code], tmp_path / "child" / "lines", tmp_path / "child", watch))


def test_lines_are_whole_and_all_there(tmp_path: Path) -> None:
    code = "import time; f = open('lines', 'w')\nfor part in ('one\\nt', 'wo\\n', 'three\\nhalf'):\n"
    code += "    f.write(part); f.flush(); time.sleep(0.15)"
    assert lines(code, tmp_path) == [b"one", b"two", b"three"]


def test_an_error_keeps_its_kind_and_its_words(tmp_path: Path) -> None:
    code = """import json, sys
print(json.dumps({"error": {"kind": "does_not_fit", "message": "needs 9 GB", "hint": "close"}}))
sys.exit(3)"""
    with pytest.raises(DoesNotFit, match="needs 9 GB") as caught:
        lines(code, tmp_path)
    assert caught.value.hint == "close"


def test_an_error_of_a_kind_that_is_not_known_is_a_bug() -> None:
    assert type(error_of("bug", "a bug of ours", "")) is EdgeTuneError
    assert type(error_of("child_failed", "died", "")) is ChildFailed


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed, most likely because memory ran out"),
        ("import os; os.kill(os.getpid(), 4)", "was ended by signal 4"),
        ("raise ValueError('no such layer')", "ended with code 1: ValueError: no such layer"),
        ("print('[1]'); raise SystemExit(7)", "ended with code 7"),
    ],
)
def test_a_process_that_dies_is_told_in_a_sentence(code: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ChildFailed) as caught:
        lines(code, tmp_path)
    assert caught.value.message == says and caught.value.hint


FOREVER = "import os, time; f = open('lines', 'w'); print(os.getpid(), file=f, flush=True); time.sleep(600)"


def test_asked_to_stop_it_ends_the_process(tmp_path: Path) -> None:
    file = tmp_path / "child" / "lines"
    with pytest.raises(StoppedEarly):
        lines(FOREVER, tmp_path, Watch(lambda done: None, lambda: file.exists() and file.read_bytes().endswith(b"\n")))
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_a_process_that_shows_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_children, "SILENCE_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(ChildFailed, match="showed no step"):
        lines("import time; time.sleep(600)", tmp_path)
    assert time.monotonic() - began < 60


def test_the_process_finds_this_package_and_no_network(tmp_path: Path) -> None:
    code = "import os, edgetune; f = open('lines', 'w'); print(edgetune.__file__, os.environ['HF_HUB_OFFLINE'], file=f)"
    root = bench_children.ROOT
    assert lines(code, tmp_path) == [f"{root}/edgetune/__init__.py 1".encode()]
