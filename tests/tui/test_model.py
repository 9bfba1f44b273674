from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from edgetune.events import Progress, to_line
from edgetune.workspace.job import JobStatus
from tests.tui.frames import HOSTILE, SIZES, StandIn, compare, frame, run, settle, until
from tui.app import EdgeTune
from tui.child import ChildError
from tui.fetch import Fetch
from tui.store import Project

pytestmark = pytest.mark.slow  # each opens the whole app
Make = Callable[..., Project]
PARTS = {
    "weights": 1.19e9,
    "trained": 4e7,
    "optimizer": 8e7,
    "gradients": 8e7,
    "activations": 4.2e8,
    "scratch": 1.6e8,
    "rows": 4e5,
    "interpreter": 1.5e8,
}


def model(name: str, **facts: Any) -> dict[str, Any]:
    parts = {part: int(number) for part, number in PARTS.items()}
    return {
        "name": name, "repository": f"Maker/{name}", "path": None, "family": "qwen3", "parameters": 596_049_920, "bytes": 1_192_099_840,
        "license": "apache-2.0", "fits": True, "problem": "", "summary": "Small, many languages", "gated": False, "layers": 28,
        "context": 40960, "template": True, "to_train": parts, "to_train_bytes": sum(parts.values()), **facts,
    }  # fmt: skip


def document(*models: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"models": list(models), "unfinished": [], "usable_bytes": 11_800_000_000, "offline": False, **more}


CATALOGUE = document(
    model("starter", path="/m/starter", parameters=5_245_440, bytes=10_500_000, license="mit"),
    model("qwen3-0.6b", path="/m/qwen"),
    model("gemma-3-1b", gated=True, license="gemma", to_train_bytes=10_900_000_000),
    model("mistral-7b", fits=False, to_train_bytes=18_400_000_000),
    model("mine", path="/m/mine", problem="has no tensor model.norm.weight", fits=False, to_train={}, to_train_bytes=0),
    unfinished=[{"name": "Maker/mistral-7b", "bytes": 4_000_000_000}],
)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn(models=CATALOGUE)
    monkeypatch.setattr("tui.screens.model.ask", stand_in)
    return stand_in


async def to_model(pilot: Pilot[None]) -> None:
    await pilot.press("1")
    await settle(pilot)


@pytest.mark.parametrize("size", SIZES)
def test_models_with_what_training_takes(size: tuple[int, int], project: Make, answers: StandIn) -> None:
    project("support-bot", "qwen3-0.6b")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_model(pilot)
        compare(app, "model")

    run(play, size)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (2, "licence is accepted"),
        (3, "goes on: 4 GB of 1.19 GB are here"),
        (4, "has no tensor"),
    ],
)
def test_what_keeps_a_model_away_is_explained(line: int, told: str, project: Make, answers: StandIn) -> None:
    project("support-bot")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_model(pilot)
        await pilot.press(*["j"] * line)
        await settle(pilot)
        assert " ".join(told.split()) in " ".join(frame(app).replace("│", " ").replace("\n", " ").split())

    run(play)


@pytest.mark.parametrize("size", SIZES)
def test_an_error_says_what_and_which_key_looks_again(size: tuple[int, int], project: Make, answers: StandIn) -> None:
    project("support-bot")
    answers.documents["models"] = ChildError("is no catalogue entry: x.toml", "install EdgeTune again")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_model(pilot)
        compare(app, "model-error")
        answers.documents["models"] = CATALOGUE
        await pilot.press("r")
        await settle(pilot)
        assert "qwen3-0.6b" in frame(app)

    run(play, size)


def test_filters_and_taking_a_model(project: Make, answers: StandIn) -> None:
    project("support-bot")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_model(pilot)
        await pilot.press("f")
        assert "mistral" not in frame(app)
        await pilot.press("slash", "0", "full_stop", "6", "enter")
        await settle(pilot)
        assert "1 of 5" in frame(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.desk.base_model == "qwen3-0.6b")
        assert app.screen is app.made["data"] and app.desk.way.model == "done"

    run(play)


class Download:
    """A job that downloads until it is cancelled."""

    def __init__(self, folder: Path):
        self.events, self.state, self.begun = folder / "events.jsonl", "running", list[list[str]]()

    def start(self, arguments: list[str]) -> "Download":
        self.begun.append(arguments)
        return self

    def poll(self) -> JobStatus:
        return JobStatus(self.state)

    def cancel(self) -> None:
        self.state = "cancelled"

    def tell(self, second: int) -> None:
        with self.events.open("ab") as file:
            told = Progress(stage="fetching", done=1e9 * second, total=10e9, unit="bytes", time=100.0 + second)
            file.write(to_line(told) + b"\n")


def test_a_download_shows_its_rate_and_is_cancelled(
    project: Make, answers: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("support-bot")
    slow = Download(tmp_path)
    monkeypatch.setattr("tui.fetch.jobs.start", slow.start)

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_model(pilot)
        await pilot.press("G", "k", "d")
        fetch = app.made["model"].fetch  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(fetch, Fetch) and slow.begun == [["models", "get", "Maker/mistral-7b"]]
        for second in range(3):
            slow.tell(second)
        await until(pilot, lambda: "20.0 %" in frame(app))
        assert "1 GB/s" in frame(app) and "8.0 s left" in frame(app)
        await pilot.press("x")
        await until(pilot, lambda: app.made["model"].fetch is None)  # pyright: ignore[reportAttributeAccessIssue]

        assert slow.state == "cancelled" and any("is not complete" in told.title for told in app._notifications)

    run(play)


def test_a_download_that_went_on_while_the_app_was_closed_is_shown(
    project: Make, answers: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("support-bot")
    slow = Download(tmp_path)
    slow.tell(3)
    monkeypatch.setattr(Fetch, "at_work", lambda: Fetch("Maker/mistral-7b", slow))  # type: ignore[arg-type]

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_model(pilot)
        await until(pilot, lambda: "30.0 %" in frame(app))

    run(play)


def test_hostile_facts_of_a_model_appear_literally(
    project: Make, answers: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("support-bot")
    monkeypatch.setattr("tui.fetch.jobs.start", Download(tmp_path).start)
    answers.documents["models"] = document(
        model(HOSTILE, license=HOSTILE, summary=HOSTILE, family=HOSTILE, path="/x"), model("b", problem=HOSTILE, path="/y")
    )

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_model(pilot)
        assert "[/foo] [@click=app.quit]x[/] $primary" in " ".join(
            frame(app).replace("│", " ").replace("\n", " ").split()
        ) or "[/foo]" in frame(app)
        await pilot.press("j", "enter", "d")
        await settle(pilot)
        assert not set(frame(app)) & set("\x1b\x9b\x07\u202e\u2066") and app.is_running

    run(play)
