import inspect
import os
from pathlib import Path

import pytest

from edgetune.cli.main import COMMANDS, main
from edgetune.cli.options import Job, command
from edgetune.cli.output import Output
from edgetune.errors import InputError
from edgetune.events import RunPaused, Warned, read


def test_a_command_has_its_own_options_and_those_of_all() -> None:
    def own(job: Job, name: str, often: int = 1) -> None: ...

    parameters = inspect.signature(command(own)).parameters
    assert list(parameters) == ["context", "name", "often", "as_json", "events", "offline"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_job_first(name: str) -> None:
    assert next(iter(inspect.signature(COMMANDS[name], eval_str=True).parameters.values())).annotation is Job


def test_events_are_appended_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "events.jsonl"
    for step in (1, 2):
        Job(Output(), file).event(RunPaused(step=step))
    assert [event.step for event in read(file) if isinstance(event, RunPaused)] == [1, 2]
    assert capsys.readouterr().err == "paused after step 1\npaused after step 2\n"


def test_an_events_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "events.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            Job(Output(), place)
    assert main(["runs", "--events", str(tmp_path / "no" / "folder" / "events.jsonl")]) == 2


def test_an_events_file_that_fails_later_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    job = Job(Output(), folder / "events.jsonl")
    (folder / "events.jsonl").unlink()
    folder.rmdir()
    for _ in range(2):
        job.event(Warned(message="goes on"))
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("warning: no more events are written") and err[1:] == ["warning: goes on"] * 2


def test_offline_is_told_to_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert main(["runs", "--offline"]) == 0
    assert os.environ["HF_HUB_OFFLINE"] == "1"
