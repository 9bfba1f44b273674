import os
from pathlib import Path

import msgspec
import pytest

from edgetune.events import Event, RunFinished, RunStarted, SampleWritten, StepFinished, ValidationFinished, read, to_line
from edgetune.workspace import follow
from edgetune.workspace.follow import Follower, Snapshots, snapshot_file
from edgetune.workspace.run_state import RunState, replay

STARTED = RunStarted(
    run="r", first_step=0, total_steps=9000, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1,
    trained_tokens=1, planned_peak_bytes=1, time=5.0,
)  # fmt: skip


def step(number: int) -> StepFinished:
    return StepFinished(
        step=number, loss=1 / number, rate=1e-4, gradient_norm=1, tokens=10, trained_tokens=5, seconds=0.5, memory_bytes=7,
        time=5.0 + number,
    )  # fmt: skip


def lines(*events: Event) -> bytes:
    return b"".join(to_line(event) + b"\n" for event in events)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def add(file: Path, content: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(content)


def test_events_come_once_and_in_order(file: Path) -> None:
    follower = Follower(file)
    assert follower.poll() == [] and follower.state == RunState()
    add(file, lines(STARTED, step(1)))
    assert follower.poll() == [STARTED, step(1)]
    add(file, lines(step(2)))
    assert follower.poll() == [step(2)] and follower.poll() == []
    assert follower.state == replay(read(file))


def test_half_a_line_waits_for_its_other_half(file: Path) -> None:
    content = lines(STARTED, step(1))
    follower = Follower(file)
    for end in range(len(content)):
        add(file, content[end : end + 1])
        follower.poll()
    assert follower.state == replay([STARTED, step(1)]) and follower.offset == len(content)


def test_lines_that_are_no_events_are_passed_over(file: Path) -> None:
    follower = Follower(file)
    add(file, b'\xff\xfe\n{"event": "Unknown"}\n{"half": \n\n' + lines(STARTED) + b"[" * 5000 + b"\n")
    assert follower.poll() == [STARTED]


@pytest.mark.parametrize("size", [1 << 12, 3 << 12])
def test_a_line_longer_than_any_event_is_skipped(file: Path, size: int) -> None:
    follower = Follower(file)
    add(file, lines(STARTED) + b"x" * size + b"\n" + lines(step(1)))
    found = [event for _ in range(9) for event in follower.poll(1 << 12)]
    assert found == [STARTED, step(1)] and not follower.is_behind


def test_one_poll_is_bounded_and_says_that_there_is_more(file: Path) -> None:
    add(file, lines(STARTED, *map(step, range(1, 200))))
    follower = Follower(file)
    assert len(follower.poll(4096)) < 40 and follower.is_behind
    assert follower.catch_up() == replay(read(file)) and not follower.is_behind


def test_a_file_that_was_cut_replaced_or_written_anew_is_another_run(file: Path) -> None:
    follower = Follower(file)
    add(file, lines(STARTED, *map(step, range(1, 50))))
    follower.catch_up()
    file.write_bytes(lines(STARTED))  # cut
    assert follower.poll() == [STARTED] and follower.state.step == 0
    other = file.with_name("other")
    other.write_bytes(lines(STARTED, step(7)))
    os.replace(other, file)  # another file
    assert follower.catch_up().step == 7
    file.write_bytes(lines(STARTED, *map(step, range(3, 90))))  # the same file, and longer than before
    assert follower.catch_up() == replay(read(file))
    file.unlink()
    assert follower.poll() == []


def long_run(file: Path, count: int) -> Snapshots:
    snapshots = Snapshots(file)
    for event in [STARTED, *map(step, range(1, count))]:
        add(file, lines(event))
        snapshots.note()
    return snapshots


def test_a_snapshot_opens_the_rest_only(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "DUE", 50)
    long_run(file, 130)
    add(file, lines(ValidationFinished(step=129, loss=0.5, tokens=1, seconds=1, best=True)))
    follower = Follower(file)
    assert follower.state.step >= 90
    rest = follower.poll()
    assert len(rest) < 60 and follower.state == replay(read(file))


def test_what_is_kept_of_every_kind_of_event_comes_back(file: Path) -> None:
    finished = RunFinished(
        run="r", adapter="a", steps=9, tokens=9, train_loss=1.5, valid_loss=None, best_step=9, tokens_per_second=1,
        peak_bytes=1, seconds=1,
    )  # fmt: skip
    sample = SampleWritten(step=3, prompt="a\x1b[2J", reply="b")
    add(file, lines(STARTED, step(1), ValidationFinished(step=1, loss=0.5, tokens=1, seconds=1, best=True), sample, finished))
    follower = Follower(file)
    follower.catch_up()
    follow.keep_snapshot(follower)
    assert Follower(file).state == follower.state and Follower(file).poll() == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "version", "other file", "shorter file"])
def test_a_snapshot_that_does_not_belong_is_ignored(file: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "DUE", 50)
    long_run(file, 120)
    place = snapshot_file(file)
    stored = bytearray(place.read_bytes())
    match damage:
        case "flip":
            stored[len(stored) // 2] ^= 1
        case "cut":
            stored = stored[:-5]
        case "empty":
            stored = bytearray()
        case "version":
            monkeypatch.setattr(follow, "version", lambda: "another")
        case "other file":
            file.write_bytes(file.read_bytes().replace(b'"loss":0.0', b'"loss":9.0'))
        case _:
            file.write_bytes(lines(STARTED, step(1)))
    place.write_bytes(stored)
    follower = Follower(file)
    assert follower.offset == 0 and follower.catch_up() == replay(read(file))


def test_a_snapshot_that_cannot_be_written_is_no_trouble(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "DUE", 50)
    monkeypatch.setenv("EDGETUNE_FAULT", "snapshot:1:enospc")
    long_run(file, 120)
    assert sorted(path.name for path in file.parent.iterdir()) == ["events.jsonl", "state.snapshot"]


def test_a_reader_keeps_what_took_long(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "WORTH_KEEPING", 1000)
    add(file, lines(STARTED, *map(step, range(1, 50))))
    Follower(file).catch_up()
    assert Follower(file).state == replay(read(file))


def test_the_state_of_a_snapshot_is_the_fold_of_all_events(file: Path) -> None:
    """A second source: msgpack's and JSON's forms of the same state agree."""
    add(file, lines(STARTED, *map(step, range(1, 700))))
    follower = Follower(file)
    state = follower.catch_up()
    assert msgspec.json.decode(msgspec.json.encode(state), type=RunState) == replay(read(file))
