"""Frames of the app as plain text: made by a pilot, kept in snapshots/, compared line by line.

`UPDATE_FRAMES=1 python -m pytest tests/tui` writes them anew; look at what changed before committing it.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot

from tui import store
from tui.app import EdgeTune

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDE, NARROW = (120, 40), (80, 24)
Steps = Callable[[Pilot[None]], Awaitable[None]]


class StillMachine:
    """The machine in the top bar, the same everywhere."""

    texts = ("M2 Pro · 16 GB · 9.8 free", "6.2/16 GB")

    def look(self) -> None:
        pass


def run_app(app: EdgeTune, size: tuple[int, int], steps: Steps) -> None:
    """Runs the app headless, and takes the steps."""

    async def go() -> None:
        app.machine = StillMachine()  # type: ignore[assignment]
        store.projects_folder().mkdir(parents=True, exist_ok=True)  # not a first start: no starter project is made
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(pilot)
            await pilot.pause()

    asyncio.run(go())


def text(app: EdgeTune) -> str:
    """What the screen shows now."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing is about to be drawn."""
    for _ in range(3):
        await pilot.pause()


def check(name: str, app: EdgeTune) -> None:
    """The frame is the one that is kept."""
    file, now = SNAPSHOTS / f"{name}.txt", text(app)
    if os.environ.get("UPDATE_FRAMES"):
        file.write_text(now, "utf-8")
    assert now == file.read_text("utf-8"), f"the frame {name} has changed; UPDATE_FRAMES=1 takes it over"
