import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.frames import HOSTILE, SIZES, StandIn, compare, frame, run, settle, until
from tui.app import EdgeTune
from tui.child import ChildError
from tui.rows import RowsChild
from tui.screens.data import DataScreen
from tui.store import Project
from tui.widgets.row_list import RowList

pytestmark = pytest.mark.slow  # each opens the whole app
Make = Callable[..., Project]
WORDS = ("How do I reset my password?", "Cancel my plan please", "Refund for order 1182", "My invoice shows VAT twice, why?")
PIECES = [
    ["<|im_start|>", 2, -1], ["user\n", 0, -1], ["My", 0, 0], [" invoice", 0, 0], [" shows", 0, 0], [" VAT", 0, 0], [" twice", 0, 0],
    [",", 0, 0], [" why", 0, 0], ["?", 0, 0], ["<|im_end|>", 2, -1], ["\n", 0, -1], ["<|im_start|>", 2, -1], ["assistant\n", 0, -1],
    ["Sorry", 1, 1], [" about", 1, 1], [" that", 1, 1], [".", 1, 1], [" Line", 1, 1], [" 3", 1, 1], [" is", 1, 1], [" the", 1, 1],
    [" tax", 1, 1], [" total", 1, 1], [",", 1, 1], [" not", 1, 1], [" a", 1, 1], [" second", 1, 1], [" charge", 1, 1], [".", 1, 1],
    ["<|im_end|>", 3, 1],
]  # fmt: skip


class Rows:
    """Stands in for the child that knows the rows."""

    total, error, waits = 1204, None, False
    words: tuple[str, ...] = WORDS
    raw = '{"messages": []}'

    def __init__(self, model: str, arguments: Any):
        self.model, self.arguments, self.asked, self.closed = model, list(arguments), [], False
        made.append(self)

    async def open(self, on_event: Any) -> dict[str, Any]:
        while self.waits:
            await asyncio.sleep(0.02)
        if self.error:
            raise self.error
        return {
            "rows": self.total, "train_rows": 1144, "valid_rows": 60, "tokens": 318_000, "trained_tokens": 121_000, "refusal": None,
            "lengths": {"median": 122, "p90": 447}, "longest_allowed": 1024, "total": self.total, "template": "",
            "bins": [["≤64", 182], ["≤128", 561], ["≤256", 302], ["≤512", 121], ["≤1024", 31], [">1024", 7]],
            "groups": [
                ["json", "!", 2, "no JSON at column 12", [17, 732]],
                ["dropped", "✂", 7, "1,380 tokens", [18, 40, 41, 60, 61, 70, 80]],
                ["duplicate", "=", 11, "the same as line 3 of support.jsonl", [9, 11]],
            ],
        }  # fmt: skip

    async def ask(self, **request: Any) -> Any:
        self.asked.append(request)
        if "rows" in request:
            first, number = request["rows"]
            signs = {17: "!", 18: "✂", 9: "=", 11: "="}
            shown = range(first, min(first + number, self.total))
            return first, [
                [self.words[at % len(self.words)], 61 + at % 90, 30, signs.get(at, ""), "/d/support.jsonl", at + 1]
                for at in shown
            ]
        if "row" in request:
            at = request["row"]
            problems = [["json", "no JSON at column 12"]] if at == 17 else []
            pieces = (
                []
                if at == 17
                else [
                    [text.replace("tax", self.words[0]) if self.words is not WORDS else text, *rest] for text, *rest in PIECES
                ]
            )
            return {
                "at": at, "file": "/d/support.jsonl", "line": at + 1, "held_out": at == 2, "problems": problems, "parts": ["user", "assistant"],
                "pieces": pieces, "raw": self.raw,
            }  # fmt: skip
        if "places" in request:
            return [line - 1 for _, line in request["places"]]
        return 40 if request["find"] == "parcel" else None

    async def close(self) -> None:
        self.closed = True


made: list[Rows] = []


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> type[Rows]:
    kind = type("Rows", (Rows,), {})
    made.clear()
    monkeypatch.setattr("tui.screens.data.RowsChild", kind)
    return kind


async def to_data(pilot: Pilot[None]) -> RowList:
    await pilot.press("2")
    await until(pilot, lambda: isinstance(pilot.app.screen, DataScreen))
    await settle(pilot)
    await pilot.pause(0.08)
    await settle(pilot)
    return pilot.app.screen.query_one(RowList)


@pytest.mark.parametrize("size", SIZES)
def test_rows_with_their_mask_lengths_and_problems(
    size: tuple[int, int], project: Make, rows: type[Rows], rows_file: Path
) -> None:
    project("support-bot", "qwen3-0.6b", (str(rows_file),))

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_data(pilot)
        compare(app, "data")

    run(play, size)
    assert made[0].model == "qwen3-0.6b" and made[0].arguments[0] == str(rows_file) and made[0].closed


@pytest.mark.parametrize("size", SIZES)
def test_without_files_it_asks_for_them(size: tuple[int, int], project: Make, rows: type[Rows]) -> None:
    project("support-bot", "qwen3-0.6b")

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_data(pilot)
        compare(app, "data-empty")

    run(play, size)
    assert not made


@pytest.mark.parametrize("size", SIZES)
def test_an_error_says_what_where_and_which_keys_mend_it(
    size: tuple[int, int], project: Make, rows: type[Rows], rows_file: Path
) -> None:
    project("support-bot", "qwen3-0.6b", (str(rows_file),))
    rows.error = ChildError("support.jsonl: holds no rows", "name another file")  # pyright: ignore[reportAttributeAccessIssue]

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_data(pilot)
        compare(app, "data-error")
        rows.error = None
        await pilot.press("ctrl+l")
        await until(pilot, lambda: "1 / 1,204" in frame(app))

    run(play, size)


def test_reading_can_be_stopped(project: Make, rows: type[Rows], rows_file: Path) -> None:
    project("support-bot", "qwen3-0.6b", (str(rows_file),))
    rows.waits = True

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await pilot.press("2")
        await until(pilot, lambda: "Reading the rows" in frame(app))
        await pilot.press("x")
        await until(pilot, lambda: "! stopped" in frame(app) and made[0].closed)

    run(play)


def test_stepping_finding_and_views(project: Make, rows: type[Rows], rows_file: Path) -> None:
    project("support-bot", "qwen3-0.6b", (str(rows_file),))

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        table = await to_data(pilot)
        seen: list[int] = []
        for _ in range(4):
            await pilot.press("n")
            seen.append(table.row)
        assert seen == [9, 11, 17, 18]
        await pilot.press("k")
        await until(pilot, lambda: "no JSON at column 12" in frame(app) and '{"messages": []}' in frame(app))
        await pilot.press("slash", *"parcel", "enter")
        await until(pilot, lambda: table.row == 40)
        await pilot.press("escape", "t")
        await until(pilot, lambda: "<|im_start|>user" in frame(app))
        assert "⟦Sorry about" in frame(app)
        await pilot.press("r", "G")
        await until(pilot, lambda: "1,204 / 1,204" in frame(app))
        assert max(request["rows"][0] for request in made[0].asked if "rows" in request) == 1200

    run(play)


def test_a_hundred_thousand_rows_are_held_by_the_page_only(project: Make, rows: type[Rows], rows_file: Path) -> None:
    project("support-bot", "qwen3-0.6b", (str(rows_file),))
    rows.total = 100_000

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        table = await to_data(pilot)
        await pilot.press("G", "pageup", "g", *["pagedown"] * 5)
        await until(pilot, lambda: len(table.pages) >= 2)
        assert table.row > 50 and sum(map(len, table.pages.values())) <= 1200

    run(play)


@pytest.mark.parametrize("size", SIZES)
def test_the_worst_rows_come_first_with_every_tokens_loss(
    size: tuple[int, int], project: Make, rows: type[Rows], rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("support-bot", "qwen3-0.6b", (str(rows_file),))
    values = [None] * 14 + [-0.1, -2.5, -0.2, -7.0, *[-0.5] * 13]
    scored = [
        {"file": "/d/support.jsonl", "line": line, "loss": loss, "logprobs": values} for line, loss in ((3, 4.25), (900, 3.5))
    ]
    stand_in = StandIn(eval={"loss": 1.9, "rows": scored})
    monkeypatch.setattr("tui.screens.data.ask", stand_in)

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        table = await to_data(pilot)
        await pilot.press("w")
        await until(pilot, lambda: table.order is not None and "‹about›" in frame(app))
        app.clear_notifications()
        await until(pilot, lambda: not app._notifications)
        await pilot.pause(0.1)
        compare(app, "data-worst")
        assert table.row == 2 and "«.»" in frame(app)
        await pilot.press("escape")
        assert table.order is None and table.row == 2

    run(play, size)
    assert stand_in.asked[0][:5] == ["eval", "--model", "qwen3-0.6b", "--data", str(rows_file)]


@pytest.mark.parametrize("size", SIZES)
def test_hostile_rows_appear_literally(size: tuple[int, int], project: Make, rows: type[Rows], rows_file: Path) -> None:
    project("support-bot", "qwen3-0.6b", (str(rows_file),))
    rows.words, rows.raw = (HOSTILE,), HOSTILE * 3

    async def play(pilot: Pilot[None], app: EdgeTune) -> None:
        await to_data(pilot)
        for key in ("m", "t", "r"):
            await pilot.press(key)
            await settle(pilot)
            text = frame(app)
            assert "\\x1b[31mred" in text and "[/foo]" in text and not set(text) & set("\x1b\x9b\x07\u202e\u2066")
        assert app.is_running

    run(play, size)


def test_the_real_child_reads_pages_rows_and_finds(starter: Path) -> None:
    async def go() -> None:
        child = RowsChild(str(starter), [str(starter / "demo" / "train.jsonl"), "--set", "data.valid=0"])
        stages: set[str] = set()
        report = await child.open(lambda event: stages.add(getattr(event, "stage", "")))
        assert report["total"] == 408 and {"reading", "sorting"} <= stages
        first, page = await child.ask(rows=[400, 20])
        assert first == 400 and len(page) == 8 and page[0][5] == 401
        row = await child.ask(row=2)
        assert row["parts"] == ["user", "assistant"]
        assert "".join(text for text, flags, part in row["pieces"] if part == 0) == "Tell me about the Dewbell."
        assert "".join(text for text, flags, _ in row["pieces"] if flags & 1).startswith("The Dewbell is a small machine")
        assert await child.ask(find="no such words") is None
        with pytest.raises(ChildError, match="there is no row 9999"):
            await child.ask(row=9999)
        await child.close()
        with pytest.raises(ChildError, match="no such file"):
            await RowsChild(str(starter), ["/no/such.jsonl"]).open(lambda event: None)

    asyncio.run(go())
