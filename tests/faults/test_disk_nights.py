"""A disk that is full, or fails, while a run trains: nothing that was good is lost, and nobody has to be there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetune.errors import DiskFull, InputError, StoppedEarly
from edgetune.events import (
    CheckpointSaved,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStopped,
    StepFinished,
    Warned,
    read,
)
from edgetune.training import checkpoint, event_file
from tests.faults.fake_machine import GB
from tests.faults.nights import STEPS, Night

pytestmark = pytest.mark.slow  # together


def failing(monkeypatch: pytest.MonkeyPatch, of: Any, name: str, error: Exception, fails: Callable[[int], bool]) -> list[int]:
    """Makes a function fail at some of its calls, counted from 1; gives the numbers of those that did."""
    real, calls, failed = getattr(of, name), [0], list[int]()

    def call(*arguments: Any) -> Any:
        calls[0] += 1
        if fails(calls[0]):
            failed.append(calls[0])
            raise error
        return real(*arguments)

    monkeypatch.setattr(of, name, call)
    return failed


def test_9_saves_that_fail_are_tried_again_while_the_run_goes_on(
    night: Night, calm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, checkpoint, "save", InputError("cannot write here: input/output error"), lambda call: call in (3, 4))
    assert night.spend().adapter == calm
    (warned,) = night.of(Warned)
    assert (
        "no checkpoint of step 14" in warned.message and "input/output error" in warned.message and "3 in a row" in warned.hint
    )
    assert [event.step for event in night.of(CheckpointSaved)][:3] == [0, 7, 21]


def test_9_a_place_that_cannot_be_written_any_more_ends_the_run_cleanly(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, checkpoint, "save", InputError("cannot write here: read-only"), lambda call: call > 2)
    with pytest.raises(InputError) as caught:
        night.spend(failed_saves=2)
    assert caught.value.exit_code == 2
    assert len(night.of(Warned)) == 1 and isinstance(night.events[-1], RunFailed)
    assert night.of(StepFinished)[-1].step == 20 and checkpoint.steps(night.run) == [0, 7]


def test_9_the_best_is_handed_over_even_if_no_disk_took_its_checkpoint(
    night: Night, calm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calm night's best is its last step; here it is one in the middle, whose checkpoint could not be written."""

    def best_of(night: Night) -> bytes:
        losses = iter([3.0, 2.0, 2.5, 2.6])
        monkeypatch.setattr("edgetune.training.run.mean_loss", lambda *arguments: (next(losses), 9))
        return night.spend(failed_saves=100).adapter

    expected = best_of(night)
    again = Night(night.base, night.rows, night.place / "again")
    failing(monkeypatch, checkpoint, "save", InputError("cannot write here: read-only"), lambda call: call > 2)
    assert best_of(again) == expected != calm
    assert again.of(RunFinished)[0].best_step == 20 and 20 not in checkpoint.steps(again.run)


def test_7_a_quota_is_waited_for_though_the_disk_has_room(night: Night, calm: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    error = DiskFull("no room left while writing here")
    tries = failing(monkeypatch, checkpoint, "save", error, lambda call: 3 <= call < 9)
    assert night.spend().adapter == calm
    assert len(tries) == 6 and len(night.of(RunPaused)) == len(night.of(RunResumed)) == 1
    assert night.of(RunPaused)[0].reason == "the disk is full: no room left while writing here"


def test_7_a_stop_while_the_disk_is_full_says_what_is_lost_and_a_resume_finds_it_again(night: Night, calm: bytes) -> None:
    night.machine.set_at(200, free=0)
    night.stop_at = 14
    with pytest.raises(StoppedEarly):
        night.spend()
    assert "not written after step 14" in night.of(Warned)[0].message
    assert isinstance(night.events[-1], RunStopped)
    assert checkpoint.steps(night.run)[-1] < 14
    night.machine.free, night.machine.plans, night.stop_at = GB, [], 0
    assert night.spend().adapter == calm


def test_7_the_result_waits_for_room_too(night: Night, calm: bytes) -> None:
    night.machine.set_at(880, free=0).set_at(2000, free=GB)
    assert night.spend().adapter == calm
    assert night.of(RunPaused)[0].step == STEPS


def test_7_events_that_cannot_be_written_are_written_later(night: Night, calm: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, event_file, "append_line", DiskFull("no room"), lambda call: 20 <= call < 60)
    assert night.spend().adapter == calm  # which compares what was heard with what is on the disk


def test_7_the_bytes_that_are_held_back_serve_to_say_that_the_disk_is_full(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written while the reserve lies there and the disk is full: the pause is on the disk nevertheless."""
    real, seen = event_file.append_line, list[bool]()

    def append(path: Path, line: bytes, point: str) -> None:
        if night.machine.free == 0 and (night.run / ".reserve").exists():
            raise DiskFull("no room")
        real(path, line, point)

    def look(machine: Any) -> None:
        seen.append(any(isinstance(event, RunPaused) for event in read(night.run / "events.jsonl")))
        machine.free = GB

    monkeypatch.setattr(event_file, "append_line", append)
    night.machine.set_at(200, free=0).at(3000, look)
    night.spend()
    assert seen == [True]
