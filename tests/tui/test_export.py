"""The export screen: formats, an export from its events, its ends, and the certificate beside the files. The child is played."""

import asyncio
import json
from pathlib import Path
from typing import Any

import frames
import pytest
import recorded
from frames import NARROW, WIDE
from textual.pilot import Pilot

from edgetune.events import HopScored, Progress
from edgetune.export.quantize import TYPES
from tui.app import EdgeTune
from tui.child import ChildError
from tui.export_state import FORMATS, ExportState, read_certificate
from tui.screens import export as export_module
from tui.screens.export import ExportScreen

STAGES = (
    ("scoring the tuned model", "base + adapter"), ("scoring the base", None), ("merging", None),
    ("scoring the merged model", "merged"), ("writing F16", None), ("scoring F16", "GGUF F16"), ("writing Q8_0", None),
    ("scoring Q8_0", "GGUF Q8_0"), ("quantising to Q4_K_M", None), ("scoring Q4_K_M", "GGUF Q4_K_M"),
)  # fmt: skip


def story(until: str = "") -> list[Progress | HopScored]:
    """The events of an export, up to half of a stage."""
    found: list[Progress | HopScored] = []
    for second, (stage, hop) in enumerate(STAGES):
        at = recorded.START + 4 * second
        found += [Progress(time=at + part, stage=stage, done=part, total=4, unit="rows") for part in (1, 2)]
        if stage == until:
            return found
        found += [Progress(time=at + part, stage=stage, done=part, total=4, unit="rows") for part in (3, 4)]
        if hop:
            lost = 0.031 if "Q4" in hop else 0.0
            found.append(HopScored(time=at + 4, hop=hop, loss=1.38 + lost, loss_delta=lost, kl=lost, top1_agreement=1 - lost))
    return found


def certificate(out: Path, refused: str = "") -> None:
    """Files and what was proved of them."""
    out.mkdir(parents=True, exist_ok=True)
    hops: list[dict[str, Any]] = []
    for name, file in (("merged", ""), ("GGUF Q8_0", "m-Q8_0.gguf"), ("GGUF Q4_K_M", "m-Q4_K_M.gguf")):
        verdict = "refused" if name == refused else "proved"
        lost = 0.031 if "Q4" in name else 0.0
        hops.append(
            {"name": name, "file": file, "loss_delta": lost, "kl": lost, "top1_agreement": 1 - lost, "verdict": verdict}
        )
        if file and verdict == "proved":
            (out / file).write_bytes(b"GGUF" * 1000)
    told = {"hops": hops, "rows": 60, "tokens": 705, "held_out": True, "turn_end": {"gguf_ended": 8, "reference_ended": 8}}
    (out / "certificate.json").write_text(json.dumps(told))


class Child:
    """Plays `edgetune export` and `edgetune models`."""

    def __init__(self, run: Path):
        self.run, self.asked = run, list[list[str]]()
        self.until, self.error, self.cancelled, self.refused = "", None, False, ""

    def cancel(self) -> None:
        self.cancelled = True

    async def __call__(self, arguments: list[str], on_event: Any = None, on_start: Any = None) -> dict[str, Any]:
        if arguments == ["models"]:
            return {"models": [{"name": "Qwen3-0.6B-4bit", "parameters": 596_000_000, "license": "apache-2.0"}]}
        self.asked.append(arguments)
        for event in story(self.until):
            on_event(event)
        on_start(self)
        while self.until:
            await asyncio.sleep(0.01)
            if self.cancelled:
                raise ChildError("cancelled", "", "cancelled", 130)
        certificate(self.run / "exports", self.refused)
        if self.error:
            raise self.error
        return {}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = [*recorded.told(600, 600), *recorded.ending("finished", 600)]
    monkeypatch.setattr(ExportScreen, "free", lambda self: 212_000_000_000)
    monkeypatch.chdir(tmp_path)  # a path that is short, and the same everywhere
    return recorded.record(Path("run-3"), found)


@pytest.fixture
def child(run: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    played = Child(run)
    monkeypatch.setattr(export_module, "ask", played)
    monkeypatch.setattr(export_module, "work", played)
    return played


def opened(run: Path | None) -> EdgeTune:
    app = EdgeTune()
    if run:
        app.desk.open_run(run)
        while app.desk.follower and app.desk.follower.poll():
            pass
    return app


async def show(app: EdgeTune, pilot: Pilot[None]) -> ExportScreen:
    app.open_screen("export")
    await frames.drawn(pilot)
    await app.workers.wait_for_complete()
    await frames.drawn(pilot)
    assert isinstance(app.screen, ExportScreen)
    return app.screen


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("state", ["before", "merging", "quantising", "refused", "none"])
def test_frame(state: str, size: tuple[int, int], run: Path, child: Child) -> None:
    app = opened(run if state != "none" else None)
    child.until = {"merging": "merging", "quantising": "quantising to Q4_K_M"}.get(state, "")
    if state == "refused":
        child.refused = "GGUF Q4_K_M"
        child.error = ChildError(
            "not handed over: GGUF Q4_K_M loses +0.310 nats per token", "take a type with more bits", "", 5
        )

    async def steps(pilot: Pilot[None]) -> None:
        screen = await show(app, pilot)
        if state not in ("before", "none"):
            await pilot.press("e")
            await frames.drawn(pilot)
            screen.draw()
            await frames.drawn(pilot)
        frames.compare(app, f"export-{state}")
        app.workers.cancel_all()

    frames.run_app(app, size, steps)


def test_selected_types_are_made_and_their_proof_and_command_are_shown(run: Path, child: Child) -> None:
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        await show(app, pilot)
        await pilot.press("down", "space", "down", "down", "space", "e")  # Q5_K_M and F16 besides the usual two
        await app.workers.wait_for_complete()
        await frames.drawn(pilot)
        shown = frames.frame(app)
        assert "2 files proved on 60 held-out rows" in shown and "8 of 8 answers end" in shown and "+0.031" in shown
        await pilot.press("up", "up", "up", "c")
        assert app.clipboard == f"llama-cli -m {run / 'exports' / 'm-Q4_K_M.gguf'} -cnv"

    frames.run_app(app, WIDE, steps)
    arguments = child.asked[0]
    assert arguments[:2] == ["export", str(run)] and arguments[5] == "Q4_K_M,Q5_K_M,Q8_0,F16"


def test_cancelling_ends_the_child_and_says_that_files_are_whole(run: Path, child: Child) -> None:
    child.until = "merging"
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        await show(app, pilot)
        await pilot.press("e")
        await frames.drawn(pilot)
        await pilot.press("escape")
        await frames.drawn(pilot)
        assert "Cancel the export?" in frames.frame(app)
        await pilot.press("y")
        await frames.drawn(pilot)
        assert child.cancelled and "Cancelled: no file was touched" in frames.frame(app)

    frames.run_app(app, NARROW, steps)


def test_a_refusal_stands_in_its_place_with_what_was_lost(run: Path, child: Child) -> None:
    child.error = ChildError("not handed over: GGUF Q4_K_M loses +0.310 nats", "take a type with more bits", "", 5)
    child.refused = "GGUF Q4_K_M"
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        await show(app, pilot)
        await pilot.press("e")
        await app.workers.wait_for_complete()
        await frames.drawn(pilot)
        shown = frames.frame(app)
        assert "loses +0.310 nats" in shown and "take a type with more bits" in shown

    frames.run_app(app, NARROW, steps)


def test_the_types_are_those_that_the_export_makes_at_their_bits() -> None:
    for each in FORMATS:
        if each.bits and each.kind != "F16":
            assert each.bits == TYPES[each.kind].bits and not TYPES[each.kind].needs_imatrix


def test_steps_follow_from_the_events() -> None:
    state = ExportState(kinds=("Q4_K_M", "Q8_0"), phase="working")
    for event in story("writing Q8_0"):
        state = state.after(event)
    marks = [state.mark(step) for step in ("Merge", "Convert", "Quantise", "Verify", "Place")]
    assert marks == ["done", "now", "open", "open", "open"]
    assert list(state.proofs) == ["base + adapter", "merged", "GGUF F16"] and state.hops == 5


def test_a_broken_certificate_is_none(tmp_path: Path) -> None:
    for content in ("", "{", "[]", '{"hops": [{}]}', '{"hops": 3, "rows": 1, "tokens": 1}'):
        (tmp_path / "certificate.json").write_text(content)
        assert read_certificate(tmp_path).files == {}


def test_hostile_text_appears_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = recorded.HOSTILE
    run = recorded.record(tmp_path / "run-3", recorded.told(6, 6))
    child = Child(run)
    child.error = ChildError(evil, evil, "", 5)
    monkeypatch.setattr(export_module, "ask", child)
    monkeypatch.setattr(export_module, "work", child)
    app = opened(run)

    async def steps(pilot: Pilot[None]) -> None:
        await show(app, pilot)
        await pilot.press("e")
        await app.workers.wait_for_complete()
        await frames.drawn(pilot)
        shown = frames.frame(app)
        assert "[/foo][@click=app.exit]x[/]" in shown and not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}

    frames.run_app(app, WIDE, steps)
