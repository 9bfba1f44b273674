"""Frames of the app as text: what stands where, and a digest of its styles. `UPDATE_FRAMES=1 pytest tests/tui` stores them anew."""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from edgetune.config import AdapterConfig, DataConfig, RunConfig, to_toml
from edgetune.events import Event, RunFailed, RunFinished, RunStarted, StepFinished, ValidationFinished, to_line
from tui import store
from tui.app import EdgeTune

FRAMES = Path(__file__).with_name("snapshots")
UPDATE = bool(os.environ.get("UPDATE_FRAMES"))
SIZES = WIDE, NARROW = (120, 40), (80, 24)
NOW = 1_700_000_000.0
HOSTILE = "\x1b[31mred \x1b]52;c;cGF3bmVk\x07 \x9b2J \u202eevil\u2066 [/foo] [@click=app.quit]x[/] $primary"


def frame(app: EdgeTune) -> str:
    """The screen as text."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def styled(app: EdgeTune) -> str:
    """A digest of what stands in which style."""
    digest = hashlib.sha256()
    for strip in app.screen._compositor.render_strips():
        for segment in strip.simplify():
            style = segment.style
            shown = (str(style.color), str(style.bgcolor), style.bold, style.underline, style.reverse) if style else ()
            digest.update(f"{segment.text}{shown}".encode())
    return digest.hexdigest()[:16]


def compare(app: EdgeTune, name: str) -> None:
    """The frame is the one that is stored; where frames are updated it is stored."""
    width, height = app.size
    file = FRAMES / f"{name}-{width}x{height}.txt"
    text = f"{frame(app)}\n-- {styled(app)}\n"
    if UPDATE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8"), f"{file.name} differs: look at both, then UPDATE_FRAMES=1 if the new one is meant"


def run(
    play: Callable[[Pilot[None], EdgeTune], Awaitable[None]], size: tuple[int, int] = (120, 40), app: EdgeTune | None = None
) -> None:
    """Opens the app and plays with it."""

    async def go() -> None:
        opened = app or EdgeTune()
        async with opened.run_test(size=size) as pilot:
            await settle(pilot)
            await play(pilot, opened)

    asyncio.run(go())


def run_app(app: EdgeTune, size: tuple[int, int], steps: Callable[[Pilot[None]], Awaitable[None]]) -> None:
    """Plays with an app whose desk is laid already, and not for the first time."""
    store.projects_folder().mkdir(parents=True, exist_ok=True)

    async def play(pilot: Pilot[None], opened: EdgeTune) -> None:
        await steps(pilot)
        await pilot.pause()

    run(play, size, app)


async def drawn(pilot: Pilot[None]) -> None:
    """Until nothing is about to be drawn; what works in the background may go on."""
    for _ in range(3):
        await pilot.pause()


async def settle(pilot: Pilot[None]) -> None:
    """Waits until all workers are done and all is drawn."""
    await pilot.pause()
    for screen in pilot.app.screen_stack:
        waiting = [
            worker
            for worker in pilot.app.workers
            if worker.node is screen and not worker.is_finished and worker.group != "default"
        ]
        if waiting:
            await pilot.app.workers.wait_for_complete(waiting)
    await pilot.pause()


async def until(pilot: Pilot[None], true: Callable[[], Any], seconds: float = 5.0) -> None:
    """Waits for something to become true."""
    for _ in range(int(seconds / 0.02)):
        if true():
            await pilot.pause()
            return
        await pilot.pause(0.02)
    raise AssertionError(f"it never came: {frame(pilot.app)}")  # pyright: ignore[reportArgumentType]


def recorded_run(
    folder: Path, *, steps: int = 400, total: int = 600, loss: float = 1.482, end: str = "", age: float = 0.0, rank: int = 16
) -> None:
    """A run folder whose process is gone, with the events of its life."""
    folder.mkdir(parents=True)
    config = RunConfig(model="qwen3-0.6b", data=DataConfig(train=["support.jsonl"]), adapter=AdapterConfig(rank=rank))
    (folder / "run.toml").write_text(to_toml(config))
    start = NOW - age - 2520
    events: list[Event] = [
        RunStarted(
            time=start, run=str(folder), first_step=0, total_steps=total, backend="numpy", trained_parameters=10, train_rows=1144,
            valid_rows=60, train_tokens=300_000, trained_tokens=150_000, planned_peak_bytes=0,
        ),
        StepFinished(
            time=NOW - age, step=steps, loss=loss + 0.02, rate=1e-4, gradient_norm=0.8, tokens=1000, trained_tokens=500, seconds=1.0, memory_bytes=0
        ),
        ValidationFinished(time=NOW - age, step=steps, loss=loss, tokens=10, seconds=1.0, best=True),
    ]  # fmt: skip
    if end == "finished":
        events.append(
            RunFinished(
                time=NOW - age, run=str(folder), adapter=str(folder / "adapter"), steps=total, tokens=1000, train_loss=loss, valid_loss=loss,
                best_step=steps, tokens_per_second=100.0, peak_bytes=0, seconds=2520.0,
            )
        )  # fmt: skip
    elif end:
        events.append(RunFailed(time=NOW - age, kind=end, message="needs more", hint="take less"))
    (folder / "events.jsonl").write_bytes(b"".join(to_line(event) + b"\n" for event in events))


class StandIn:
    """Stands in for `tui.child.ask`: documents by the command's first word; an error is raised."""

    def __init__(self, **documents: Any):
        self.documents = documents
        self.asked: list[Sequence[str]] = []

    async def __call__(self, arguments: Sequence[str], on_event: Any = None) -> dict[str, Any]:
        self.asked.append(list(arguments))
        found = self.documents[arguments[0]]
        if isinstance(found, Exception):
            raise found
        return json.loads(json.dumps(found))
