"""2 Data: the rows as the model sees them, what of them is trained, and what is wrong with which."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Input

from edgetune.errors import EdgeTuneError
from edgetune.events import AnyEvent, Progress
from edgetune.units import count, duration, percent
from tui.child import ChildError, ask
from tui.literal import literal, one_line
from tui.row_text import Logprobs, complaints, legend, masked, raw, templated
from tui.rows import RowsChild
from tui.screens.stage import Stage
from tui.widgets.bars import amount
from tui.widgets.panel import Lines, Panel
from tui.widgets.row_list import PAGE, RowList

HELD = 300  # rows whose details are remembered
SETTLED = 0.04  # seconds that the cursor rests before a row is asked for
FORGET = 180.0  # seconds after leaving until the child that holds the rows is ended
SCORED, WORST = 1000, 200  # rows that are scored at most, and shown
WORDS = {
    "dropped": "longer than allowed, left out",
    "cut": "longer than allowed, cut",
    "split": "longer than allowed, split",
    "duplicate": "the same as another row, or nearly",
    "leak": "held out, and trained on as well",
    "kinds": "another kind of row begins here",
    "json": "no valid JSON",
    "row": "not a row that can be learned",
    "encoding": "not valid text",
    "template": "refused by the chat template",
    "untrained": "nothing to learn in it",
}
VIEWS = {"mask": "as the model sees it", "template": "as the template writes it", "raw": "as the file has it"}
Report = Mapping[str, Any]


class DataScreen(Stage):
    """Rows at the left, one of them at the right; lengths and problems below."""

    number = 2
    help = (
        "What exactly will be learned. ▌ stands before what is trained; all else is context. n steps from problem to problem. "
        "w scores rows with the base model as it is and shows first those that it expects least: wrong labels are among them."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "open", "Open", id="data.open", tooltip="Chooses files of rows"),
        Binding("n", "next", "Next problem", id="data.next", tooltip="To the next row with a problem"),
        Binding("w", "worst", "Worst", id="data.worst", tooltip="Each token's loss under the base model, the worst rows first"),
        Binding("r", "raw", "Raw", id="data.raw", tooltip="The row as it is written; again: as the model sees it"),
        Binding("slash", "find", "Find", id="data.find", key_display="/", tooltip="The next row that holds a text"),
        Binding("m", "mask", show=False, id="data.mask", tooltip="What is trained, and what is context"),
        Binding("t", "template", show=False, id="data.template", tooltip="Every token, as the chat template writes it"),
        Binding("ctrl+l", "again", show=False, id="data.again", tooltip="Reads the files anew"),
        Binding("x", "cancel", show=False, id="data.cancel", tooltip="Stops reading or scoring"),
        Binding("escape", "back", show=False, id="data.back"),
    ]
    DEFAULT_CSS = """
    DataScreen #source { height: 3; }
    DataScreen #find { display: none; }
    DataScreen #find.open { display: block; }
    DataScreen #said { padding: 1 2; height: 1fr; border: round $line; display: none; }
    DataScreen.-empty #said { display: block; }
    DataScreen.-empty #rows, DataScreen.-empty #facts, DataScreen.-empty #short { display: none; }
    DataScreen #rows { height: 1fr; }
    DataScreen #list-panel { width: 1fr; height: 1fr; padding: 0; }
    DataScreen #row-panel { width: 1fr; height: 1fr; }
    DataScreen #row-scroll { height: 1fr; scrollbar-size-vertical: 1; }
    DataScreen #row-lines, DataScreen #legend { height: auto; }
    DataScreen #legend { margin-top: 1; }
    DataScreen #facts { height: 10; }
    DataScreen #facts > Panel { width: 1fr; height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.child: RowsChild | None = None
        self.source: tuple[str, ...] = ()  # model and arguments that the child reads, or has read
        self.report: Report | None = None
        self.wrong: ChildError | None = None
        self.told = ""
        self.details: dict[int, Mapping[str, Any]] = {}
        self.logprobs: dict[int, Logprobs] = {}
        self.view = "mask"
        self.problems: list[int] = []
        self.sought = ""
        self.resting: Timer | None = None
        self.forgetting: Timer | None = None
        self.scoring = ""

    def body(self) -> ComposeResult:
        """All panels; what has nothing to show yet is hidden behind one that says what is missing."""
        yield Panel(Lines(id="source-lines"), title="Source", remark="o to change", id="source")
        yield Input(placeholder="find a text in all rows, ⏎ goes to the next", id="find", classes="line")
        yield Lines(id="said")
        with Horizontal(id="rows"):
            yield Panel(RowList(id="list"), title="Examples", id="list-panel")
            with Panel(title="Example", id="row-panel"), VerticalScroll(id="row-scroll", can_focus=False), Vertical():
                yield Lines(id="row-lines")
                yield Lines(id="legend")
        with Horizontal(id="facts", classes="wide-only"):
            yield Panel(Lines(id="lengths-lines"), title="Lengths in tokens", id="lengths")
            yield Panel(Lines(id="problems-lines"), title="Problems", id="problems")
        yield Panel(Lines(id="short-lines"), title="Problems", id="short", classes="narrow-only")

    def on_mount(self) -> None:
        """The list has the focus."""
        super().on_mount()
        self.query_one(RowList).focus()

    async def on_unmount(self) -> None:
        """The child ends with the app."""
        if self.child:
            await self.child.close()

    # ---- reading -----------------------------------------------------------------------------------------------------

    def desk_changed(self) -> None:
        """Another model, other files or other settings are read anew."""
        desk = self.desk
        wanted = (desk.base_model, *desk.data_arguments) if desk.base_model and desk.config.data.train else ()
        if wanted != self.source or (wanted and self.child is None and self.wrong is None and not self.told):
            self.source = wanted
            self.read()
        elif not wanted:
            self.show_empty()

    def on_screen_resume(self) -> None:
        """The rows are still there, or are read again."""
        if self.forgetting:
            self.forgetting.stop()
        super().on_screen_resume()

    def on_screen_suspend(self) -> None:
        """Some minutes later the memory is given back."""
        self.forgetting = self.set_timer(FORGET, self.forget)

    async def forget(self) -> None:
        """Ends the child; the rows are read again when they are asked for."""
        child, self.child = self.child, None
        if child:
            await child.close()

    @work(exclusive=True, group="read")
    async def read(self) -> None:
        """Starts a child on the files, and shows what it found."""
        await self.forget()
        self.report, self.wrong, self.told = None, None, ""
        self.details.clear()
        self.logprobs.clear()
        if not self.source:
            self.show_empty()
            return
        self.told = "Reading the rows…"
        self.show_empty()
        self.child = child = RowsChild(self.source[0], self.source[1:])
        try:
            self.report = await child.open(self.on_read)
        except ChildError as error:
            self.wrong = error
            await self.forget()
        except asyncio.CancelledError:
            await child.close()
            raise
        self.told = ""
        self.show()

    def on_read(self, event: AnyEvent) -> None:
        """How far the reading is."""
        if isinstance(event, Progress):
            number = f" {count(event.done)}" if event.done else ""
            self.told = "Looking for rows that repeat…" if event.stage == "sorting" else f"Reading the rows…{number}"
            self.query_one("#said", Lines).show(self.told, Content.styled("x stops", "$quiet"))

    # ---- showing -----------------------------------------------------------------------------------------------------

    def show_empty(self) -> None:
        """What is missing, and the key that brings it."""
        if not self.query("#said"):  # the app is ending
            return
        self.set_class(True, "-empty")
        self.query_one("#said", Lines).show(*self.missing())
        self.show_source()

    def missing(self) -> list[Content]:
        """Why there is nothing to see."""
        key, desk = "bold $primary", self.desk
        if desk.project is None:
            return [literal("No project is open."), Content.styled("0", key) + literal(" goes home, where n makes one")]
        if not desk.config.data.train:
            text = "Rows are what the model learns: chats, prompts with answers, or plain text."
            forms = Content.styled("JSONL, JSON, CSV, TSV, text, Parquet; several files are learned together", "$quiet")
            return [literal(text, "bold"), forms, Content(""), Content.styled("o", key) + literal(" chooses files")]
        if not desk.base_model:
            text = "How long a row is, and what of it is trained, depends on the model."
            return [literal(text), Content.styled("1", key) + literal(" chooses a base model")]
        if self.wrong:
            fetch = (
                [Content.styled("1", key) + literal(" shows the models; d fetches it there")]
                if "not on this machine" in self.wrong.message
                else []
            )
            keys = (
                Content.styled("ctrl+l", key)
                + literal(" reads again   ")
                + Content.styled("o", key)
                + literal(" chooses other files")
            )
            return [literal(f"! {self.wrong.message}", "$error"), literal(self.wrong.hint), Content(""), *fetch, keys]
        return [literal(self.told), Content.styled("x stops", "$quiet")]

    def show_source(self) -> None:
        """The files, and what they come to."""
        if not self.is_standing:
            return
        if not self.query("#source-lines"):
            return
        files = self.desk.config.data.train
        names = ", ".join(Path(name).name for name in files[:3]) + (f" +{len(files) - 3}" if len(files) > 3 else "")
        line = one_line(names or "no file yet", "bold" if files else "$quiet")
        if self.report:
            told = self.report
            rows = f" · {count(told['rows'])} rows → {count(told['train_rows'])} train + {count(told['valid_rows'])} held out"
            share = f" ({percent(told['trained_tokens'] / max(told['tokens'], 1))} trained)" if self.size.width >= 100 else ""
            line += literal(f"{rows} · {thousands(told['tokens'])} tokens{share}")
        if self.scoring:
            line += Content.styled(f"   {self.scoring}", "$primary")
        self.query_one("#source-lines", Lines).show(line)
        self.query_one("#source", Panel).remark("x stops" if self.scoring else "o to change")

    def show(self) -> None:
        """The report has come, or why there is none."""
        report = self.report
        if report is None or not self.query("#said"):
            self.show_empty()
            return
        self.set_class(False, "-empty")
        self.show_source()
        self.problems = sorted({at for group in report["groups"] for at in group[4]})
        rows = self.query_one(RowList)
        rows.reset(int(report["total"]))
        rows.announce()
        self.show_lengths(report)
        self.show_problems(report)

    def show_lengths(self, report: Report) -> None:
        """The histogram; its last bar is what is longer than allowed."""
        bins = report["bins"]
        most = max((number for _, number in bins), default=0)
        lines: list[Content] = []
        for label, number in bins:
            beyond = str(label).startswith(">")
            style = "$warning" if beyond else "$primary"
            end = Content.styled("  ← data.max_tokens", "$quiet") if beyond else Content("")
            lines.append(
                Content.styled(f"{label:>7} ", "$quiet") + amount(number, most, 28, style) + literal(f" {count(number)}") + end
            )
        self.query_one("#lengths-lines", Lines).show(*(lines or [Content.styled("nothing to measure", "$quiet")]))
        told = report["lengths"]
        self.query_one("#lengths", Panel).remark(f"half ≤ {count(told['median'])} · nine of ten ≤ {count(told['p90'])}")

    def show_problems(self, report: Report) -> None:
        """What is wrong, the gravest first."""
        groups = report["groups"]
        lines = [problem_line(group, report["longest_allowed"]) for group in groups[:7]]
        if report["refusal"]:
            lines.insert(0, literal("Training would refuse these rows.", "bold $error"))
        if not groups:
            lines.append(
                Content.styled("✓ ", "$success") + literal("nothing is wrong: form, roles, template, lengths, repeats")
            )
        self.query_one("#problems-lines", Lines).show(*lines)
        number = len(self.problems)
        keys = f"{count(number)} in {count(report['total'])} · n steps" if number else ""
        self.query_one("#problems", Panel).remark(keys)
        short = Content("  ").join(
            Content.styled(f"{sign} ", sign_style(sign)) + literal(f"{count(rows)} {short_word(kind)}")
            for kind, sign, rows, *_ in groups[:4]
        )
        told = report["lengths"]
        facts = Content.styled(f"half ≤ {count(told['median'])} tokens", "$quiet")
        fine = Content.styled("✓ ", "$success") + literal("nothing is wrong")
        self.query_one("#short-lines", Lines).show((short if groups else fine) + Content("   ") + facts)
        self.query_one("#short", Panel).remark(keys)

    # ---- the list ----------------------------------------------------------------------------------------------------

    async def on_row_list_page_wanted(self, message: RowList.PageWanted) -> None:
        """A page came into view."""
        self.run_worker(self.bring_page(message.first), group="pages")

    async def bring_page(self, first: int) -> None:
        """Asks for a page of the list."""
        child = self.child
        if child is None:
            return
        try:
            start, rows = await child.ask(rows=[first, PAGE])
        except ChildError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        if child is self.child:
            self.query_one(RowList).fill(start, rows)

    def on_row_list_highlighted(self, message: RowList.Highlighted) -> None:
        """Another row: it is shown when the cursor rests."""
        total = int(self.report["total"]) if self.report else 0
        panel, rows = self.query_one("#list-panel", Panel), self.query_one(RowList)
        some = (
            f"{rows.cursor + 1} of the {rows.length} worst"
            if rows.order is not None
            else f"{count(message.row + 1)} / {count(total)}"
        )
        panel.remark(some if total else "")
        if self.resting:
            self.resting.stop()
        if message.row in self.details:
            self.show_row(message.row)
        else:
            self.resting = self.set_timer(SETTLED, lambda: self.bring_row(message.row))

    @work(exclusive=True, group="row")
    async def bring_row(self, number: int) -> None:
        """Asks for a row in full."""
        child = self.child
        if child is None or not self.report or not self.report["total"]:
            return
        try:
            row = await child.ask(row=number)
        except ChildError as error:
            self.query_one("#row-lines", Lines).show(literal(error.message, "$error"), literal(error.hint, "$quiet"))
            return
        if len(self.details) >= HELD:
            self.details.pop(next(iter(self.details)))
        self.details[number] = row
        self.show_row(number)

    def show_row(self, number: int) -> None:
        """A row in the view that is chosen."""
        row = self.details.get(number)
        if row is None or number != self.query_one(RowList).row:
            return
        panel, scroll = self.query_one("#row-panel", Panel), self.query_one("#row-scroll", VerticalScroll)
        width = max(scroll.size.width - 1, 10)
        name = Path(str(row["file"])).name
        where = f" · {VIEWS[self.view]}" if self.size.width >= 100 else ""
        panel.retitle(f"Example {count(number + 1)}{where}")
        panel.remark(f"{name}:{row['line']} · m t r" if self.size.width >= 100 else "m mask · t template")
        view = "raw" if not row["pieces"] else self.view
        logprobs = self.logprobs.get(number)
        shown = {
            "mask": lambda: masked(row, width, logprobs),
            "template": lambda: templated(row, width),
            "raw": lambda: raw(row, width),
        }[view]()
        said = complaints(row, width)
        self.query_one("#row-lines", Lines).show(*said, *([Content("")] if said else []), *shown)
        self.query_one("#legend", Lines).show(
            legend(row, logprobs) if row["pieces"] else Content.styled("not learned", "$warning")
        )
        scroll.scroll_home(animate=False)

    def show_view(self, view: str) -> None:
        """Another view of the row."""
        self.view = view
        self.show_row(self.query_one(RowList).row)

    def on_resize(self) -> None:
        """Lines are broken anew."""
        if self.report:
            self.call_after_refresh(self.show_row, self.query_one(RowList).row)

    # ---- keys --------------------------------------------------------------------------------------------------------

    @work
    async def action_open(self) -> None:
        """Chooses files."""
        from tui.screens.choose_files import ChooseFiles

        if self.desk.project is None:
            self.edgetune.complain("No project is open", "0 goes home, n makes a project there")
            return
        files = await self.edgetune.push_screen_wait(ChooseFiles("Which files hold the rows?", self.desk.config.data.train))
        if files is None:
            return
        try:
            self.desk.change(**{"data.train": files})
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
        self.edgetune.show_desk()

    def action_next(self) -> None:
        """To the next row with a problem, around the end."""
        rows = self.query_one(RowList)
        if not self.problems:
            self.notify("Nothing is wrong with these rows" if self.report else "No rows are read yet", markup=False)
            return
        if rows.order is not None:
            rows.show_order(None, "Tok")
        at = bisect_right(self.problems, rows.row) % len(self.problems)
        rows.go_to_row(self.problems[at])

    def action_mask(self) -> None:
        """What is trained, and what is context."""
        self.show_view("mask")

    def action_template(self) -> None:
        """Every token, as the chat template writes it."""
        self.show_view("mask" if self.view == "template" else "template")

    def action_raw(self) -> None:
        """As the file has it."""
        self.show_view("mask" if self.view == "raw" else "raw")

    def action_again(self) -> None:
        """Reads the files anew."""
        self.read()

    def action_cancel(self) -> None:
        """Stops scoring, or reading."""
        if self.scoring:
            self.workers.cancel_group(self, "score")
        elif self.told:
            self.workers.cancel_group(self, "read")
            self.told, self.wrong = "", ChildError("stopped", "")
            self.show_empty()

    def action_find(self) -> None:
        """Asks for a text."""
        field = self.query_one("#find", Input)
        field.add_class("open")
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """To the next row that holds the text; the field stays, so that Enter goes on."""
        if text := event.value.strip():
            self.seek(text)

    @work(exclusive=True, group="find")
    async def seek(self, text: str) -> None:
        """Asks for the next row after the cursor's."""
        if self.child is None:
            return
        rows = self.query_one(RowList)
        try:
            found = await self.child.ask(find=text, after=rows.row)
        except ChildError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        if found is None:
            self.notify("No row holds it", title="Find", markup=False)
            return
        if rows.order is not None:
            rows.show_order(None, "Tok")
        rows.go_to_row(found)

    def action_back(self) -> None:
        """Out of the search, out of the worst rows, home."""
        field, rows = self.query_one("#find", Input), self.query_one(RowList)
        if field.has_class("open"):
            field.remove_class("open")
            rows.focus()
        elif rows.order is not None:
            rows.show_order(None, "Tok")
        else:
            self.edgetune.open_stage(0)

    # ---- losses ------------------------------------------------------------------------------------------------------

    def action_worst(self) -> None:
        """Scores rows with the base model, and shows first those that it expects least."""
        if self.report is None or self.child is None:
            self.notify("No rows are read yet", markup=False)
        elif not self.scoring:
            self.score()

    @work(exclusive=True, group="score")
    async def score(self) -> None:
        """The child does it; a long data set is scored in part, evenly."""
        desk = self.desk
        files = [part for name in desk.config.data.train for part in ("--data", name)]
        limits = ["--limit", str(SCORED), "--worst", str(WORST), "--max-tokens", str(desk.config.data.max_tokens)]
        self.scoring = "loading the model…"
        self.show_source()
        try:
            document = await ask(
                ["eval", "--model", desk.base_model, *files, "--per-token", *limits, "--offline"], self.on_score()
            )
            rows = document["rows"]
            places = await self.child.ask(places=[[row["file"], row["line"]] for row in rows]) if self.child else []
        except ChildError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        finally:
            self.scoring = ""
            self.show_source()
        order = [(place, f"{row['loss']:.2f}") for place, row in zip(places, rows, strict=False) if place is not None]
        self.logprobs = {place: row["logprobs"] for place, row in zip(places, rows, strict=False) if place is not None}
        self.view = "mask"
        self.query_one(RowList).show_order(order, "Loss")
        mean = f"{document['loss']:.2f} nats a token on average; esc shows all rows again"
        self.notify(mean, title="The worst rows come first", markup=False)

    def on_score(self) -> "Callable[[AnyEvent], None]":
        """Shows how far the scoring is, and how long it will take."""
        loop = asyncio.get_running_loop()
        began: list[float] = []

        def told(event: AnyEvent) -> None:
            if isinstance(event, Progress) and event.stage == "scoring" and event.total:
                began.append(loop.time())
                share = event.done / event.total
                spent = loop.time() - began[0]
                left = f", {duration(spent * (1 - share) / share)} left" if len(began) > 2 and share else ""
                self.scoring = f"scoring {count(event.done)} of {count(event.total)}{left}"
                self.show_source()

        return told


# ---- words -------------------------------------------------------------------------------------------------------------


def problem_line(group: Sequence[Any], allowed: int) -> Content:
    """One kind of problem: how many rows, what it is, where."""
    kind, sign, rows, message, at = group
    words = WORDS.get(kind, str(message))
    words = words.replace("longer than allowed", f"longer than {count(allowed)}")
    where = ", ".join(count(number + 1) for number in at[:2]) + (", …" if len(at) > 2 else "")
    head = Content.styled(f"{sign} {count(rows):>4} ", sign_style(sign))
    return head + one_line(f" {words}").truncate(34, ellipsis=True) + Content.styled(f"  {where}", "$quiet")


def sign_style(sign: str) -> str:
    """The colour of a sign."""
    return "bold $error" if sign == "!" else "bold $warning"


def short_word(kind: str) -> str:
    """A kind of problem in a word."""
    return {"dropped": "too long", "duplicate": "repeated", "leak": "leaked", "untrained": "empty"}.get(kind, kind)


def thousands(number: int) -> str:
    """A count of tokens in a few cells."""
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.0f}k" if number >= 1e4 else count(number)
