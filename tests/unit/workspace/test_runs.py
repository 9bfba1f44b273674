import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

from edgetune.errors import CheckpointError, InputError
from edgetune.events import Event, RunFinished, RunStarted, StepFinished, to_line
from edgetune.training.session import only_writer
from edgetune.workspace.runs import all_runs, find_run, is_alive, new_run_folder, runs_folder

DAY = date(2026, 11, 20)
STARTED = RunStarted(
    run="r", first_step=1, total_steps=9, backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1,
    trained_tokens=1, planned_peak_bytes=1, time=50.0,
)  # fmt: skip
STEP = StepFinished(step=4, loss=2.5, rate=1, gradient_norm=1, tokens=1, trained_tokens=1, seconds=1, memory_bytes=1, time=60.0)
FINISHED = RunFinished(
    run="r", adapter="r/adapter", steps=9, tokens=9, train_loss=1.5, valid_loss=1.25, best_step=9, tokens_per_second=1, peak_bytes=1,
    seconds=1, time=70.0,
)  # fmt: skip


def run(name: str, *events: Event, config: str = 'model = "tiny"\n') -> Path:
    folder = runs_folder() / name
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(config)
    if events:
        (folder / "events.jsonl").write_bytes(b"\n".join(map(to_line, events)) + b"\n")
    return folder


def test_new_runs_get_names_that_tell_something(isolated: Path) -> None:
    first = new_run_folder("HuggingFaceTB/SmolLM2-135M-Instruct", DAY)
    assert first == isolated / "runs" / "SmolLM2-135M-Instruct-20261120-1" and first.is_dir()
    assert new_run_folder("/models/SmolLM2-135M-Instruct/", DAY).name == "SmolLM2-135M-Instruct-20261120-2"


@pytest.mark.parametrize("model", ["..", "/", "ä/ö\n\x1b", "x" * 300])
def test_a_name_from_outside_makes_no_odd_folder(model: str) -> None:
    folder = new_run_folder(model, DAY)
    assert folder.parent == runs_folder() and folder.name.isascii() and folder.name.isprintable() and len(folder.name) < 60
    assert not folder.name.startswith((".", "-"))


def test_a_place_that_takes_no_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGETUNE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write"):
        new_run_folder("tiny", DAY)


def test_runs_are_found_by_path_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run("mine")
    assert find_run("mine") == find_run(str(folder)) == folder
    with pytest.raises(CheckpointError, match="no run here"):
        find_run("other")


def test_the_newest_run_comes_first_with_what_it_came_to() -> None:
    run("older", STARTED, STEP)
    run("newer", STARTED, STEP, FINISHED)
    newer, older = all_runs(runs_folder())
    assert (newer.phase, newer.model, newer.train_loss, newer.valid_loss, newer.adapter) == (
        "finished",
        "tiny",
        1.5,
        None,
        str(runs_folder() / "newer" / "adapter"),
    )
    assert (older.phase, older.step, older.total_steps, older.train_loss, older.changed) == ("interrupted", 4, 9, 2.5, 60.0)


def test_a_run_is_training_while_a_process_holds_its_lock() -> None:
    """What the file says does not count: a copy, a reused number or a clock that was set tells nothing."""
    folder = run("mine", STARTED, STEP)
    assert not is_alive(folder)
    with only_writer(folder):
        assert is_alive(folder) and next(all_runs(runs_folder())).phase == "training"
        (folder / "run.lock").write_text("{")
        assert is_alive(folder)
    lines = json.dumps({"pid": os.getpid(), "host": "here", "started": 9e9})
    (folder / "run.lock").write_text(lines)
    assert not is_alive(folder) and next(all_runs(runs_folder())).phase == "interrupted"


def test_looking_keeps_no_trainer_out() -> None:
    folder = run("mine", STARTED)
    (folder / "run.lock").touch()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(lambda: [is_alive(folder) for _ in range(3000)])
        while not looking.done():
            with only_writer(folder):
                pass


def test_damaged_runs_are_listed_all_the_same() -> None:
    run("broken", config="model = ")
    folder = run("half")
    (folder / "events.jsonl").write_bytes(b'{"event": "RunSta')
    (runs_folder() / "no-run").mkdir()
    found = {Path(each.run).name: each for each in all_runs(runs_folder())}
    assert set(found) == {"broken", "half"} and found["broken"].model == "?" and found["half"].phase == "interrupted"


def test_no_runs_at_all() -> None:
    assert list(all_runs(runs_folder())) == []
