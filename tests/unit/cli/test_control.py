"""What is asked of a run, against a trainer that only obeys: the real one's turn is in tests/faults and tests/journeys."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgetune.cli import control
from edgetune.cli.main import main
from edgetune.events import (
    CheckpointSaved,
    Event,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    SampleWritten,
    StepFinished,
    to_line,
)
from edgetune.files import append_line
from edgetune.locks import only_holder
from edgetune.training.control import AnyCommand, Control, Pause, Resume, Sample, Save, Stop
from edgetune.workspace.runs import runs_folder

STARTED = RunStarted(
    run="r", first_step=0, total_steps=90, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1,
    trained_tokens=1, planned_peak_bytes=1,
)  # fmt: skip
STEP = StepFinished(step=4, loss=2.5, rate=1, gradient_norm=1, tokens=1, trained_tokens=1, seconds=0.01, memory_bytes=1)
ANSWERS: dict[type[AnyCommand], Callable[[AnyCommand], list[Event]]] = {
    Pause: lambda wish: [RunPaused(step=4, reason="asked to pause")],
    Resume: lambda wish: [RunResumed(step=4)],
    Save: lambda wish: [STEP, CheckpointSaved(step=4, folder="checkpoints/step-000004", seconds=0.1)],
    Sample: lambda wish: [SampleWritten(step=4, prompt=getattr(wish, "prompt", ""), reply="a \x1b[2J reply")],
    Stop: lambda wish: [RunStopped(step=4, reason="asked to stop")],
}


class Trainer:
    """Holds the lock of a run and answers what it is asked, until it is asked to stop or told to die."""

    def __init__(self, run: Path):
        self.run, self.dead, self.deaf, self.locked = run, threading.Event(), False, threading.Event()
        self.dies_when_asked = False
        self.thread = threading.Thread(target=self.train)
        self.thread.start()
        self.locked.wait(10)

    def train(self) -> None:
        with only_holder(self.run / "run.lock"):
            wishes = Control(self.run)
            self.locked.set()
            while not self.dead.wait(0.01):
                asked = wishes.poll()
                if self.deaf and asked and self.dies_when_asked:
                    return
                for wish in [] if self.deaf else asked:
                    for event in ANSWERS[type(wish)](wish):
                        append_line(self.run / "events.jsonl", to_line(event))
                    if isinstance(wish, Stop):
                        return

    def die(self) -> None:
        self.dead.set()
        self.thread.join()


@pytest.fixture
def run() -> Path:
    folder = runs_folder() / "mine"
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text('model = "tiny"\n[data]\ntrain = ["a"]\n[checks]\nsamples = ["Who?", "What?"]\n')
    (folder / "events.jsonl").write_bytes(to_line(STARTED) + b"\n" + to_line(STEP) + b"\n")
    return folder


@pytest.fixture
def trainer(run: Path) -> Iterator[Trainer]:
    made = Trainer(run)
    yield made
    made.die()


def test_a_run_is_paused_and_goes_on(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause", "mine"]) == 0
    assert "paused after step 4, saved" in capsys.readouterr().out
    assert main(["pause", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["obeyed"] is True
    assert main(["resume", "mine"]) == 0
    assert "goes on after step 4" in capsys.readouterr().out
    assert main(["resume", "mine"]) == 2
    told = capsys.readouterr().err
    assert "another process trains here: process " in told and "edgetune watch mine" in told


def test_saving_sampling_and_stopping(trainer: Trainer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["save", "mine", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(run) and document["event"]["folder"] == "checkpoints/step-000004"
    assert main(["sample", "mine", "--prompt", "Who?"]) == 0
    assert capsys.readouterr().out == "a \\x1b[2J reply\n"
    assert main(["stop", str(run)]) == 0
    assert "stopped after step 4, saved" in capsys.readouterr().out
    assert main(["stop", "mine"]) == 2
    told = capsys.readouterr().err
    assert "nobody trains this run now" in told and "edgetune resume mine" in told


@pytest.mark.parametrize("wish", [["pause"], ["save"], ["sample", "--prompt", "x"], ["stop"]])
def test_nobody_to_ask(run: Path, wish: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([wish[0], "mine", *wish[1:]]) == 2
    assert "nobody trains this run now" in capsys.readouterr().err
    assert main([wish[0], "other", *wish[1:]]) == 2
    assert not (run / "control.jsonl").exists()


def test_a_step_that_takes_long(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.3)
    trainer.deaf = True
    assert main(["pause", "mine"]) == 0
    assert "it does so after the step at hand" in capsys.readouterr().out


def test_a_run_that_dies_meanwhile(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    trainer.deaf = trainer.dies_when_asked = True
    assert main(["save", "mine"]) == 2
    assert "it ended meanwhile: killed (signal 9)" in capsys.readouterr().err


def test_stopping_at_once_sends_two_signals(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[int] = []

    def kill(pid: int, number: int) -> None:
        sent.append(number)
        if len(sent) == 2:
            trainer.dead.set()

    monkeypatch.setattr("os.kill", kill)
    assert main(["stop", "mine", "--now"]) == 0
    assert sent == [signal.SIGTERM, signal.SIGTERM] and "ended mine" in capsys.readouterr().out


def test_watching_a_run_shows_what_was_and_what_comes(trainer: Trainer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go_on() -> None:
        time.sleep(0.6)
        for number in range(5, 8):
            append_line(run / "events.jsonl", to_line(STEP).replace(b'"step":4', b'"step":%d' % number))
        append_line(run / "events.jsonl", to_line(RunStopped(step=7, reason="asked to stop")))

    thread = threading.Thread(target=go_on)
    thread.start()
    assert main(["watch", "mine"]) == 4
    thread.join()
    told = capsys.readouterr().err
    assert "90 steps" in told and "stopped after step 7 of 90" in told and "edgetune resume mine" in told
