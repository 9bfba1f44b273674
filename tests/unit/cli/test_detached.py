import json
import time
from pathlib import Path

import pytest

from edgetune.cli.detached import error_of, without
from edgetune.cli.main import main
from edgetune.errors import ChildFailed, ConfigError, StoppedEarly, VerificationFailed
from edgetune.workspace import jobs
from edgetune.workspace.job import JobStatus
from edgetune.workspace.runs import runs_folder


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["train", "x.toml", "--detach", "--json"], ["train", "x.toml"]),
        (["train", "--events", "e", "x.toml", "--run", "r", "--events=e", "--run=r"], ["train", "x.toml"]),
        (["eval", "--data", "--detach.jsonl", "--detach"], ["eval", "--data", "--detach.jsonl"]),
        (["export", "--detach", "--", "--json", "--detach"], ["export", "--", "--json", "--detach"]),
        (["train", "--events"], ["train"]),
    ],
)
def test_the_childs_command_line(given: list[str], kept: list[str]) -> None:
    assert without(given, "--run") == kept


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (JobStatus("failed", 2, "m", "h", "config_error"), ConfigError),
        (JobStatus("failed", 5, "m", "h", "verification_failed"), VerificationFailed),
        (JobStatus("stopped", 4, "m"), StoppedEarly),
        (JobStatus("cancelled", -15, "m", "h", "cancelled"), StoppedEarly),
        (JobStatus("killed", -9, "m", "h", "killed"), ChildFailed),
    ],
)
def test_what_a_job_says_is_wrong_is_said_again(status: JobStatus, kind: type[Exception]) -> None:
    error = error_of(status)
    assert type(error) is kind and error.message == "m" and error.hint


def test_what_is_wrong_with_a_config_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    assert main(["train", str(config), "--detach"]) == 2
    config.write_text('model = "starter"\n[data]\ntrain = ["absent.jsonl"]\n')
    assert main(["train", str(config), "--detach", "--json"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "absent.jsonl" in told["error"]["message"] and told["error"]["kind"] == "data_error"
    assert not runs_folder().exists() or list(runs_folder().iterdir()) == []
    assert main(["train", "--detach"]) == 2
    assert "Missing argument 'CONFIG'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_detached_job_that_is_no_run(tiny_model: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--model", str(tiny_model), "--data", str(rows), "--detach", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] is None and told["pid"] > 0
    assert main(["watch", told["job"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] > 10
    assert main(["jobs", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)["jobs"]] == ["done"]
    assert main(["jobs"]) == 0 and "done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_a_project_in_the_background(tiny_model: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["projects", "create", "desk", "--model", str(tiny_model), "--data", str(rows)]) == 0
    wishes = ["--set", "training.steps=3", "--set", "data.max_tokens=64"]
    assert main(["train", "--project", "DESK", *wishes, "--detach"]) == 0
    told = capsys.readouterr().out
    name = next(word for word in told.split() if word.startswith("desk/"))
    assert "it goes on when this terminal is closed" in told
    assert main(["watch", name.rstrip(":"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert main(["projects", "--json"]) == 0
    project = json.loads(capsys.readouterr().out)["projects"][0]
    assert project["stage"] == "finished" and project["best_loss"] == project["run"]["valid_loss"]


@pytest.mark.slow
def test_a_job_is_stopped_while_it_prepares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = jobs.start(["bench", "--steps", "200"])
    time.sleep(0.5)
    assert main(["stop", job.id]) == 0
    assert job.poll().state == "cancelled" and f"ended {job.id}" in capsys.readouterr().out
    assert main(["watch", job.id]) == 4 and "cancelled" in capsys.readouterr().err
