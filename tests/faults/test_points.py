"""Nothing is written past the named points, and there is no named point at which no test kills."""

import json
import signal
from pathlib import Path

import pytest

from edgetune.cli.crash import report_crash
from edgetune.cli.main import main
from edgetune.files import append_line
from edgetune.hardware import speed
from edgetune.training.control import Control, Pause, send
from tests.faults import test_hub_faults, test_jobs, test_kill_outcomes, test_kill_points
from tests.faults.code_points import bare_writes, points
from tests.faults.forks import Child
from tui.settings import Settings

SMALL = (
    *(f"{name}-{end}" for name in ("crash", "machine", "doctor", "settings")
      for end in ("open", "content", "written", "flushed", "renamed")),
    "event-copy",
)  # fmt: skip
LINES = ("control", "rating", "correction")  # points of append_line alone: one line, there or not
NEVER_PASSED = dict.fromkeys(("converted-trashed", "import-trashed", "project-trashed"), "what is there is not replaced")
SCRATCH = {
    "bench-trashed",
    "bench-weights",
    "demo-trashed",
    "report",
    "selftest",
}  # of folders that are thrown away or made anew

PAST_THE_POINTS = {
    ("edgetune/cli/main.py", "open"): "standard output's stand-in, /dev/null",
    ("edgetune/cli/options.py", "open"): "asks whether the events file can be written; the lines are append_line's",
    ("edgetune/export/certificate.py", "memmap"): "the reference, gone when the export ends",
    ("edgetune/export/pipeline.py", "mkdtemp"): "what an export needs on the way; a killed one's is swept by the next",
    ("edgetune/locks.py", "open"): "a lock, which dies with the process",
    ("edgetune/locks.py", "truncate"): "a lock, which dies with the process",
    ("edgetune/locks.py", "write_bytes"): "who holds it, for people",
    ("edgetune/workspace/bounded_log.py", "open"): "a job's log, cut in its place",
    ("edgetune/workspace/bounded_log.py", "truncate"): "a job's log, cut in its place",
    ("edgetune/workspace/jobs.py", "open"): "a child's own streams, and the lock that dies with it",
    ("edgetune/hub/download.py", "open"): "the download's own stream, with a point at every chunk",
    ("edgetune/hub/download.py", "touch"): "makes the file that this stream continues",
    ("edgetune/hub/download.py", "truncate"): "empties it where the hub begins again",
    ("edgetune/hub/library.py", "open"): "a folder's lock",
    ("edgetune/llamacpp/child.py", "write_text"): "/proc",
    ("edgetune/training/guards/disk.py", "write_bytes"): "bytes of no meaning, held back for a full disk",
    ("tui/child.py", "fdopen"): "a pipe, read",
    ("tui/widgets/top_bar.py", "truncate"): "a text",
    ("tui/dashboard.py", "truncate"): "a text",
    ("tui/export_view.py", "truncate"): "a text",
    ("tui/screens/data.py", "truncate"): "a text",
    ("tui/screens/home.py", "rename"): "the workspace's",
    ("tui/screens/home.py", "truncate"): "a text",
    ("tui/screens/plan.py", "write_text"): "a config for one question, gone with the answer",
}
OF_SCRATCH = ("edgetune/workspace/bench", "edgetune/workspace/selftest.py")


def test_nothing_is_written_past_the_points() -> None:
    """To write a file that lasts: whole_file, whole_folder, write_file, copy_file, NewFile, move, append_line."""
    found = {each for each in bare_writes() if not each[0].startswith(OF_SCRATCH)}
    assert found - PAST_THE_POINTS.keys() == set()
    assert PAST_THE_POINTS.keys() - found == set(), "no longer there: take it off the list"


def test_1_every_point_of_the_code_is_killed_at() -> None:
    killed = {*test_kill_points.KILLED, *test_kill_outcomes.KILLED, *test_hub_faults.KILLED, *test_jobs.KILLED, *SMALL, *LINES}
    there = points()
    assert there.keys() - killed - NEVER_PASSED.keys() - SCRATCH == set()
    assert killed - there.keys() == set(), "no longer there"


@pytest.mark.parametrize("point", SMALL)
def test_1_kill_at_the_points_of_small_files(
    point: str, isolated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was being written then, the next start finds a whole file or none, and works."""
    monkeypatch.setattr(speed, "cpu_flags", lambda: speed.KERNEL_FLAGS)
    monkeypatch.setattr(speed, "measure_gain", lambda: 1.0)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    events = tmp_path / "events.jsonl"
    actions = {
        "crash": lambda: report_crash(ValueError("x"), []),
        "machine": speed.kernels,
        "doctor": lambda: main(["doctor"]),
        "settings": lambda: (settings := Settings.load()).change(theme=f"{settings.theme}x"),
        "event-copy": lambda: main(["data", str(tmp_path / "rows.jsonl"), "--model", "starter", "--events", str(events)]),
    }
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    action = actions["event-copy" if point == "event-copy" else point.partition("-")[0]]
    assert Child(lambda: int(action() is ...), f"{point}:1:kill").wait().code == -signal.SIGKILL
    assert Child(lambda: int(action() is ...)).wait().code == 0
    for file in [each for each in isolated.rglob("*.json") if not each.name.startswith(".")]:
        json.loads(file.read_bytes())


@pytest.mark.parametrize("point", LINES)
def test_1_kill_at_the_points_of_single_lines(point: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append_line(file, b"1", point)
    assert Child(lambda: append_line(file, b"2", point) or 0, f"{point}:1:kill").wait().code == -signal.SIGKILL
    append_line(file, b"3", point)
    assert file.read_bytes() == b"1\n3\n"


def test_7_a_line_that_a_full_disk_cut_costs_no_other_line(tmp_path: Path) -> None:
    """Half a line stays where it is; what comes after it begins on a line of its own."""
    send(tmp_path, Pause())
    with (tmp_path / "control.jsonl").open("ab") as file:
        file.write(b'{"comm')
    send(tmp_path, Pause())
    control = Control(tmp_path)
    control.offset = 0
    assert control.poll() == [Pause(), Pause()]
