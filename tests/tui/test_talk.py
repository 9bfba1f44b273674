"""Compare and chat: what is asked, streamed, stopped, rated and corrected. The children are played."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import frames
import pytest
import recorded
from frames import NARROW, WIDE
from talkers import Talker
from textual.pilot import Pilot

from tui import side as side_module
from tui.app import EdgeTune
from tui.child import ChildError
from tui.ratings import ratings
from tui.screens import compare as compare_module
from tui.screens.compare import CompareScreen
from tui.widgets.prompt import Prompt

pytestmark = pytest.mark.slow  # each opens the whole app
PROMPT = "My parcel never came, what now?"
Play = Callable[[Pilot[None], EdgeTune], Awaitable[None]]


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_module, "Talker", Talker)
    monkeypatch.setattr(Talker, "asked", [])
    monkeypatch.setattr(Talker, "closed", [])
    answers = {"base-0.6b": "I'm sorry to hear that. Which parcel?", "adapter": "I opened a trace with the courier today."}
    monkeypatch.setattr(Talker, "answers", answers)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = recorded.record(tmp_path / "run-3", recorded.told(600, 600))
    (made / "run.toml").write_text((made / "run.toml").read_text().replace("Qwen3-0.6B-4bit", "base-0.6b"))
    (made / "adapter").mkdir()
    return made


def play(run: Path | None, size: tuple[int, int], screen: str, steps: Play) -> None:
    app = EdgeTune()
    if run:
        app.desk.change(model="base-0.6b")
        app.desk.open_run(run)

    async def all_steps(pilot: Pilot[None]) -> None:
        app.open_screen(screen)
        await frames.drawn(pilot)
        await steps(pilot, app)

    frames.run_app(app, size, all_steps)


async def ask(pilot: Pilot[None], text: str = PROMPT) -> None:
    """Types the end into the prompt, which has the focus, and sends."""
    prompt = pilot.app.focused
    assert isinstance(prompt, Prompt)
    prompt.load_text(text[:-1])
    prompt.move_cursor(prompt.document.end)
    keys = {"?": "question_mark"}
    await pilot.press(keys.get(text[-1], text[-1]), "enter")
    await frames.drawn(pilot)


async def answered(pilot: Pilot[None], app: EdgeTune, number: int = 2) -> None:
    await frames.until(pilot, lambda: frames.frame(app).count("84 tok/s") >= number)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_both_get_the_same_prompt_and_seed_and_a_rating_is_kept(size: tuple[int, int], run: Path, isolated: Path) -> None:
    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        frames.compare(app, "compare-before")
        await ask(pilot)
        await answered(pilot, app, 2 if size == WIDE else 1)
        await frames.until(pilot, lambda: "[ A" in frames.frame(app) or "rate with" in frames.frame(app))
        await pilot.press("escape")
        await frames.drawn(pilot)
        frames.compare(app, "compare-answered")
        await pilot.press("right_square_bracket")
        await frames.drawn(pilot)
        assert "1 rated" in frames.frame(app) and "B wins 100.0 %" in frames.frame(app)
        await pilot.press("left_square_bracket")  # nothing is asked any more: it is not rated twice
        assert "1 rated" in frames.frame(app)

    play(run, size, "compare", steps)
    first, second = Talker.asked
    assert {first["of"], second["of"]} == {"base-0.6b", "adapter"}
    assert {**first, "of": ""} == {**second, "of": ""} and first["ask"] == PROMPT and first["turns"] == []
    (kept,) = ratings(isolated / "ratings.jsonl")
    assert (kept.verdict, kept.blind, kept.reply_b) == ("b", False, "I opened a trace with the courier today.")


@pytest.mark.parametrize("swapped", [False, True])
def test_blind_hides_which_is_which_until_it_is_rated(
    swapped: bool, run: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module.random, "random", lambda: 0.1 if swapped else 0.9)

    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("f3")
        await ask(pilot)
        await answered(pilot, app)
        await frames.until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.asked)
        shown = frames.frame(app)
        assert "A · left" in shown and "B · right" in shown and "base" not in shown and "run-3" not in shown
        at_left = "trace" if swapped else "sorry"
        assert shown.index(at_left) < shown.index("sorry" if swapped else "trace")
        await pilot.press("escape", "left_square_bracket")
        await frames.drawn(pilot)
        assert "run-3 · best" in frames.frame(app)

    play(run, WIDE, "compare", steps)
    (kept,) = ratings(isolated / "ratings.jsonl")
    assert kept.blind and kept.verdict == ("b" if swapped else "a") and kept.a.startswith("base")


def test_held_out_prompts_come_one_after_the_other(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[list[str]] = []

    async def data(arguments: list[str], on_event: Any = None) -> dict[str, Any]:
        questions.append(arguments)
        return {"held_out": [{"prompt": "One?", "answer": "1"}, {"prompt": "Two?", "answer": "2"}]}

    monkeypatch.setattr(compare_module, "ask", data)

    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        for number in range(3):
            await pilot.press("f4")
            await frames.until(pilot, lambda number=number: len(Talker.asked) == 2 * number + 2)
            await frames.until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.asked)

    play(run, WIDE, "compare", steps)
    assert [each["ask"] for each in Talker.asked[::2]] == ["One?", "Two?", "One?"]
    assert len(questions) == 1 and questions[0][-4:] == ["--model", "base-0.6b", "--held-out", "200"]


def test_a_correction_becomes_a_row_of_the_project(run: Path, isolated: Path) -> None:
    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        await ask(pilot)
        await answered(pilot, app)
        await frames.until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.asked)
        await pilot.press("escape", "c")
        await frames.drawn(pilot)
        assert "What should it have said?" in frames.frame(app)
        await pilot.press("space", "O", "K", "ctrl+s")
        await frames.drawn(pilot)
        assert app.desk.config.data.train == [str(isolated / "corrections.jsonl")]

    play(run, WIDE, "compare", steps)
    (row,) = map(json.loads, (isolated / "corrections.jsonl").read_text().splitlines())
    assert [message["content"] for message in row["messages"]] == [PROMPT, "I opened a trace with the courier today. OK"]


def test_escape_stops_both_then_leaves_the_prompt_then_leads_home(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Talker, "answers", {"base-0.6b": "It begins …", "adapter": "So does … this"})

    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        await ask(pilot)
        await frames.until(pilot, lambda: "It begins ▌" in frames.frame(app))
        await pilot.press("escape")
        await frames.until(pilot, lambda: frames.frame(app).count("stopped") == 2)
        assert isinstance(app.screen, CompareScreen)
        await pilot.press("escape")
        assert app.focused is app.screen.query_one("#said-a")
        await pilot.press("escape")
        await frames.drawn(pilot)
        assert app.screen is app.made["home"]

    play(run, WIDE, "compare", steps)


def test_chat_remembers_retries_and_takes_back(run: Path) -> None:
    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        frames.compare(app, "chat-before")
        await ask(pilot, "Hello")
        await answered(pilot, app, 1)
        await ask(pilot, "And then?")
        await answered(pilot, app, 2)
        await pilot.pause(0.1)
        frames.compare(app, "chat-answered")
        await pilot.press("f3")
        await frames.until(pilot, lambda: len(Talker.asked) == 3)
        await answered(pilot, app, 2)
        await pilot.pause(0.1)
        await pilot.press("f4")
        await frames.drawn(pilot)
        assert frames.frame(app).count("84 tok/s") == 1 and "And then?" in frames.frame(app)
        await pilot.press("f5")
        await frames.drawn(pilot)
        assert "84 tok/s" not in frames.frame(app)

    play(run, NARROW, "chat", steps)
    first, second, third = Talker.asked
    assert first["turns"] == [] and second["turns"] == [{"user": "Hello", "reply": Talker.answers["adapter"]}]
    assert (third["ask"], third["turns"], third["seed"]) == ("And then?", second["turns"], second["seed"] + 1)


def test_settings_reach_the_next_answer_and_bad_ones_do_not(run: Path) -> None:
    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("f2")
        await frames.drawn(pilot)
        frames.compare(app, "talk-settings")
        form = app.screen
        form.query_one("#temperature").focus()
        await pilot.press("end", *["backspace"] * 3, "9", "9", "ctrl+s")
        await frames.drawn(pilot)
        assert app.screen is form and "temperature" in frames.frame(app)
        await pilot.press(*["backspace"] * 2, "0", "ctrl+s")
        await frames.drawn(pilot)
        assert app.screen is not form
        app.screen.query_one("#prompt").focus()
        await ask(pilot, "Hello")
        await answered(pilot, app, 1)

    play(run, NARROW, "chat", steps)
    assert Talker.asked[0]["temperature"] == 0.0


@pytest.mark.parametrize("screen", ["chat", "compare"])
def test_what_cannot_answer_says_why_and_the_app_goes_on(screen: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b]52;c;aGk=\x07[/foo] [@click=app.exit]x[/] \u202egnp"
    monkeypatch.setattr(Talker, "answers", {"base-0.6b": f"!{evil}", "adapter": f"!{evil}"})

    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        await ask(pilot)
        await frames.until(pilot, lambda: "name another with f2" in frames.frame(app))
        assert "[/foo]" in frames.frame(app) and not set(frames.frame(app)) & set("\x1b\x07\u202e") and app.is_running

    play(run, WIDE, screen, steps)


@pytest.mark.parametrize("screen", ["chat", "compare"])
def test_hostile_answers_appear_literally(screen: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b[2J [/foo] [@click=app.exit]x[/] \x9b31m \u202egnp.exe"
    monkeypatch.setattr(Talker, "answers", {"base-0.6b": evil, "adapter": evil})

    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        await ask(pilot)
        await answered(pilot, app, 1)
        shown = frames.frame(app)
        assert "[/foo]" in shown and "\\x1b[2J" in shown and not set(shown) & set("\x1b\x9b\u202e") and app.is_running

    play(run, WIDE, screen, steps)


@pytest.mark.parametrize("screen", ["chat", "compare"])
def test_where_there_is_nothing_to_talk_with_the_screen_says_what_is_missing(screen: str) -> None:
    async def steps(pilot: Pilot[None], app: EdgeTune) -> None:
        frames.compare(app, f"{screen}-nothing")
        await ask(pilot, "Hello")
        assert [told.title for told in app._notifications] == ["That did not work"]

    play(None, NARROW, screen, steps)
    assert Talker.asked == []


def test_a_child_that_died_is_a_sentence() -> None:
    from tui.talk import died

    error = died(-9)
    assert isinstance(error, ChildError) and "killed (signal 9)" in error.message and "opened anew" in error.hint
