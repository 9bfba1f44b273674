"""The README's pictures are what the app draws: made here from a recorded run, so that they cannot grow stale."""

import re
from pathlib import Path

import frames
import pytest
import recorded
from talkers import Talker
from textual.pilot import Pilot

from tui import side as side_module
from tui.app import EdgeTune
from tui.widgets.prompt import Prompt

pytestmark = pytest.mark.slow  # each opens the whole app
ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"terminal-\d+")  # the only thing in a picture that is another every time


def picture(app: EdgeTune, name: str) -> None:
    """The picture is the one that is stored, and the README shows it."""
    file = ROOT / ".github" / "screens" / f"{name}.svg"
    drawn = NUMBER.sub("terminal", app.export_screenshot(title="edgetune"))
    if frames.UPDATE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(drawn, "utf-8")
    assert drawn == file.read_text("utf-8"), f"{file.name} differs: look at both, then UPDATE_FRAMES=1 if the new one is meant"
    assert f"(.github/screens/{name}.svg)" in (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = recorded.record(tmp_path / "run-3", recorded.told(412, 600), alive=True)
    (run / "adapter").mkdir()
    return run


@pytest.fixture
def app(run: Path, still_run: None, monkeypatch: pytest.MonkeyPatch) -> EdgeTune:
    monkeypatch.setattr(side_module, "Talker", Talker)
    answers = {
        "Qwen3-0.6B-4bit": "I'm sorry to hear that. Could you tell me more about your parcel? For example the order number.",
        "adapter": "I am sorry it is late. I have opened a trace with the courier and you will get a mail today.",
    }
    monkeypatch.setattr(Talker, "answers", answers)
    opened = EdgeTune()
    opened.desk.change(model="Qwen3-0.6B-4bit")
    opened.desk.open_run(run)
    while opened.desk.follower and opened.desk.follower.poll():
        pass
    return opened


def test_the_dashboard(app: EdgeTune) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("train")
        await frames.drawn(pilot)
        picture(app, "train")

    frames.run_app(app, (120, 34), steps)


def test_compare(app: EdgeTune) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        app.open_screen("compare")
        await frames.drawn(pilot)
        prompt = app.screen.query_one(Prompt)
        prompt.load_text("My parcel never came, what now?")
        await pilot.press("enter")
        await frames.until(pilot, lambda: frames.frame(app).count("84 tok/s") == 2)
        await pilot.press("escape")
        await frames.drawn(pilot)
        picture(app, "compare")

    frames.run_app(app, (120, 24), steps)
