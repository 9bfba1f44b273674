import json
from pathlib import Path

import pytest

from edgetune.cli.main import main
from edgetune.workspace import project_file, projects


def test_from_the_first_to_the_trash_and_back(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["projects"]) == 0
    assert "projects create NAME" in capsys.readouterr().err
    assert main(["projects", "create", "desk", "--model", "starter", "--data", str(rows), "--goal", "g"]) == 0
    assert "edgetune train --project desk" in capsys.readouterr().out
    assert main(["projects"]) == 0
    assert [word for word in capsys.readouterr().out.splitlines()[1].split()][:3] == ["desk", "ready", "starter"]
    assert main(["projects", "rename", "desk", "help"]) == 0
    assert main(["projects", "remove", "help"]) == 2  # nobody can be asked here
    assert main(["projects", "remove", "help", "--yes"]) == 0
    capsys.readouterr()
    assert main(["projects", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["projects"] == [] and [each["name"] for each in told["trash"]] == ["help"]
    assert main(["projects", "restore", "help"]) == 0
    assert project_file.run_config(projects.find_project("help")).data.train == [str(rows)]
    assert main(["projects", "empty-trash", "--yes", "--days", "0"]) == 0


def test_a_broken_project_is_told_and_the_others_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    projects.create("good")
    bad = projects.create("bad")
    bad.file.write_text('[adapter]\nrank = "\x1b[2J"\n'.replace("\x1b", "\\u001b"))
    assert main(["projects"]) == 0
    told = capsys.readouterr()
    assert "good" in told.out and "damaged" in told.out and f"{bad.file}:2" in told.err and "adapter.rank" in told.err
    assert main(["train", "--project", "bad"]) == 2
    assert f"{bad.file}:2" in capsys.readouterr().err
