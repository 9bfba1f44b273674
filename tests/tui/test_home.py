from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from edgetune.config import DataConfig, RunConfig
from edgetune.files import home
from tests.tui.frames import HOSTILE, SIZES, StandIn, compare, frame, recorded_run, run, settle, until
from tui import store
from tui.app import EdgeTune
from tui.screens.choose_files import completions, project_name
from tui.store import Project

pytestmark = pytest.mark.slow  # each opens the whole app
Make = Callable[..., Project]
DAY = 86400.0


def some_projects(project: Make, rows: Path) -> None:
    chats = (str(rows),)
    project("support-bot", "qwen3-0.6b", chats, ({"end": "finished", "loss": 1.561, "rank": 8, "age": DAY}, {"loss": 1.482}))
    project("sql-writer", "llama-3.2-1b", chats, ({"end": "finished", "loss": 0.731, "age": 1.2 * DAY},))
    project("haiku", "smollm2-135m")
    project("legal-tags", "qwen3-1.7b", chats, ({"end": "does_not_fit", "loss": 2.104, "age": 5 * DAY},))


@pytest.mark.parametrize("size", SIZES)
def test_projects_and_the_card_of_the_chosen_one(size: tuple[int, int], project: Make, rows_file: Path) -> None:
    some_projects(project, rows_file)

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("j")
        await settle(pilot)
        compare(app, "home-projects")

    run(play, size)


@pytest.mark.parametrize("size", SIZES)
def test_a_first_start_opens_on_the_starter_ready_to_train_with_one_key(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(store, "spawn", lambda arguments, log: started.append(list(arguments)) or 1)

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await until(pilot, lambda: app.desk.project)
        compare(app, "home-first")
        await pilot.press("enter")
        await until(pilot, lambda: started)
        assert app.screen is app.made["train"] and app.desk.run == store.projects_folder() / "starter" / "runs" / "run-1"

    run(play, size)
    assert started[0][0] == "train" and Path(started[0][1]).is_file()


@pytest.mark.parametrize("size", SIZES)
def test_a_home_without_projects_says_which_key_makes_one(size: tuple[int, int]) -> None:
    store.projects_folder().mkdir(parents=True)

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await settle(pilot)
        compare(app, "home-empty")

    run(play, size)


def test_a_new_project_is_named_and_opens_at_its_model(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    project("old")
    monkeypatch.setattr("tui.screens.model.ask", StandIn(models={"models": []}))

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("n")
        await pilot.press(*"fresh", "enter")
        await until(pilot, lambda: app.screen is app.made.get("model"))
        assert app.desk.name == "fresh" and store.find_project("fresh")

    run(play)


def test_a_name_that_is_taken_or_none_is_explained(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    project("old")
    told: list[str] = []
    monkeypatch.setattr(EdgeTune, "complain", lambda self, message, hint="": told.append(f"{message} {hint}"))

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        for name in ("old", "..", "a/b"):
            await pilot.press("n")
            await pilot.press(*["full_stop" if each == "." else "slash" if each == "/" else each for each in name], "enter")
            await settle(pilot)
        assert {path.name for path in store.projects_folder().iterdir()} == {"old"}
        assert len(told) == 3 and "already" in told[0] and "cannot be a name" in told[1]

    run(play)


def test_rename_and_delete(project: Make) -> None:
    project("first")
    project("second")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("r")
        await pilot.press("end", "2", "enter")
        await until(pilot, lambda: any(each.name.endswith("2") for each in store.all_projects()))
        await settle(pilot)
        await pilot.press("backspace")
        await pilot.press("n")  # no: nothing is deleted
        await settle(pilot)
        assert len(store.all_projects()) == 2
        await pilot.press("backspace")
        await pilot.press("y")
        await until(pilot, lambda: len(store.all_projects()) == 1)

    run(play)
    assert len(list((home() / "trash").iterdir())) == 1


def test_the_filter_hides_and_gives_back(project: Make) -> None:
    project("alpha")
    project("beta")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("slash", "b", "e")
        await settle(pilot)
        assert "beta" in frame(app) and "alpha  " not in frame(app)
        await pilot.press("z", "enter")
        await settle(pilot)
        assert "No project matches" in frame(app)
        await pilot.press("escape")
        await settle(pilot)
        assert "alpha" in frame(app) and app.focused and app.focused.id == "list"

    run(play)


@pytest.mark.parametrize("size", SIZES)
def test_hostile_names_of_folders_and_files_appear_literally(size: tuple[int, int], project: Make) -> None:
    folder = store.projects_folder() / HOSTILE.replace("/", "⁄")[:40]
    folder.mkdir(parents=True)
    store.write_config(Project(folder), RunConfig(model=HOSTILE, data=DataConfig(train=["/x/" + HOSTILE])))
    recorded_run(folder / "runs" / "[@click=app.quit]x", end=HOSTILE)
    (store.projects_folder() / "broken").mkdir()
    (store.projects_folder() / "broken" / "project.toml").write_text('model = "x"\n[/foo]\n')

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("j", "k", "j")
        await settle(pilot)
        text = frame(app)
        assert "\\x1b[31mred" in text and not set(text) & set("\x1b\x9b\x07\u202e\u2066")
        await pilot.press("r")
        await settle(pilot)
        await pilot.press("escape", "backspace", "escape")
        assert app.is_running

    run(play, size)


def test_an_open_app_finds_the_run_that_is_training(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    project("other")
    made = project("busy", "starter", ("x.jsonl",), ({"steps": 7, "total": 9},))
    monkeypatch.setattr(store, "is_alive", lambda folder: folder.parent.parent.name == "busy")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await until(pilot, lambda: app.desk.state.step == 7)
        assert app.desk.project == made and app.desk.is_live and app.screen is app.made["train"]
        assert app.desk.way.train == "now"

    run(play)


def test_paths_are_completed_and_projects_named_after_their_file(tmp_path: Path) -> None:
    for name in ("chats.jsonl", "Chapter.csv", "notes.pdf", ".hidden.jsonl"):
        (tmp_path / name).write_text("x")
    (tmp_path / "cha").mkdir()
    assert [path for path, _ in completions(f"{tmp_path}/ch")] == [
        f"{tmp_path}/{name}" for name in ("cha", "Chapter.csv", "chats.jsonl")
    ]
    assert completions(f"{tmp_path}/none/x") == []
    assert project_name("/x/my rows (1).jsonl", []) == "my-rows-1" and project_name("/x/a.csv", ["a", "a-2"]) == "a-3"
