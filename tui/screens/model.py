"""1 Model: which base models there are, which are here, and which this machine can train."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import DataTable, Input

from edgetune.errors import EdgeTuneError
from edgetune.events import AnyEvent, Progress
from edgetune.units import count, duration, parameters, percent, size
from tui.child import ChildError, ask
from tui.fetch import Fetch
from tui.literal import cell, literal, one_line
from tui.screens.stage import Stage
from tui.widgets.bars import amount, bar
from tui.widgets.dialogs import Ask, Question
from tui.widgets.list_table import ListTable
from tui.widgets.panel import Lines, Panel

COLUMNS = (
    ("model", "Model", 18),
    ("size", ">Size", 6),
    ("disk", ">On disk", 8),
    ("licence", "Licence", 10),
    ("train", ">To train", 8),
    ("here", "Here", 7),
    ("have", "", 1),
)
TIGHT = 0.85  # of what is usable
PARTS = ("weights", "folded weights", "trained", "optimizer", "gradients", "activations", "scratch")
STYLES = {"weights": "$primary", "activations": "$secondary", "scratch": "$secondary"}
Row = Mapping[str, Any]


class ModelScreen(Stage):
    """The table at the left; what the chosen model is, and what training it takes, at the right."""

    number = 1
    help = (
        "The base model is what you start from. To train: the least memory that a usual run takes here (LoRA rank 16, rows of "
        "1,024 tokens). Enter takes a model for the project; one that is not here yet is fetched first. ● is on this machine."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Take", show=False, id="model.take", tooltip="This is the project's base model"),
        Binding("d", "download", "Download", id="model.download", tooltip="Fetches the model; goes on where it was broken off"),
        Binding("slash", "filter", "Filter", id="model.filter", key_display="/", tooltip="By name, licence, family"),
        Binding("f", "fits", "Fits only", id="model.fits", tooltip="Shows only what this machine can train"),
        Binding("i", "import", "Import", id="model.import", tooltip="A model folder of your own"),
        Binding("x", "cancel", "Cancel", show=False, id="model.cancel", tooltip="Stops the download; what has come is kept"),
        Binding("r", "again", "Look again", show=False, id="model.again", tooltip="Reads the list of models anew"),
        Binding("escape", "back", "Back", show=False, id="model.back"),
    ]
    DEFAULT_CSS = """
    ModelScreen #main { height: 1fr; }
    ModelScreen #models { width: 2fr; height: 1fr; padding: 0; }
    ModelScreen #said { padding: 1 2; color: $quiet; height: auto; }
    ModelScreen #side { width: 40; height: 1fr; }
    ModelScreen #about { height: auto; }
    ModelScreen #memory { height: 1fr; }
    ModelScreen #download { display: none; }
    ModelScreen #download.open { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] | None = None
        self.usable = 0
        self.offline = False
        self.kept: dict[str, int] = {}  # bytes of downloads that were broken off
        self.wanted, self.only_fits = "", False
        self.fetch: Fetch | None = None
        self.wrong: ChildError | None = None

    def body(self) -> ComposeResult:
        """A line to filter by, the table, and what is known of the chosen one."""
        yield Input(placeholder="/ filter by name, licence, family…", id="filter", classes="line")
        with Horizontal(id="main"):
            with Panel(title="Base models", id="models"):
                yield Lines(id="said")
                yield ListTable(*COLUMNS, id="list")
            with Vertical(id="side", classes="wide-only"):
                yield Panel(Lines(id="about-lines"), title="About", id="about")
                yield Panel(Lines(id="memory-lines"), title="Memory to train", id="memory")
        yield Panel(Lines(id="download-lines"), title="Download", remark="x cancels, what has come is kept", id="download")
        yield Panel(Lines(id="selected-lines"), title="Selected", id="selected", classes="narrow-only")

    def on_mount(self) -> None:
        """The list has the focus; its models are asked for."""
        super().on_mount()
        self.query_one(ListTable).focus()
        self.set_interval(0.25, self.follow_fetch)
        self.run_worker(self.find_fetch, thread=True, group="fetch")
        self.look()

    # ---- what is known -----------------------------------------------------------------------------------------------

    @work(exclusive=True, group="look")
    async def look(self) -> None:
        """Asks our own command line for all models."""
        try:
            document = await ask(["models"])
        except ChildError as error:
            self.wrong = error
            self.show()
            return
        self.wrong = None
        self.rows = list(document.get("models", []))
        self.usable, self.offline = int(document.get("usable_bytes", 0)), bool(document.get("offline"))
        self.kept = {str(left.get("name")): int(left.get("bytes", 0)) for left in document.get("unfinished", [])}
        self.show()
        self.choose_own()

    def choose_own(self) -> None:
        """The cursor begins at the project's own model."""
        if not self.is_standing:
            return
        name = self.desk.base_model
        own = next((row for row in self.rows or [] if name and name in (row["name"], row["repository"], row["path"])), None)
        if own:
            self.query_one(ListTable).choose(str(own["name"]))

    def desk_changed(self) -> None:
        """The project's model may be another."""
        if self.rows is not None:
            self.show()

    def shown(self) -> list[Row]:
        """The models that pass the filters."""
        words = self.wanted.split()
        passed: list[Row] = []
        for row in self.rows or []:
            text = f"{row['name']} {row['repository']} {row['license']} {row['family']} {row['summary']}".casefold()
            if all(word in text for word in words) and (row["fits"] or not self.only_fits):
                passed.append(row)
        return passed

    def show(self) -> None:
        """The table and the boxes beside it."""
        if not self.is_standing:
            return
        if not self.query("#said"):  # the app is ending
            return
        said, table = self.query_one("#said", Lines), self.query_one(ListTable)
        shown = self.shown()
        said.display = not shown
        table.display = bool(shown)
        if self.wrong:
            said.show(
                literal(self.wrong.message, "$error"), literal(self.wrong.hint), Content.styled("r looks again", "$primary")
            )
        elif self.rows is None:
            said.show("Looking which models there are…")
        elif not shown:
            said.show("No model matches.", Content.styled("esc shows all", "$primary"))
        table.show_rows([(str(row["name"]), self.cells(row)) for row in shown])
        here = "fits here · " if self.only_fits else ""
        self.query_one("#models", Panel).remark(
            f"{here}{len(shown)} of {len(self.rows or [])} · ● on disk" if self.rows else ""
        )
        self.show_chosen()

    def cells(self, row: Row) -> list[Text]:
        """One line of the table."""
        theme = self.app.theme_variables
        quiet = theme.get("quiet", "")
        glyph, word, style = self.verdict(row)
        mine = self.is_own(row)
        known = int(row["parameters"])
        have = "!" if row["problem"] else "●" if row["path"] else "◐" if self.is_kept(row) else ""
        return [
            cell(row["name"], f"bold {theme.get('primary', '')}" if mine else ""),
            cell(parameters(known).replace(" ", "") if known else "–", right=True),
            cell(size(row["bytes"]) if row["bytes"] else "–", quiet, right=True),
            cell(short_licence(row["license"]), quiet),
            cell(size(row["to_train_bytes"]) if row["to_train_bytes"] else "–", right=True),
            cell(f"{glyph} {word}", theme.get(style.removeprefix("$"), "")),
            cell(have, theme.get("warning" if row["problem"] else "primary", "")),
        ]

    def verdict(self, row: Row) -> tuple[str, str, str]:
        """Whether this machine can train it: glyph, word, colour."""
        if row["problem"]:
            return "!", "broken", "$warning"
        if not row["fits"]:
            return "✗", "no", "$error"
        return ("~", "tight", "$warning") if row["to_train_bytes"] > TIGHT * self.usable else ("✓", "fits", "$success")

    def is_own(self, row: Row) -> bool:
        """Whether it is the project's model."""
        return bool(self.desk.base_model) and self.desk.base_model in (row["name"], row["repository"], row["path"])

    def is_kept(self, row: Row) -> bool:
        """Whether a part of it is here."""
        return row["repository"] in self.kept or row["name"] in self.kept

    @property
    def chosen(self) -> Row | None:
        """The model under the cursor."""
        key = self.query_one(ListTable).chosen
        return next((row for row in self.rows or [] if row["name"] == key), None)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The boxes follow the cursor."""
        self.show_chosen()

    def show_chosen(self) -> None:
        """What is known of the model under the cursor."""
        row = self.chosen
        about, memory = self.query_one("#about-lines", Lines), self.query_one("#memory-lines", Lines)
        selected = self.query_one("#selected-lines", Lines)
        if row is None:
            for lines in (about, memory, selected):
                lines.show(Content.styled("–", "$quiet"))
            return
        self.query_one("#memory", Panel).remark("change in 3 Train" if row["to_train"] else "")
        about.show(*self.about(row))
        memory.show(*memory_lines(row, self.usable, self.verdict(row)))
        selected.show(self.selected(row))

    def about(self, row: Row) -> list[Content]:
        """What it is, and how it comes here."""
        licence = one_line(row["license"] or "licence unknown")
        lines = [one_line(row["name"], "bold"), one_line(row["family"], "$quiet") + Content.styled(" · ", "$quiet") + licence]
        if row["summary"]:
            lines += [Content(""), literal(row["summary"])]
        if row["layers"]:
            facts = f"{row['layers']} layers · {thousands(row['context'])} context"
            template = "chat template ✓" if row["template"] else "! no chat template: for text, not for chats"
            lines += [Content(""), literal(facts), literal(template, "" if row["template"] else "$warning")]
        return [*lines, Content(""), *self.where(row)]

    def where(self, row: Row) -> list[Content]:
        """Whether it is here, and the key that gets or takes it."""
        key = Content.styled("⏎ ", "bold $primary")
        if row["problem"]:
            return [literal(row["problem"], "$warning"), Content.styled("d ", "bold $primary") + literal("fetches it again")]
        if row["path"]:
            mine = self.is_own(row)
            done = Content.styled("✓ ", "$success") + literal("the project's model") if mine else literal("takes it")
            return [Content.styled("● on this machine", "$primary"), key + done]
        if row["gated"]:
            page = f"huggingface.co/{row['repository']}"
            text = f"! Its licence is accepted on the hub first: {page}. Then set HF_TOKEN and press d."
            return [literal(text, "$warning")]
        if self.offline:
            return [literal("! Offline: it cannot be fetched now. i imports a folder from another machine.", "$warning")]
        kept = next((number for name, number in self.kept.items() if name in (row["repository"], row["name"])), 0)
        more = f"goes on: {size(kept)} of {size(row['bytes'])} are here" if kept else f"fetches {size(row['bytes'])}"
        return [Content.styled("d ", "bold $primary") + literal(more)]

    def selected(self, row: Row) -> Content:
        """The same in one line."""
        glyph, word, style = self.verdict(row)
        share = row["to_train_bytes"] / max(self.usable, 1)
        facts = f" · {row['layers']} layers · {thousands(row['context'])} context" if row["layers"] else ""
        if row["problem"]:
            return one_line(row["name"], "bold") + one_line(f"  {row['problem']}", "$warning")
        peak = f"  {row['to_train_bytes'] / 1e9:.1f}/{self.usable / 1e9:.1f} GB "
        verdict = Content.styled(f"  {glyph} {word}", style)
        return one_line(row["name"], "bold") + Content.styled(facts, "$quiet") + literal(peak) + bar(share, 8, style) + verdict

    # ---- keys --------------------------------------------------------------------------------------------------------

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter takes the model."""
        self.action_take()

    @work
    async def action_take(self) -> None:
        """The project's base model is this; it is fetched first where it is not here."""
        row = self.chosen
        if row is None:
            return
        if row["problem"]:
            self.edgetune.complain(str(row["problem"]), "d fetches it again")
            return
        if not row["path"]:
            detail = f"{size(row['bytes'])} come from the hub, verified. Meanwhile you can choose rows."
            if not await self.edgetune.push_screen_wait(
                Question(f"Download {row['name']}?", detail, yes="Download", no="Not now")
            ):
                return
            if not self.begin(row):
                return
        if self.take(row):
            self.edgetune.open_stage(2)

    def take(self, row: Row) -> bool:
        """Puts the model into the project's config; whether there is a project."""
        if self.desk.project is None:
            self.edgetune.complain("No project is open", "0 goes home, n makes a project there")
            return False
        try:
            self.desk.change(model=row["name"])
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return False
        self.edgetune.show_desk()
        return True

    def action_download(self) -> None:
        """Fetches the model under the cursor."""
        row = self.chosen
        if row is not None and row["path"] and not row["problem"]:
            self.notify("It is on this machine already", title=one_line(row["name"]).plain, markup=False)
        elif row is not None:
            self.begin(row)

    def begin(self, row: Row) -> bool:
        """Starts the download; whether it could."""
        if self.fetch and not self.fetch.done:
            self.edgetune.complain(f"{self.fetch.name} is being fetched", "one after the other; x cancels it")
            return False
        if self.offline:
            self.edgetune.complain("This machine is offline (HF_HUB_OFFLINE)", "start without it, or i imports a folder")
            return False
        name = str(row["repository"] or row["name"])
        try:
            self.fetch = Fetch.start(str(row["name"]), name)
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return False
        self.take_fetch(self.fetch)
        return True

    def find_fetch(self) -> None:
        """A download that goes on since before is shown again."""
        if found := Fetch.at_work():
            self.app.call_from_thread(self.take_fetch, found)

    def take_fetch(self, fetch: Fetch) -> None:
        """Shows a download that is at work."""
        self.fetch = self.fetch or fetch
        self.query_one("#download").add_class("open")
        self.follow_fetch()

    def action_cancel(self) -> None:
        """Stops the download."""
        if self.fetch and not self.fetch.done:
            self.fetch.cancel()

    def follow_fetch(self) -> None:
        """Shows how far the download is, and what came of it."""
        fetch = self.fetch
        if fetch is None:
            return
        fetch.poll()
        if not fetch.done:
            self.query_one("#download-lines", Lines).show(fetch_line(fetch, self.size.width >= 100))
            return
        self.fetch = None
        self.query_one("#download").remove_class("open")
        if fetch.error:
            self.edgetune.complain(fetch.error.message, fetch.error.hint)
        elif fetch.cancelled:
            self.notify("What has come is kept: d goes on", title=f"{fetch.name} is not complete", markup=False)
        else:
            self.notify("It is on this machine now", title=fetch.name, markup=False)
        self.look()

    def action_fits(self) -> None:
        """Only what this machine can train, or all."""
        self.only_fits = not self.only_fits
        self.show()

    def action_again(self) -> None:
        """Reads the list anew."""
        self.look()

    @work
    async def action_import(self) -> None:
        """A model folder from elsewhere is checked and copied."""
        hint = "A Hugging Face folder with config.json, weights and a tokenizer. It is checked, then copied."
        path = await self.edgetune.push_screen_wait(Ask("Import which folder?", hint, placeholder="~/Downloads/my-model"))
        if not path:
            return
        lines, panel = self.query_one("#download-lines", Lines), self.query_one("#download", Panel)
        panel.retitle("Import")
        panel.remark("")
        panel.add_class("open")
        lines.show("Checking…")

        def told(event: AnyEvent) -> None:
            if isinstance(event, Progress) and event.total:
                lines.show(
                    literal(f"{event.stage}  ")
                    + bar(event.done / event.total, 24)
                    + literal(f" {percent(event.done / event.total)}")
                )

        try:
            document = await ask(["models", "import", str(Path(path).expanduser().absolute())], told)
        except ChildError as error:
            self.edgetune.complain(error.message, error.hint)
        else:
            names = ", ".join(str(row.get("name")) for row in document.get("models", []))
            self.notify("It is in the list now", title=f"{names} is imported", markup=False)
        finally:
            panel.remove_class("open")
            panel.retitle("Download")
            panel.remark("x cancels, what has come is kept")
        self.look()

    def action_filter(self) -> None:
        """Into the line of the filter."""
        self.query_one("#filter", Input).focus()

    def action_back(self) -> None:
        """Out of the filter first, then home."""
        field = self.query_one("#filter", Input)
        if field.has_focus or self.wanted or self.only_fits:
            field.value, self.wanted, self.only_fits = "", "", False
            self.query_one(ListTable).display = True
            self.query_one(ListTable).focus()
            self.show()
        else:
            self.edgetune.open_stage(0)

    def on_input_changed(self, event: Input.Changed) -> None:
        """The table follows the filter as it is typed."""
        self.wanted = event.value.strip().casefold()
        self.show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the table, filtered."""
        self.query_one(ListTable).focus()


# ---- words -------------------------------------------------------------------------------------------------------------


def memory_lines(row: Row, usable: int, verdict: tuple[str, str, str]) -> list[Content]:
    """Bytes by part as bars, and their sum against what is usable."""
    parts: Mapping[str, int] = row["to_train"]
    if not parts:
        return [Content.styled("Not known: the model cannot be read.", "$quiet")]
    shown = [(name, int(parts[name])) for name in PARTS if parts.get(name)]
    rest = sum(int(number) for name, number in parts.items() if name not in PARTS)
    shown = [(name, number) for name, number in [*shown, ("other", rest)] if number]
    most = max(number for _, number in shown)
    lines = [part_line(name, number, most) for name, number in shown]
    glyph, word, style = verdict
    peak = Content.styled(f"{'peak':<12}", "$quiet") + Content.styled(f"{row['to_train_bytes'] / 1e9:5.2f} GB", "bold")
    of = Content.styled(f" of {usable / 1e9:.1f} usable", "$quiet")
    rule = Content.styled("─" * 34, "$line")
    fits = Content.styled(f"{glyph} {word}", style)
    settings = Content.styled("rank 16 · rows of 1,024 tokens", "$quiet")
    return [*lines, rule, peak + of, fits, Content(""), settings]


def part_line(name: str, number: int, most: int) -> Content:
    """One part: its name, its size, its bar."""
    label = Content.styled(f"{name[:11]:<12}", "$quiet")
    return label + literal(f"{number / 1e9:5.2f} GB ") + amount(number, most, 13, STYLES.get(name, "$success"))


def fetch_line(fetch: Fetch, wide: bool) -> Content:
    """How far a download is."""
    name = one_line(fetch.name, "bold")
    if fetch.progress is None:
        return name + Content.styled("  asking the hub…", "$quiet")
    told = fetch.progress
    left = "" if fetch.seconds_left is None else f"  {duration(fetch.seconds_left)} left"
    rate = f"  {size(fetch.rate)}/s" if fetch.rate else ""
    amounts = f"  {size(told.done)} of {size(told.total)}" if wide else ""
    waiting = one_line(f"  {fetch.warning}", "$warning") if fetch.warning and not fetch.rate else Content("")
    share = Content.styled(f" {percent(fetch.share):>7}", "bold")
    return name + Content("  ") + bar(fetch.share, 30 if wide else 16) + share + literal(f"{amounts}{rate}{left}") + waiting


def thousands(number: int) -> str:
    """A context's tokens as people say them: 40k."""
    return f"{number // 1024}k" if number >= 1024 else count(number)


def short_licence(name: str) -> str:
    """A licence in ten cells."""
    return {"apache-2.0": "Apache-2.0", "mit": "MIT", "llama3.2": "Llama 3.2", "gemma": "Gemma"}.get(
        str(name), str(name) or "–"
    )
