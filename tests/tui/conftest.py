"""What the screens' tests share: an app on a home of its own, a machine that never changes, recorded runs, and frames."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import recorded

from edgetune.config import DataConfig, RunConfig
from tests.tui.frames import NOW, recorded_run
from tui import store
from tui.machine import MachineLine
from tui.run_view import RunReader, RunView
from tui.store import Project


@pytest.fixture(autouse=True)
def same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine, this day or this place is on a frame."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    def look(self: MachineLine) -> None:
        self.texts = ("M2 Pro · 16 GB · 9.8 free", "6.2/16 GB")

    monkeypatch.setattr(MachineLine, "look", look)
    monkeypatch.setattr(
        "tui.screens.home.machine_facts", lambda: [("✓", "NumPy 2.4"), ("!", "llama.cpp missing"), ("✓", "disk 212 GB free")]
    )
    monkeypatch.setattr("tui.screens.home.time.time", lambda: NOW)
    monkeypatch.setattr("tui.screens.home.short_path", lambda path, most: f"~/tuning/{path.name}")
    monkeypatch.setattr("tui.overview.bytes_in", lambda folder: 1_500_000)


@pytest.fixture
def project() -> Callable[..., Project]:
    """Makes a project; `runs` are those of `recorded_run`, the oldest first."""

    def make(name: str, model: str = "", rows: tuple[str, ...] = (), runs: tuple[dict[str, Any], ...] = ()) -> Project:
        made = store.create(name, RunConfig(model=model, data=DataConfig(train=list(rows))))
        for number, run in enumerate(runs, 1):
            recorded_run(made.runs / f"run-{number}", **run)
        return made

    return make


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """A file of rows that exists; what is in it is told by the child that stands in."""
    file = tmp_path / "support.jsonl"
    file.write_text('{"text": "a row"}\n')
    return file


@pytest.fixture
def still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded run looks the same whenever and wherever it is looked at."""
    plain = RunReader.view

    def view(self: RunReader, *arguments: Any) -> RunView:
        found = plain(self, *arguments)
        memory = 2_700_000_000 if found.memory_bytes else 0
        return replace(found, memory_bytes=memory, limit_bytes=11_800_000_000, swapped_bytes=0, now=recorded.START + 330)

    monkeypatch.setattr(RunReader, "view", view)
