import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from edgetune.cli import bench as command
from edgetune.cli.main import main
from edgetune.errors import ChildFailed, EdgeTuneError, StoppedEarly
from edgetune.events import Progress, read
from edgetune.workspace import bench as workspace
from edgetune.workspace.bench import Figures, LeftOut, Rung, Wanted
from edgetune.workspace.bench_scratch import scratch

ROOT = Path(__file__).resolve().parents[3]
OURS = Rung("starter", 5_246_208, "mlx", Figures(0.0184, 111_304.3, 180_000_000))
BOTH = Rung("smollm2-135m", 134_515_008, "mlx", Figures(0.5, 4096.0, 1_620_000_000), Figures(1.0, 2048.0, 2_160_000_000))
TOO_LARGE = LeftOut("mistral-7b", "would take 3 min 05 s a step")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `bench` come to these outcomes, and then perhaps to an error. Gives what was wanted."""
    wanted: list[Wanted] = []

    def tell(*outcomes: Rung | LeftOut, error: EdgeTuneError | None = None) -> list[Wanted]:
        def bench(asked: Wanted, on_event: Any, should_stop: Any) -> Generator[Rung | LeftOut]:
            wanted.append(asked)
            yield from outcomes
            if error:
                raise error

        monkeypatch.setattr(workspace, "bench", bench)
        monkeypatch.setattr(command, "machine", lambda: "A chip, 8 cores, 16 GB")
        return wanted

    return tell


def test_the_table_is_markdown_and_can_be_read_as_it_is(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told(OURS, BOTH, TOO_LARGE)
    assert main(["bench"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "| model        | parameters | backend |    step | tokens/s | peak memory | mlx-lm step | mlx-lm tokens/s | mlx-lm peak memory | times mlx-lm |",
        "| ------------ | ---------: | ------- | ------: | -------: | ----------: | ----------: | --------------: | -----------------: | -----------: |",
        "| starter      |     5.25 M | mlx     | 18.4 ms |  111,304 |      180 MB |             |                 |                    |              |",
        "| smollm2-135m |      135 M | mlx     |  500 ms |    4,096 |     1.62 GB |         1 s |           2,048 |            2.16 GB |         2.00 |",
        "",
        "LoRA of rank 8 on all linear layers, 4 rows of 512 tokens a step, random bfloat16 weights, the median of 4 steps after the first. A chip, 8 cores, 16 GB.",
        "",
        "left out: mistral-7b (would take 3 min 05 s a step)",
    ]
    assert "starter: 111,304 tokens/s · 18.4 ms a step · peak 180 MB" in err


def test_without_mlx_lm_its_columns_are_not_there(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told(OURS)
    assert main(["bench"]) == 0
    assert "mlx-lm" not in capsys.readouterr().out


def test_the_document_has_the_same_facts(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told(OURS, BOTH, TOO_LARGE)
    assert main(["bench", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["rows"]] == ["starter", "smollm2-135m"]
    assert document["rows"][0]["mlx_lm"] is None and document["rows"][0]["ratio"] is None
    assert document["rows"][1] == {
        "name": "smollm2-135m", "parameters": 134_515_008, "backend": "mlx", "step_seconds": 0.5, "tokens_per_second": 4096.0,
        "peak_bytes": 1_620_000_000, "ratio": 2.0,
        "mlx_lm": {"step_seconds": 1.0, "tokens_per_second": 2048.0, "peak_bytes": 2_160_000_000},
    }  # fmt: skip
    assert document["left_out"] == [{"name": "mistral-7b", "reason": "would take 3 min 05 s a step"}]


def test_options_are_what_is_measured(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (wanted,) = (told(OURS), main(["bench"]))[0]
    assert wanted == Wanted(backend=wanted.backend)
    options = "--shapes starter,smollm2-135m --steps 2 --rows 3 --tokens 64 --rounds 5 --alone --backend numpy"
    assert main(["bench", *options.split()]) == 0
    assert told()[-1] == Wanted(("starter", "smollm2-135m"), 2, 3, 64, 5, "numpy", True)
    told_settings = (
        "3 rows of 64 tokens a step, random bfloat16 weights, the median of 2 steps after the first in each of 5 rounds"
    )
    assert told_settings in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--steps=0", "--rows=0", "--tokens=7", "--rounds=0", "--shapes=llama"])
def test_what_cannot_be_measured_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", option]) == 2
    assert capsys.readouterr().out == ""


def test_stopped_it_shows_what_was_measured_and_how_to_get_the_rest(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told(OURS, error=StoppedEarly("stopped"))
    assert main(["bench", "--shapes", "starter,smollm2-360m,qwen3-0.6b"]) == 4
    out, err = capsys.readouterr()
    assert "| starter " in out and "stopped: stopped while smollm2-360m was measured" in err
    assert "hint: edgetune bench --shapes smollm2-360m,qwen3-0.6b measures the rest" in err


def test_a_failure_does_not_take_away_what_was_measured(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told(OURS, error=ChildFailed("was killed", hint="h", file="smollm2-135m"))
    assert main(["bench"]) == 2
    out, err = capsys.readouterr()
    assert "| starter " in out and "error: smollm2-135m: was killed" in err


def test_the_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.hardware.child_environment", lambda: {"OPENBLAS_NUM_THREADS": "1"})
    line = command.machine()
    assert "\n" not in line and " cores, " in line and "EdgeTune 0." in line and "NumPy 2." in line and "Python 3." in line


@pytest.mark.slow
def test_a_real_bench_of_the_smallest_shape(
    tmp_path: Path, isolated: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "machine", lambda: "here")
    monkeypatch.chdir(tmp_path)
    events = tmp_path / "events.jsonl"
    line = "bench --shapes starter --steps 2 --rows 2 --tokens 64 --alone --backend numpy --json --events"
    assert main([*line.split(), str(events)]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["name"] == "starter" and row["backend"] == "numpy" and row["parameters"] == 5_246_208
    assert row["tokens_per_second"] == pytest.approx(128 / row["step_seconds"])
    assert 0.001 < row["step_seconds"] < 30 and 50e6 < row["peak_bytes"] < 400e6
    stages = [(event.stage, event.done) for event in read(events) if isinstance(event, Progress)]
    assert [done for stage, done in stages if stage == "measuring starter"] == [0, 1, 2, 3]
    assert stages[0] == ("writing starter", 0) and max(done for _, done in stages) == 2 * 5_246_208
    assert [file.name for file in (isolated / "bench").iterdir()] == ["lock"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_and_leaves_nothing(number: signal.Signals, tmp_path: Path, isolated: Path) -> None:
    events = tmp_path / "events.jsonl"
    line = "bench --shapes starter --steps 1000 --rows 1 --tokens 32 --alone --backend numpy --json --events"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetune", *line.split(), str(events)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_CORETYPE": ""},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        events.exists()
        and any(isinstance(event, Progress) and event.stage.startswith("measuring") and event.done for event in read(events))
    ):
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert json.loads(out)["error"]["kind"] == "stopped_early" and f"ending the measurement ({number.name})" in err
    assert [file.name for file in (isolated / "bench").iterdir()] == ["lock"]
    with scratch():  # nobody holds the lock: the training is gone, too
        pass
