"""The dashboard in each of its states at both sizes, its keys, and text that would drive the terminal."""

from pathlib import Path

import frames
import pytest
import recorded
from frames import NARROW, WIDE
from textual.pilot import Pilot

from edgetune import events
from edgetune.events import to_line
from edgetune.files import append_line
from tui import dashboard
from tui.app import EdgeTune
from tui.widgets.plot import LossPlot

STATES = ("training", "paused", "stopped", "failed", "finished", "interrupted", "slow")


pytestmark = pytest.mark.usefixtures("still_run")


def opened(run: Path | None) -> EdgeTune:
    """The app with a run open."""
    app = EdgeTune()
    if run:
        app.desk.open_run(run)
        while app.desk.follower and app.desk.follower.poll():
            pass
        app.desk.looked = 0.0
        app.desk.look()
    return app


def run_in(state: str, folder: Path) -> Path:
    """A recorded run in a state."""
    step = 600 if state == "finished" else 412
    found = [*recorded.told(step, 600), *recorded.ending(state, step)]
    return recorded.record(folder / "run-3", found, alive=state in ("training", "paused", "slow"))


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("state", [*STATES, "none"])
def test_frame(state: str, size: tuple[int, int], tmp_path: Path) -> None:
    app = opened(run_in(state, tmp_path) if state != "none" else None)

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        frames.compare(app, f"train-{state}")

    frames.run_app(app, size, steps)


def commands(run: Path) -> list[str]:
    """What was asked of a run."""
    import json

    file = run / "control.jsonl"
    return [json.loads(line)["command"] for line in file.read_text().splitlines()] if file.exists() else []


def test_keys_ask_the_run_and_show_that_they_were_heard(tmp_path: Path) -> None:
    run = run_in("training", tmp_path)
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        await pilot.press("space")
        assert "pausing…" in frames.frame(app)
        append_line(run / "events.jsonl", to_line(events.RunPaused(step=412, reason="asked to pause")))
        app.desk.follow()
        app.show_desk()
        await frames.drawn(pilot)
        assert "pausing…" not in frames.frame(app) and "‖ paused" in frames.frame(app)
        await pilot.press("space", "s", "x")
        await frames.drawn(pilot)
        assert "Stop this run?" in frames.frame(app)
        await pilot.press("y")
        await frames.drawn(pilot)
        await pilot.press("g", *"Hi", "enter")
        await frames.drawn(pilot)

    frames.run_app(app, WIDE, steps)
    assert commands(run) == ["pause", "resume", "save", "stop", "sample"]


def test_zoom_moves_and_comes_back_and_brackets_step_through_the_prompts(tmp_path: Path) -> None:
    app = opened(run_in("training", tmp_path))

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        plot = app.screen.query_one(LossPlot)
        assert plot.window == (0, 600)
        await pilot.press("z")
        assert plot.window == (206, 412)
        await pilot.press("left")
        assert plot.window == (154, 360)
        await pilot.press("right")
        assert plot.window == (206, 412) and plot.end is None  # it follows again
        await pilot.press("home")
        assert plot.window == (0, 600)
        for prompt in (*recorded.PROMPTS[1:], recorded.PROMPTS[0]):
            await pilot.press("]")
            await frames.drawn(pilot)
            assert f"› {prompt}" in frames.frame(app)

    frames.run_app(app, NARROW, steps)


def test_the_log_shows_everything_with_its_hints(tmp_path: Path) -> None:
    app = opened(run_in("failed", tmp_path))

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        await pilot.press("l")
        await frames.drawn(pilot)
        shown = frames.frame(app)
        assert "the machine ran out of memory" in shown and "lower data.max_tokens" in shown and "saved step 400" in shown
        await pilot.press("escape")

    frames.run_app(app, NARROW, steps)


def test_resume_is_offered_where_a_run_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tui import store

    spawned: list[list[str]] = []
    monkeypatch.setattr(store, "spawn", lambda arguments, log: spawned.append(list(arguments)) or 0)
    run = run_in("stopped", tmp_path)
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        await pilot.press("space", "s")  # mean nothing here
        await pilot.press("r")
        assert "resuming…" in frames.frame(app)

    frames.run_app(app, NARROW, steps)
    assert spawned == [["resume", str(run)]] and commands(run) == []


def test_a_run_that_could_not_begin_says_why(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    run.mkdir()
    (run.parent / "run-1.log").write_text("\x1b[31merror:\x1b[0m no such file: a.jsonl\nhint: choose another in 2 Data\n")
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        shown = frames.frame(app)
        assert "✗ failed" in shown and "no such file: a.jsonl" in shown and "choose another in 2 Data" in shown

    frames.run_app(app, NARROW, steps)


def test_a_run_that_begins_shows_what_it_does(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        assert "◌ starting" in frames.frame(app) and "reading the model and the rows" in frames.frame(app)

    frames.run_app(app, NARROW, steps)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_hostile_text_appears_literally(size: tuple[int, int], tmp_path: Path) -> None:
    evil = recorded.HOSTILE
    found = recorded.told(412, 600, prompts=(evil,), reply=evil)
    found += [events.Warned(message=evil, hint=evil), events.RunFailed(kind="x", message=evil, hint=evil)]
    app = opened(recorded.record(tmp_path / "run-3", found))

    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        shown = frames.frame(app)
        assert "[/foo][@click=app.exit]x[/]" in shown
        await pilot.press("l")
        await frames.drawn(pilot)
        shown += frames.frame(app)
        assert shown.count("[/foo]") >= 4 and app.is_running
        assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}

    frames.run_app(app, size, steps)


def test_times_and_numbers_keep_their_places() -> None:
    assert [dashboard.clock(seconds) for seconds in (9, 312, 3900, 90_000)] == ["0:09", "5:12", "1:05:00", "1 d 01 h"]
    assert [dashboard.power(rate) for rate in (2e-4, 1.13e-5, 0.0)] == ["2.0e-4", "1.1e-5", "0"]
