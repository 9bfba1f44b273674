import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetune.cli import watch
from edgetune.cli.main import main
from edgetune.events import (
    Event,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    StepFinished,
    ValidationFinished,
    Warned,
    to_line,
)
from edgetune.workspace.runs import runs_folder

STARTED = RunStarted(
    run="r", first_step=0, total_steps=400, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1,
    trained_tokens=1, planned_peak_bytes=1,
)  # fmt: skip
FINISHED = RunFinished(
    run="r", adapter="r/adapter", steps=400, tokens=9, train_loss=1.5, valid_loss=1.25, best_step=300, tokens_per_second=1,
    peak_bytes=1, seconds=1,
)  # fmt: skip


def steps(first: int, last: int) -> list[Event]:
    return [
        StepFinished(step=n, loss=2.5, rate=1, gradient_norm=1, tokens=1, trained_tokens=1, seconds=1, memory_bytes=1)
        for n in range(first, last + 1)
    ]


@pytest.fixture
def run() -> Callable[..., Path]:
    def make(*events: Event) -> Path:
        folder = runs_folder() / "mine"
        folder.mkdir(parents=True)
        (folder / "run.toml").write_text('model = "tiny"\n')
        (folder / "events.jsonl").write_bytes(b"".join(to_line(event) + b"\n" for event in events))
        return folder

    return make


def test_a_finished_run_is_told_as_train_told_it(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    valid = ValidationFinished(step=300, loss=1.25, tokens=1, seconds=1, best=True)
    run(STARTED, *steps(1, 300), valid, *steps(301, 400), FINISHED)
    assert main(["watch", "mine"]) == 0
    told = capsys.readouterr()
    table = [line for line in told.err.splitlines() if line[:8].strip().isdigit()]
    assert 15 <= len(table) <= 23 and any("held-out rows · best so far" in line for line in table)
    assert "held-out loss 1.2500 at step 300" in told.out
    assert main(["watch", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 400


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (RunStopped(step=9, reason="asked to stop"), 4, "stopped after step 9 of 400"),
        (RunFailed(kind="verification_failed", message="it is worse", hint="do this"), 5, "it is worse"),
        (RunFailed(kind="disk_full", message="no room"), 3, "no room"),
        (RunFailed(kind="no_such_kind", message="odd"), 2, "odd"),
        (None, 2, "interrupted after step 9: killed (signal 9)"),
    ],
)
def test_the_exit_code_is_the_runs(
    run: Callable[..., Path], end: Event | None, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(STARTED, *steps(1, 9), *([end] if end else []))
    assert main(["watch", "mine", "--plain"]) == code
    assert words in capsys.readouterr().err


def test_what_happened_while_nobody_looked_is_told(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    warned = Warned(message="the disk \x1b[2J is slow", hint="wait")
    run(STARTED, *steps(1, 9), warned, RunPaused(step=9, reason="on battery"), RunResumed(step=9), *steps(10, 12), FINISHED)
    main(["watch", "mine"])
    told = capsys.readouterr().err
    assert "the disk \\x1b[2J is slow" in told and "paused after step 9: on battery" in told and "goes on after step 9" in told


def test_leaving_does_not_end_it(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(STARTED, *steps(1, 9))

    def leave(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "is_alive", leave)
    assert main(["watch", "mine"]) == 0
    assert "mine goes on; `edgetune stop mine` ends it" in capsys.readouterr().out


def test_neither_run_nor_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "nope\x1b[2J"]) == 2
    told = capsys.readouterr().err
    assert "no run and no job here" in told and "\x1b[2J" not in told
