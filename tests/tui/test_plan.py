"""The plan screen: the form, its live cost, suggestions, and what stands in a start's way. The child is played."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import frames
import msgspec
import pytest
import recorded
from frames import NARROW, WIDE
from textual.pilot import Pilot

from edgetune.config import DataConfig, RunConfig, load, to_toml
from edgetune.planner.facts import Facts
from edgetune.planner.plan import replan
from tui import plan_form, store
from tui.app import EdgeTune
from tui.child import ChildError
from tui.plan_view import improved
from tui.screens import plan as plan_module
from tui.screens.plan import PlanScreen, seconds_until

FACTS: dict[str, Any] = json.loads((Path(__file__).parent / "facts.json").read_text())


class Child:
    """Plays `edgetune plan`: answers with facts, or refuses."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.facts = dict(FACTS)
        self.error: ChildError | None = None

    async def __call__(self, arguments: list[str], on_event: Any = None) -> dict[str, Any]:
        self.asked.append(arguments)
        if self.error:
            raise self.error
        return {"facts": self.facts}


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    played = Child()
    monkeypatch.setattr(plan_module, "ask", played)
    return played


def opened(model: str = "starter", rows: str = "a.jsonl") -> EdgeTune:
    """The app with a project open."""
    app = EdgeTune()
    data = DataConfig(train=[rows] if rows else [], max_tokens=256)
    app.desk.project = store.create("support-bot", RunConfig(model=model, data=data))
    app.desk.put(RunConfig(model=model, data=data))
    return app


async def show(app: EdgeTune, pilot: Pilot[None]) -> PlanScreen:
    """The plan screen, once the child has answered."""
    app.open_screen("plan")
    await frames.drawn(pilot)
    await app.workers.wait_for_complete()
    await frames.drawn(pilot)
    assert isinstance(app.screen, PlanScreen)
    return app.screen


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("state", ["fits", "tight", "no-model", "no-data", "refused"])
def test_frame(state: str, size: tuple[int, int], child: Child) -> None:
    app = opened("" if state == "no-model" else "starter", "" if state == "no-data" else "a.jsonl")
    if state == "tight":
        child.facts["usable_bytes"] = 100_000_000
    if state == "refused":
        child.error = ChildError("no such file: a.jsonl", "choose another in 2 Data", "data", 3)

    async def steps(pilot: Pilot[None]) -> None:
        await show(app, pilot)
        frames.compare(app, f"plan-{state}")

    frames.run_app(app, size, steps)


def test_every_key_of_the_config_is_in_the_form_and_edits_read_back() -> None:
    keys = {row.key for row in plan_form.rows()}
    config = RunConfig(model="m", data=DataConfig(train=["a"]))
    values = msgspec.to_builtins(config)
    values.pop("model")
    assert keys | {"data.train"} == {f"{section}.{name}" for section, inner in values.items() for name in inner}
    for row in plan_form.rows():
        value = row.value(config)
        again = plan_form.parsed(plan_form.editable(value), value)
        assert (tuple(again) if isinstance(value, tuple) else again) == value, row.key


def test_a_change_costs_at_once_and_can_be_undone(child: Child) -> None:
    app = opened()

    async def steps(pilot: Pilot[None]) -> None:
        screen = await show(app, pilot)
        assert screen.plan is not None
        peak = screen.plan.memory.peak_bytes
        await pilot.press("down", "right")
        assert app.desk.config.adapter.rank == 32 and screen.plan.memory.peak_bytes > peak
        await pilot.press("enter", "backspace", "backspace", "8", "enter")
        await frames.drawn(pilot)
        assert app.desk.config.adapter.rank == 8 and screen.plan.memory.peak_bytes < peak
        await pilot.press("enter", "backspace", "0", "enter")
        await frames.drawn(pilot)
        assert "adapter.rank: it must be a whole number, at least 1" in frames.frame(app)
        await pilot.press("escape", "u", "u")
        await frames.drawn(pilot)
        assert app.desk.config.adapter.rank == 16 and screen.plan.memory.peak_bytes == peak
        assert len(child.asked) == 1  # nothing of this needs the model or the rows

    frames.run_app(app, WIDE, steps)


def test_a_suggestion_is_applied_with_enter(child: Child) -> None:
    app = opened()

    async def steps(pilot: Pilot[None]) -> None:
        screen = await show(app, pilot)
        assert screen.plan is not None
        first = dict(screen.plan.suggestions[0].settings)
        await pilot.press("tab", "enter")
        await frames.drawn(pilot)
        for key, value in first.items():
            section, _, name = key.partition(".")
            assert getattr(getattr(app.desk.config, section), name) == value

    frames.run_app(app, WIDE, steps)


def test_auto_makes_it_fit_and_a_start_before_that_is_refused_in_place(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    child.facts["usable_bytes"] = 100_000_000
    spawned: list[list[str]] = []
    monkeypatch.setattr(store, "spawn", lambda arguments, log: spawned.append(list(arguments)) or 0)
    app = opened()

    async def steps(pilot: Pilot[None]) -> None:
        screen = await show(app, pilot)
        await pilot.press("ctrl+r")
        await frames.drawn(pilot)
        assert "It does not fit into this machine" in frames.frame(app) and not spawned
        await pilot.press("a")
        await frames.drawn(pilot)
        assert screen.plan is not None and screen.plan.fits
        await pilot.press("ctrl+r")
        await frames.drawn(pilot)
        assert app.screen is app.made["train"]

    frames.run_app(app, WIDE, steps)
    assert [arguments[0] for arguments in spawned] == ["train"]
    assert load(Path(spawned[0][1])).training == app.desk.config.training


def test_done_by_takes_time_away() -> None:
    facts = msgspec.convert(FACTS, Facts)
    config = RunConfig(model="m", data=DataConfig(train=["a"], max_tokens=256))
    before = replan(facts, config).time.seconds
    after, done = improved(facts, config, lambda plan: plan.time.seconds < 0.7 * before)
    assert done and replan(facts, after).time.seconds < before
    now = datetime(2026, 11, 28, 23, 30)
    assert [seconds_until(text, now) for text in ("7:00", "23:45", "2h", "45 min", "soon")] == [27_000, 900, 7200, 2700, None]


def test_the_copied_line_makes_the_same_run(child: Child, tmp_path: Path) -> None:
    import shlex

    app = opened()

    async def steps(pilot: Pilot[None]) -> None:
        screen = await show(app, pilot)
        app.desk.change(**{"adapter.rank": 8, "adapter.targets": ["q_proj"], "training.rate": 3e-5, "checks.samples": ["a b"]})
        await pilot.press("y")
        await frames.drawn(pilot)
        words = shlex.split(screen.command_line())
        assert app.clipboard == screen.command_line() and words[:2] == ["edgetune", "train"]
        base = tmp_path / "base.toml"  # another project's file with the same model and rows
        base.write_text(to_toml(RunConfig(model="starter", data=DataConfig(train=["a.jsonl"]))))
        again = load(base, words[4::2])
        assert (again.adapter, again.training, again.checks) == (
            app.desk.config.adapter, app.desk.config.training, app.desk.config.checks,
        )  # fmt: skip

    frames.run_app(app, WIDE, steps)


def test_timing_asks_a_child_for_real_steps(child: Child) -> None:
    app = opened()

    async def steps(pilot: Pilot[None]) -> None:
        await show(app, pilot)
        await pilot.press("t")
        await app.workers.wait_for_complete()
        await frames.drawn(pilot)

    frames.run_app(app, WIDE, steps)
    assert [arguments[0] for arguments in child.asked] == ["plan", "plan"]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_hostile_text_appears_literally(size: tuple[int, int], child: Child) -> None:
    evil = recorded.HOSTILE
    child.error = ChildError(evil, evil, "data", 3)
    app = opened()
    app.desk.change(**{"checks.samples": [evil], "adapter.init_from": evil})

    async def steps(pilot: Pilot[None]) -> None:
        await show(app, pilot)
        shown = frames.frame(app)
        assert "[/foo][@click=app.exit]x[/]" in shown and not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}

    frames.run_app(app, size, steps)


def test_a_child_that_refuses_has_told_its_facts_nevertheless() -> None:
    from tui.child import answer_of

    for out in (
        b'{"facts": {"a": 1}, "error": {"message": "no", "hint": "h"}}\n',
        b'{"facts": {"a": 1}}\n{"error": {"message": "no"}}\n',
    ):
        with pytest.raises(ChildError) as caught:
            answer_of(out, b"", 4)
        assert caught.value.message == "no" and caught.value.document == {"facts": {"a": 1}}
