"""Nights of different misfortune, simulated in a moment each: all end with the right adapter, bit for bit the calm night's
wherever nothing that is learned was touched."""

import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetune.architecture.weights import load_arrays
from edgetune.config import convert, to_toml
from edgetune.errors import StoppedEarly
from edgetune.events import (
    ClockChanged,
    Event,
    MemoryShort,
    PowerChanged,
    Recovered,
    RolledBack,
    RunPaused,
    RunResumed,
    Slept,
    StepFinished,
    StepSkipped,
    Throttled,
)
from edgetune.hardware.sensors import Heat
from edgetune.hardware.servers import Server
from edgetune.training import run as run_module
from edgetune.training import session
from edgetune.training.loss import row_loss
from edgetune.training.session import Resources, prepare
from edgetune.workspace.run_state import replay
from tests.faults.fake_machine import GB, FakeMachine, Killed, kind_of
from tests.faults.nights import DAY, HOUR, STEPS, Night
from tests.faults.runs import events, process, wait_for

pytestmark = pytest.mark.slow  # together


def test_a_laptop_that_sleeps_and_a_process_that_is_held(night: Night, calm: bytes) -> None:
    """Neither is in a step's seconds, the pace or the time that is left."""
    night.machine.sleeps_at(200, 7 * HOUR).held_at(400, 1800)
    assert night.spend().adapter == calm
    assert [(event.kind, event.seconds) for event in night.of(Slept)] == [("asleep", 7 * HOUR), ("held", 1800)]
    assert {event.seconds for event in night.of(StepFinished)} == {2.0}
    before_the_last = night.events[: night.events.index(night.of(StepFinished)[-1])]
    assert replay(before_the_last).seconds_left == 2.0


def test_a_plug_that_is_pulled(night: Night, calm: bytes) -> None:
    """Below the floor the run waits, saved, and lets the machine sleep; with the plug it goes on."""
    low, back = ("battery", 19.0), ("mains", 20.0)
    night.machine.set_at(100, power=("battery", 60.0)).set_at(300, power=low).set_at(5000, power=back)
    assert night.spend().adapter == calm
    assert [(event.source, event.percent) for event in night.of(PowerChanged)] == [("battery", 60.0), ("mains", 20.0)]
    (paused,), (resumed,) = night.of(RunPaused), night.of(RunResumed)
    assert paused.reason == "on battery, 19 % left" and paused.step == resumed.step
    assert f"step-{paused.step:06d}" in str(night.events[night.events.index(paused) - 1])
    assert night.machine.holds == [True, False, True, False, False]  # awake, waits, awake again, over
    assert not night.machine.is_awake


def test_a_machine_that_is_too_hot(night: Night, calm: bytes) -> None:
    """It is named with its numbers, the run rests between steps and tells so, and stops resting once it has recovered."""
    night.machine.set_at(250, tick=4.0, heat=Heat(97.0)).set_at(700, tick=2.0, heat=Heat(70.0))
    assert night.spend(rest=0.25).adapter == calm
    (throttled,), (recovered,) = night.of(Throttled), night.of(Recovered)
    assert (throttled.percent, throttled.celsius, throttled.rest_share) == (50.0, 97.0, 0.25)
    rests = [event.rested_seconds for event in night.of(StepFinished) if event.rested_seconds]
    assert set(rests) <= {1.0, 0.5} and sum(rests) == recovered.rested_seconds > 0
    assert night.machine.rests == rests and recovered.seconds > 0
    slow = replay(night.events[: night.events.index(recovered)])
    assert slow.throttled is throttled and (slow.seconds_left or 0) > (STEPS - slow.step) * 2.0


def test_a_disk_that_is_full(night: Night, calm: bytes) -> None:
    """The run waits and says what it needs; the last good checkpoint stays; it goes on by itself when there is room."""
    seen: list[tuple[bool, list[str]]] = []

    def look(machine: FakeMachine) -> None:
        folders = sorted(path.name for path in (night.run / "checkpoints").iterdir())
        seen.append(((night.run / ".reserve").exists(), folders))
        machine.free = 100 * GB

    night.machine.set_at(200, free=3_000).at(HOUR, look)
    assert night.spend().adapter == calm
    (paused,) = night.of(RunPaused)
    assert paused.reason.startswith("the disk is full: needs ") and paused.reason.endswith("3 kB free")
    ((reserved, folders),) = seen
    assert not reserved and len(folders) >= 3 and not any(name.startswith(".") for name in folders)
    assert len(night.of(RunResumed)) == 1


def test_a_process_that_is_killed(night: Night, calm: bytes) -> None:
    for at in (33, 50):
        night.kill_at = at
        with pytest.raises(Killed):
            night.spend()
    assert night.spend().adapter == calm
    steps = [event.step for event in night.of(StepFinished)]
    assert [b for a, b in pairwise(steps) if b <= a] == [29, 50]


@pytest.mark.parametrize("jump", [DAY, -DAY, HOUR, -HOUR])
def test_a_clock_that_is_set(jump: float, night: Night, calm: bytes) -> None:
    night.machine.at(300, lambda machine: setattr(machine, "wall", machine.wall + jump))
    assert night.spend().adapter == calm
    (changed,) = night.of(ClockChanged)
    assert changed.seconds == pytest.approx(jump)
    assert all(event.seconds == 2.0 for event in night.of(StepFinished))
    assert night.events[-1].seconds >= 0 and not night.of(Slept)  # type: ignore[attr-defined]


def test_memory_that_runs_short(night: Night, calm: bytes) -> None:
    """Activations are made again from then on, which changes no bit; other model servers are named."""
    memory = night.machine.memory._replace(available=300_000_000, swapped=2 * GB)
    night.machine.set_at(300, memory=memory, servers=[Server("Ollama", 8_100_000_000)])
    assert night.spend().adapter == calm
    (event,) = night.of(MemoryShort)
    assert (event.available_bytes, event.swapped_bytes, event.recomputes) == (300_000_000, 2 * GB, True)
    assert event.servers == ["Ollama 8.1 GB"]


def breaks(monkeypatch: pytest.MonkeyPatch, times: list[int]) -> None:
    """The loss of those steps, counted from 0, is not a number, each as often as it is named."""

    def loss_of(model: Any, recompute: bool = False, start: Any = None) -> Any:
        inner = row_loss(model, recompute, start)

        def play(ops: Any, row: Any) -> Any:
            value = inner(ops, row)
            if ops.learning and ops.dropout_key.step in times:
                value.data = value.data * np.nan
            return value

        return play

    monkeypatch.setattr(run_module, "row_loss", loss_of)


def test_numbers_that_are_none(night: Night, place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes back once and on at a quarter of the rate: as a run does that is resumed there at that rate by hand."""
    broken = [30, 31, 32]
    breaks(monkeypatch, broken)
    heard: list[Event] = []

    def hear(event: Event) -> None:
        heard.append(event)
        if isinstance(event, RolledBack):
            broken.clear()

    prepared = prepare(convert(night.config()), night.base)
    session.train(prepared, night.run, Resources(2), hear, lambda: False, night.machine.sensors())
    (back,) = kind_of(heard, RolledBack)
    assert (back.step, back.to_step, back.rate_factor) == (33, 28, 0.25)
    assert len(kind_of(heard, StepSkipped)) == 2 and all(row.rpartition(":")[0] == str(place[1]) for row in back.rows)

    by_hand = Night(*place, tmp_path / "by-hand")
    by_hand.stop_at = 28
    with pytest.raises(StoppedEarly):
        by_hand.spend()
    toml = by_hand.run / "run.toml"
    toml.write_text(toml.read_text().replace("rate = 0.01", "rate = 0.0025"))
    changed = prepare(session.read_run_config(by_hand.run), night.base)
    session.resume(by_hand.run, changed, Resources(2), by_hand.hear, lambda: False, True, by_hand.machine.sensors())
    file = "adapter/adapter_model.safetensors"
    assert (night.run / file).read_bytes() == (by_hand.run / file).read_bytes()
    assert all(np.isfinite(array).all() for array in load_arrays(night.run / file).values())


def test_everything_in_one_night(night: Night, calm: bytes) -> None:
    night.machine.sleeps_at(100, HOUR).set_at(150, power=("battery", 10.0)).set_at(400, power=("mains", 11.0))
    night.machine.set_at(450, free=0).set_at(700, free=GB).held_at(800, 60)
    night.machine.set_at(900, tick=5.0, heat=Heat(99.0)).at(1000, lambda each: setattr(each, "wall", each.wall - DAY))
    night.machine.set_at(1100, memory=night.machine.memory._replace(available=1)).set_at(2000, tick=2.0, heat=Heat(50.0))
    night.kill_at = 40
    with pytest.raises(Killed):
        night.spend()
    assert night.spend().adapter == calm
    told = {type(event) for event in night.events}
    assert told >= {Slept, PowerChanged, RunPaused, RunResumed, Throttled, ClockChanged, MemoryShort}
    assert {event.kind for event in night.of(Slept)} == {"asleep", "held"}


def test_24_a_run_that_is_held_for_real(place: tuple[Path, Path], tmp_path: Path) -> None:
    """SIGSTOP for some seconds in the middle of a run: told, and in no step's time."""
    config = tmp_path / "run.toml"
    night = Night(*place, tmp_path)
    values = night.config()
    values["training"]["steps"] = 4000
    config.write_text(to_toml(convert(values)))
    child = process("train", config, "--run", night.run)
    wait_for(lambda: (night.run / "checkpoints" / "LATEST").exists())
    child.send_signal(signal.SIGSTOP)
    time.sleep(4.5)
    child.send_signal(signal.SIGCONT)
    wait_for(lambda: any(isinstance(event, Slept) for event in events(night.run)))
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    (slept,) = kind_of(events(night.run), Slept)
    assert slept.kind == "held" and 3.0 < slept.seconds < 5.5
    assert max(event.seconds for event in kind_of(events(night.run), StepFinished)) < 3.0
