import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from edgetune.config import DataConfig
from edgetune.errors import ConfigError, InputError, Refused
from edgetune.events import RunStarted, ValidationFinished, to_line
from edgetune.locks import only_holder
from edgetune.workspace import project_file, projects
from edgetune.workspace.runs import every_run, find_run, name_of

STARTED = RunStarted(
    run="r", first_step=0, total_steps=9, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1,
    trained_tokens=1, planned_peak_bytes=1,
)  # fmt: skip
VALID = ValidationFinished(step=4, loss=1.25, tokens=1, seconds=1, best=True)


def with_run(project: project_file.Project, name: str) -> Path:
    run = project.runs / name
    run.mkdir(parents=True)
    (run / "run.toml").write_text('model = "tiny"\n')
    (run / "events.jsonl").write_bytes(to_line(STARTED) + b"\n" + to_line(VALID) + b"\n")
    return run


def test_a_project_is_made_and_found_however_its_name_is_written() -> None:
    made = projects.create("Desk", goal='answers, "short"\n')
    assert projects.find_project("dESK") == made and projects.all_projects() == [made]
    assert project_file.read_about(made).goal == 'answers, "short"\n'
    assert projects.overview(made).stage == "model"
    with pytest.raises(InputError, match="there is a project desk already"):
        projects.create("desk")
    with pytest.raises(InputError, match="no project 'Dsk'") as error:
        projects.find_project("Dsk")
    assert "Desk" in error.value.hint


@pytest.mark.parametrize("name", ["", "..", "a/b", ".x", "-x", "CON", "a b", "x" * 65, "\x1b[2J"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match="cannot be a name"):
        projects.create(name)
    assert projects.all_projects() == []


def test_the_config_is_kept_while_it_is_not_whole() -> None:
    project = projects.create("a", goal="g")
    config = replace(project_file.empty_config(), data=DataConfig(train=["x.jsonl"], max_tokens=77))
    project_file.write_config(project, config)
    assert project_file.read_both(project) == (config, project_file.read_about(project))
    assert project_file.read_about(project).goal == "g" and project_file.read_about(project).created
    assert projects.overview(project).stage == "model"
    with pytest.raises(ConfigError, match="no base model chosen yet"):
        project_file.run_config(project)
    whole = project_file.run_config(project, ["model=starter", "training.rate=1e-3"])
    assert whole.training.rate == 1e-3 and whole.data.train == [str(project.folder / "x.jsonl")]
    project_file.write_config(project, replace(config, model="starter"), goal="h")
    assert projects.overview(project).stage == "ready" and project_file.read_about(project).goal == "h"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('model = "m"\n[data]\ntrain = []\nmax_tokens = "x"\n', 4, "data.max_tokens"),
        ('model = "m"\n\n[adapter]\nrank = 8\nrnak = 8\n', 5, "unknown key adapter.rnak"),
        ('modl = "m"\n', 1, "unknown key modl"),
        ('[training]\nrate = 7\n[project]\ngoal = "g"\n', 2, "training.rate"),
        ('[project]\ngoal = "g"\ncreated = 5\n', 3, "project.created"),
    ],
)
def test_a_file_that_was_edited_by_hand_is_told_with_key_and_line(text: str, line: int, words: str) -> None:
    project = projects.create("a")
    project.file.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        project_file.read_config(project)
    assert str(error.value).startswith(f"{project.file}:{line}: ")


@pytest.mark.parametrize("content", [b"model = ", b"\xff", b"\x00", b"project = 3\n", b'data = "x"\n', b"[project]\nnew = 1\n"])
def test_a_broken_project_does_not_break_the_list(content: bytes) -> None:
    projects.create("good")
    bad = projects.create("bad")
    bad.file.write_bytes(content)
    found = {each.name: each for each in projects.all_overviews()}
    assert found["bad"].stage == "damaged" and str(bad.file) in found["bad"].problem and found["good"].stage == "model"


def test_how_far_a_project_is() -> None:
    config = replace(project_file.empty_config(), model="starter")
    project = projects.create("a", config)
    assert projects.overview(project).stage == "data"
    run = with_run(project, "run-1")
    seen = projects.overview(project)
    assert (seen.stage, seen.best_loss, seen.run and seen.run.total_steps) == ("interrupted", 1.25, 9)
    assert projects.next_run(project).name == "run-2" and projects.run_folders(project) == [run]
    assert projects.bytes_in(project.folder) > 300


def test_runs_of_projects_are_found_by_their_names() -> None:
    a, b = projects.create("a"), projects.create("b")
    one, other = with_run(a, "run-1"), with_run(b, "run-2")
    assert find_run("run-1") == one and find_run("B/run-2") == other
    assert name_of(one) == "a/run-1" and find_run(name_of(one)) == one
    assert {each.project for each in every_run()} == {"a", "b"}
    with_run(b, "run-1")
    with pytest.raises(InputError, match="more than one") as error:
        find_run("run-1")
    assert "a/run-1" in error.value.hint and "b/run-1" in error.value.hint


def test_a_project_whose_run_trains_stays_where_it_is() -> None:
    project = projects.create("a")
    run = with_run(project, "run-1")
    with only_holder(run / "run.lock"):
        for wish in (lambda: projects.rename(project, "b"), lambda: projects.remove(project)):
            with pytest.raises(Refused, match="run-1 trains"):
                wish()
    assert projects.rename(project, "b").name == "b"


def test_only_the_case_of_a_name_may_change() -> None:
    project = projects.create("desk")
    projects.create("other")
    assert projects.rename(project, "Desk").name == "Desk"
    with pytest.raises(InputError, match="there is a project OTHER already"):
        projects.rename(projects.find_project("desk"), "OTHER")


def test_what_is_removed_can_be_taken_out_of_the_trash(monkeypatch: pytest.MonkeyPatch) -> None:
    project = projects.create("Desk", goal="first")
    with_run(project, "run-1")
    trash = projects.remove(project)
    assert projects.all_projects() == [] and (trash / "runs" / "run-1").is_dir()
    projects.remove(projects.create("Desk", goal="second"))
    assert [each.name for each in projects.trashed()] == ["Desk", "Desk"]
    back = projects.restore("desk")
    assert project_file.read_about(back).goal == "second"
    with pytest.raises(InputError, match="there is a project Desk already"):
        projects.restore("desk")
    assert projects.empty_trash() == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31 * 86400)
    assert projects.empty_trash() == 1 and projects.trashed() == []
    with pytest.raises(InputError, match="lies in the trash"):
        projects.restore("desk")
