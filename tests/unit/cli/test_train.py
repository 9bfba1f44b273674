import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetune.cli.main import main
from edgetune.cli.signals import SIGNALS
from edgetune.config import load
from edgetune.errors import CheckpointError
from edgetune.events import JobEnded, Progress, RunFinished, RunStarted, StepFinished, read
from edgetune.planner.facts import Facts
from edgetune.planner.plan import replan
from edgetune.training import checkpoint

ROOT = Path(__file__).resolve().parents[3]
FACTS = {"run", "adapter", "steps", "tokens", "train_loss", "valid_loss", "tokens_per_second", "peak_bytes"}


@pytest.fixture
def config(tiny_model: Path, rows: Path, tmp_path: Path) -> Path:
    """A run of a few quick steps."""
    file = tmp_path / "run.toml"
    data = f'model = "{tiny_model}"\n[data]\ntrain = ["{rows.name}"]\nvalid = 0.2\nmax_tokens = 64\n'
    training = "[adapter]\nrank = 2\n[training]\nsteps = 6\nbatch = 2\naccumulate = 1\nrate = 1e-2\n"
    file.write_text(data + training + "[checks]\neval_every = 3\nsave_every = 2\n")
    return file


def run_main(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_a_run_from_its_config(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, events = tmp_path / "run", tmp_path / "events.jsonl"
    assert run_main("train", config, "--run", run, "--json", "--events", events) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= FACTS
    assert (document["run"], document["adapter"], document["steps"]) == (str(run), str(run / "adapter"), 6)
    assert (run / "adapter" / "adapter_config.json").is_file() and document["peak_bytes"] > 20e6
    told = [event for event in read(events) if not isinstance(event, Progress)]  # reading the rows precedes the run
    assert (
        isinstance(told[0], RunStarted)
        and isinstance(told[-2], RunFinished)
        and told[-1] == JobEnded(exit_code=0, time=told[-1].time)
    )
    assert told[0].planned_peak_bytes > 0 and sum(isinstance(event, StepFinished) for event in told) == 6
    assert [type(event) for event in read(run / "events.jsonl")] == [type(event) for event in told[:-1]]


def test_people_get_a_table_and_the_result(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("train", config, "--run", tmp_path / "run") == 0
    out, err = capsys.readouterr()
    assert out.startswith("done 6 steps in ") and str(tmp_path / "run" / "adapter") in out
    assert "held-out rows" in err and len([line for line in err.splitlines() if "tokens/s" in line]) == 1


def test_settings_and_the_default_place(config: Path, isolated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert run_main("train", config, "--set", "training.steps=2", "--set", "data.valid=0", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["steps"], document["valid_loss"]) == (2, None)
        assert Path(document["run"]).parent == isolated / "runs" and document["run"].endswith(f"-{number}")
    assert run_main("runs", "--json") == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["phase"], run["step"], run["total_steps"]) for run in runs] == [("finished", 2, 2)] * 2


def test_a_folder_with_a_run_is_refused_with_the_way_on(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_main("train", config, "--run", run) == 0
    assert run_main("train", config, "--run", run) == 2
    assert f"hint: edgetune resume {run}" in capsys.readouterr().err


def test_a_finished_run_is_only_reported(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run_main("train", config, "--run", run, "--json")
    first = json.loads(capsys.readouterr().out)
    assert run_main("resume", run, "--json") == 0
    assert json.loads(capsys.readouterr().out) == first


def test_a_run_that_does_not_fit_is_refused_before_it_starts(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.workspace.planning.usable_memory", lambda: 1_000_000)
    assert run_main("train", config, "--run", tmp_path / "run", "--json") == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "does_not_fit" and "1 MB is usable" in error["message"]
    assert not (tmp_path / "run").exists()


def test_the_plan_comes_true(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("plan", config, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) >= {"fits", "peak_bytes", "seconds", "tokens_per_second", "parts", "suggestions"}
    assert plan["fits"] and plan["steps"] == 6 and plan["peak_bytes"] == sum(plan["parts"].values())
    assert run_main("plan", config) == 0
    assert "fits: " in capsys.readouterr().out


def train_in_a_process(config: Path, run: Path) -> subprocess.Popen[str]:
    """A run without end."""
    settings = ["--set", "training.steps=1000000", "--set", "checks.eval_every=0"]
    command = [sys.executable, "-m", "edgetune", "train", str(config), "--run", str(run), "--json", *settings]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (run / "events.jsonl").exists() and any(
            isinstance(event, StepFinished) and event.step >= step for event in read(run / "events.jsonl")
        ):
            return
        time.sleep(0.02)
    pytest.fail("the run does not get on")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_with_everything_saved(config: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    process = train_in_a_process(config, run)
    wait_for_step(run, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    error: dict[str, Any] = json.loads(out)["error"]
    assert (process.returncode, error["kind"], error["hint"]) == (4, "stopped_early", f"edgetune resume {run}")
    assert "stopping after this step" in err and "stopped: stopped after step" in err
    last = max(event.step for event in read(run / "events.jsonl") if isinstance(event, StepFinished))
    assert (run / "checkpoints" / f"step-{last:06d}").is_dir()


def test_the_second_signal_leaves_at_once(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = train_in_a_process(config, run)
    wait_for_step(run, 2)
    process.send_signal(signal.SIGSTOP)  # both signals are there before the step can end
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert not isinstance(next(checkpoint.newest(run)), CheckpointError)


def test_a_plan_that_does_not_fit_says_so_with_its_facts(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.workspace.planning.usable_memory", lambda: 1_000_000)
    assert run_main("plan", config, "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert not document["fits"] and document["error"]["kind"] == "does_not_fit" and document["parts"]


def test_the_facts_of_a_plan_give_the_same_plan(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("plan", config, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    again = replan(msgspec.convert(document["facts"], Facts), load(config))
    assert (again.memory.peak_bytes, again.time.steps) == (document["peak_bytes"], document["steps"])
    assert again.time.seconds == pytest.approx(document["seconds"])


def test_a_run_is_cut_to_end_in_time(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long, file = ["--set", "training.steps=100000000"], tmp_path / "tonight.toml"
    assert run_main("plan", config, *long, "--done-by", "+1h", "--write", file, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["seconds"] < 3600 and document["settings"]["training.steps"] == document["steps"] < 100_000_000
    assert load(file).training.steps == document["steps"] and document["given_up"]
    assert run_main("plan", config, *long, "--done-by", "+1h", "--write", file) == 2  # it is there already
    assert run_main("plan", config, "--done-by", "soon") == 2
