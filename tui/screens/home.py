"""Home: the projects, how far each is, and what comes next."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import DataTable, Input

from edgetune.errors import EdgeTuneError
from edgetune.units import count, duration, percent, size
from edgetune.workspace.runs import RUNNING
from tui import store
from tui.desk import way_of
from tui.literal import cell, literal, one_line
from tui.overview import Overview, RunLine, Standing, ago, all_overviews, lasted, machine_facts
from tui.ratings import has_ratings
from tui.screens.stage import Stage
from tui.widgets.dialogs import Ask, Question
from tui.widgets.list_table import ListTable
from tui.widgets.panel import Lines, Panel
from tui.widgets.top_bar import GLYPHS, NAMES, STYLES, Way

STARTER = "starter"  # the project that a first start opens on
COLUMNS = (
    ("project", "Project", 16),
    ("model", "Base model", 16),
    ("stage", "Stage", 17),
    ("loss", ">Held-out", 8),
    ("changed", "Changed", 10),
)
WELCOME = (
    "Welcome. This project trains EdgeTune's own small model on the support desk of an invented product: "
    "offline, in about two minutes. Then bring your own rows."
)


class Home(Stage):
    """Projects at the left; the chosen one's card and runs at the right, or in two lines below where it is narrow."""

    number = 0
    help = (
        "Every project is a base model, rows to learn from, runs and exports. Enter opens the chosen one where its next "
        "step is. Closing the app leaves a run going; opening it again shows it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", show=False, id="home.open", tooltip="Opens the project where its next step is"),
        Binding("n", "new", "New", id="home.new", tooltip="A new project"),
        Binding(
            "slash", "filter", "Filter", id="home.filter", key_display="/", tooltip="Shows projects whose name holds a text"
        ),
        Binding("r", "rename", "Rename", id="home.rename", tooltip="Gives the project another name"),
        Binding("backspace", "delete", "Delete", id="home.delete", key_display="⌫", tooltip="Puts the project into the trash"),
        Binding("d", "doctor", "Doctor", id="home.doctor", tooltip="What this machine has, and how to mend what is missing"),
        Binding("escape", "leave_filter", show=False, id="home.back"),
    ]
    DEFAULT_CSS = """
    Home #main { height: 1fr; }
    Home #projects { width: 2fr; height: 1fr; padding: 0; }
    Home #side { width: 40; height: 1fr; }
    Home #card { height: auto; max-height: 15; }
    Home #runs { height: 1fr; }
    Home #filter { display: none; }
    Home #filter.open { display: block; }
    Home #next { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Overview] | None = None
        self.wanted = ""
        self.facts: list[tuple[str, str]] = []

    def body(self) -> ComposeResult:
        """Everything is there at once, and filled as it is found."""
        yield Input(placeholder="filter by name or model…", id="filter", classes="line")
        with Horizontal(id="main"):
            yield Panel(ListTable(*COLUMNS, id="list"), title="Projects", id="projects")
            with Vertical(id="side", classes="wide-only"):
                yield Panel(Lines(id="card-lines"), title="…", id="card")
                yield Panel(Lines(id="runs-lines"), title="Runs", id="runs")
        yield Panel(Lines(id="next-lines"), title="Next", id="next", classes="narrow-only")
        yield Panel(Lines(id="machine-lines"), title="This machine", id="machine", classes="wide-only")

    def on_mount(self) -> None:
        """The list has the focus, so that every key works."""
        super().on_mount()
        self.query_one(ListTable).focus()
        self.look_at_machine()

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def on_screen_resume(self) -> None:
        """Projects are looked at anew whenever home appears."""
        super().on_screen_resume()
        self.look()

    @work(thread=True, exclusive=True, group="look")
    def look(self) -> None:
        """Reads all projects; on a first start it makes the one to begin with."""
        found = all_overviews()
        if not found and not (store.projects_folder()).exists():
            try:
                from edgetune.workspace.demo_config import starter_config

                store.create(STARTER, starter_config())
                found = all_overviews()
            except EdgeTuneError as error:
                self.app.call_from_thread(self.edgetune.complain, error.message, error.hint)
        if self.app.is_running:
            self.app.call_from_thread(self.show, found)

    @work(thread=True, exclusive=True, group="machine")
    def look_at_machine(self) -> None:
        """What this machine has."""
        facts = machine_facts()
        if self.app.is_running:
            self.app.call_from_thread(self.show_machine, facts)

    def show(self, found: list[Overview]) -> None:
        """All projects, as they were just looked at."""
        if not self.is_standing:
            return
        self.found = found
        if self.desk.project is None and len(found) == 1 and not found[0].problem:
            self.open_project(found[0])
        self.show_list()
        if self.desk.project:
            self.query_one(ListTable).choose(self.desk.project.name)

    def show_machine(self, facts: Sequence[tuple[str, str]]) -> None:
        """One line; what is missing stands out."""
        line = Content("   ").join(
            literal(words + " ") + Content.styled(glyph, "$success" if glyph == "✓" else "bold $warning")
            for glyph, words in facts
        )
        self.query_one("#machine-lines", Lines).show(line)

    def desk_changed(self) -> None:
        """The open project moves on."""
        if self.found is not None:
            self.show_list()

    def shown(self) -> list[Overview]:
        """The projects that the filter lets through; of the open one what the desk knows."""
        return [
            self.fresh(each)
            for each in self.found or []
            if self.wanted in f"{each.project.name} {each.config.model}".casefold()
        ]

    def fresh(self, seen: Overview) -> Overview:
        """What was seen of a project, with what the desk knows by now."""
        desk = self.desk
        if desk.project is None or seen.project != desk.project:
            return seen
        runs = list(seen.runs)
        if desk.run:
            known = next((run for run in runs if run.folder == desk.run), None)
            live = RunLine(desk.run, desk.state, desk.is_live)
            if known:
                runs[runs.index(known)] = replace(known, state=desk.state, alive=desk.is_live)
            else:
                adapter = desk.config.adapter
                runs.insert(0, replace(live, method=adapter.method, rank=adapter.rank))
        changed = time.time() if desk.is_live else seen.changed
        return replace(seen, config=desk.config, runs=runs, changed=changed)

    def show_list(self) -> None:
        """The table, and the card of the row under the cursor."""
        shown, table = self.shown(), self.query_one(ListTable)
        table.show_rows([(each.project.name, self.cells(each)) for each in shown])
        panel = self.query_one("#projects", Panel)
        total = sum(each.bytes for each in self.found or [])
        some = f"{count(len(shown))} of " if self.wanted else ""
        number = len(self.found or [])
        panel.remark(
            f"{some}{count(number)} project{'s' * (number != 1)} · {size(total)} on disk" if number else "n makes a project"
        )
        self.show_card()

    def cells(self, each: Overview) -> list[Text]:
        """One line of the table."""
        standing, theme = each.standing, self.app.theme_variables
        loss = each.best.loss if each.best else None
        style = theme.get(standing.style.removeprefix("$"), "")
        return [
            cell(each.project.name, "bold"),
            cell(Path(each.config.model).name or "–"),
            cell(f"{standing.glyph} {standing.word}", style),
            cell("–" if loss is None else f"{loss:.3f}", right=True),
            cell(ago(each.changed, time.time()), theme.get("quiet", "")),
        ]

    @property
    def chosen(self) -> Overview | None:
        """The project under the cursor."""
        key = self.query_one(ListTable).chosen
        return next((self.fresh(each) for each in self.found or [] if each.project.name == key), None)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The card follows the cursor."""
        self.show_card()

    def show_card(self) -> None:
        """The chosen project: wide in two boxes, narrow in two lines."""
        each = self.chosen
        card, runs = self.query_one("#card", Panel), self.query_one("#runs", Panel)
        lines, below = self.query_one("#card-lines", Lines), self.query_one("#next-lines", Lines)
        if each is None:
            said = "No project matches." if self.wanted else "No project yet." if self.found is not None else "Looking…"
            key = "esc shows all" if self.wanted else "n makes one" if self.found is not None else ""
            card.retitle("Project")
            card.remark("")
            lines.show(said, Content.styled(key, "$quiet"))
            below.show(said, Content.styled(key, "$quiet"))
            self.query_one("#runs-lines", Lines).show("")
            runs.remark("")
            return
        card.retitle(each.project.name)
        card.remark(short_path(each.project.folder, 34))
        lines.show(*card_lines(each))
        runs_lines = [run_line(run) for run in each.runs[:40]]
        empty = Content.styled("A run appears here as soon as you train.", "$quiet")
        self.query_one("#runs-lines", Lines).show(*(runs_lines or [empty]))
        runs.remark(f"best: {each.best.name}" if each.best else "")
        below.show(*narrow_lines(each))
        self.query_one("#next", Panel).remark(short_path(each.project.folder, 60))

    # ---- keys --------------------------------------------------------------------------------------------------------

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter, or a click on the row that is chosen already."""
        self.action_open()

    def action_open(self) -> None:
        """Opens the project under the cursor where its next step is. The first project of all trains at once."""
        each = self.chosen
        if each is None:
            self.action_new()
            return
        if not self.open_project(each):
            return
        standing = each.standing
        if is_first(each):
            self.start_first()
        elif asks_for_own_rows(each, self.found or []):
            self.action_own_rows()
        elif (standing.stage, standing.glyph) == (5, "✓"):
            self.edgetune.open_screen("chat")
        else:
            self.edgetune.open_stage(standing.stage)

    def open_project(self, each: Overview) -> bool:
        """Puts a project on the desk; whether that worked."""
        if self.desk.project == each.project:
            return True
        try:
            self.desk.open(each.project)
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return False
        self.edgetune.show_desk()
        return True

    def start_first(self) -> None:
        """One key from the first start to a training."""
        try:
            self.desk.start_run()
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        self.edgetune.open_screen("train")

    @work
    async def action_new(self) -> None:
        """A name, and then its model."""
        hint = "Letters, digits, - and _. A base model and rows come next."
        await self.make(
            await self.edgetune.push_screen_wait(Ask("A new project: what is it called?", hint, placeholder="support-bot"))
        )

    async def make(self, name: str | None, rows: Sequence[str] = ()) -> None:
        """Makes a project and opens it at its model."""
        if not name:
            return
        config = store.empty_config()
        try:
            project = store.create(name, config)
            self.desk.open(project)
            if rows:
                self.desk.change(**{"data.train": list(rows)})
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        self.edgetune.open_stage(1)

    @work
    async def action_own_rows(self) -> None:
        """After the first success: the person's own file, in a project of its own."""
        from tui.screens.choose_files import ChooseFiles, project_name

        files = await self.edgetune.push_screen_wait(ChooseFiles("It works. Now your own rows: which file?", ()))
        if files:
            await self.make(project_name(files[0], [each.project.name for each in self.found or []]), files)

    def action_filter(self) -> None:
        """Opens the filter."""
        field = self.query_one("#filter", Input)
        field.add_class("open")
        field.focus()

    def action_leave_filter(self) -> None:
        """Shows all projects again."""
        field = self.query_one("#filter", Input)
        field.value, self.wanted = "", ""
        field.remove_class("open")
        self.query_one(ListTable).focus()
        self.show_list()

    def on_input_changed(self, event: Input.Changed) -> None:
        """The list follows the filter as it is typed."""
        self.wanted = event.value.strip().casefold()
        self.show_list()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the list, filtered."""
        self.query_one(ListTable).focus()

    @work
    async def action_rename(self) -> None:
        """Another name for the project under the cursor."""
        each = self.chosen
        if each is None:
            return
        if any(run.phase in RUNNING for run in each.runs):
            self.edgetune.complain("A run of it is training", "rename it when the run has ended, or stop the run: 3, then x")
            return
        name = await self.edgetune.push_screen_wait(Ask("Rename the project", value=each.project.name))
        if not name or name == each.project.name:
            return
        try:
            new = store.rename(each.project, name)
            if self.desk.project == each.project:
                self.desk.open(new)
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
        self.look()

    @work
    async def action_delete(self) -> None:
        """Asks, and puts the project into the trash."""
        each = self.chosen
        if each is None:
            return
        if any(run.phase in RUNNING for run in each.runs):
            self.edgetune.complain("A run of it is training", "stop it first: 3, then x")
            return
        detail = f"{len(each.runs)} runs, {size(each.bytes)}. It goes to the trash in EdgeTune's home, whole."
        if not await self.edgetune.push_screen_wait(Question(f"Delete {each.project.name}?", detail, yes="Delete", no="Keep")):
            return
        try:
            place = store.remove(each.project)
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        if self.desk.project == each.project:
            self.desk.close()
            self.edgetune.show_desk()
        self.notify(f"It lies in {place}", title=f"{each.project.name} is in the trash", markup=False)
        self.look()

    def action_doctor(self) -> None:
        """What this machine has."""
        from tui.screens.doctor import Doctor

        self.edgetune.push_screen(Doctor())


# ---- words -------------------------------------------------------------------------------------------------------------


def is_first(each: Overview) -> bool:
    """Whether this is the project of a first start, ready to train."""
    return each.project.name == STARTER and not each.runs and each.standing.stage == 3


def asks_for_own_rows(each: Overview, all_of_them: Sequence[Overview]) -> bool:
    """Whether the first success is had, and nothing else was begun."""
    done = bool(each.runs) and each.runs[0].phase == "finished"
    return each.project.name == STARTER and done and len(all_of_them) == 1 and each.exported


def card_lines(each: Overview) -> list[Content]:
    """The chosen project: its stages, and what comes next."""
    if each.problem:
        return [
            literal(each.problem, "$error"),
            Content(""),
            Content.styled("Mend that file, or ⌫ puts the project away.", "$quiet"),
        ]
    lines: list[Content] = []
    if is_first(each):
        lines += [literal(WELCOME), Content("")]
    way = marks_of(each)
    for mark, name, words in zip(way, NAMES, stage_words(each), strict=True):
        glyph = Content.styled(GLYPHS[mark], STYLES[mark])
        label = Content.styled(f" {name:<9}", "" if mark != "open" else "$quiet")
        lines.append(glyph + label + one_line(words).truncate(24, ellipsis=True))
    key = Content.styled("  ⏎", "bold $primary")
    return [*lines, Content(""), Content.styled("Next: ", "$quiet") + Content.styled(next_of(each), "bold") + key]


def next_of(each: Overview) -> str:
    """What comes next, in words."""
    return "start training" if is_first(each) else each.standing.next


def marks_of(each: Overview) -> Way:
    """The marks of a project's stages."""
    run = each.runs[0] if each.runs else None
    state, alive = (run.state, run.alive) if run else (store.NO_STATE, False)
    return way_of(each.config, state, alive, each.exported, has_ratings(each.project.folder))


def stage_words(each: Overview) -> tuple[str, str, str, str, str]:
    """A few words on each stage."""
    config, run = each.config, each.runs[0] if each.runs else None
    files = config.data.train
    started = run.state.started if run else None
    rows = f"{count(started.train_rows + started.valid_rows)} rows" if started else ""
    data = (
        " · ".join(filter(None, [Path(files[0]).name + (f" +{len(files) - 1}" if len(files) > 1 else ""), rows]))
        if files
        else ""
    )
    return Path(config.model).name, data, train_words(run), "", "GGUF" if each.exported else ""


def train_words(run: RunLine | None) -> str:
    """How the newest run stands."""
    if run is None:
        return ""
    state = run.state
    if run.phase == "training" and state.total_steps:
        left = f" · {duration(state.seconds_left)} left" if state.seconds_left is not None else ""
        return f"{percent(state.step / state.total_steps)}{left}"
    return {"finished": "done", "starting": "preparing"}.get(run.phase, run.phase)


RUN_MARKS = {
    "finished": ("✓", "$success"),
    "failed": ("!", "$error"),
    "interrupted": ("!", "$warning"),
    "stopped": ("!", "$warning"),
}


def run_line(run: RunLine) -> Content:
    """One run: its name, how it stands, what it is, its loss, how long it took."""
    glyph, style = RUN_MARKS.get(run.phase, ("●", "$primary"))
    what = "full" if run.method == "full" else f"r{run.rank:<2} {run.method}"
    loss = "–" if run.loss is None else f"{run.loss:.3f}"
    ending = lasted(run.state) if run.phase == "finished" else {"interrupted": "cut off"}.get(run.phase, run.phase)
    return (
        literal(f"{run.name[:7]:<7}")
        + Content.styled(f" {glyph} ", style)
        + Content.styled(f"{what:<9}", "$quiet")
        + Content.styled(f"{loss:>6}", "bold")
        + Content.styled(f"  {ending}", "$quiet" if run.phase == "finished" else style)
    )


def narrow_lines(each: Overview) -> list[Content]:
    """The same in two lines."""
    if each.problem:
        return [one_line(each.problem, "$error"), Content.styled("Mend that file, or ⌫ puts the project away.", "$quiet")]
    standing: Standing = each.standing
    loss = f", {each.best.loss:.3f}" if each.best and each.best.loss is not None else ""
    first = (
        Content.styled(f"{standing.glyph} ", standing.style)
        + one_line(each.project.name, "bold")
        + literal(f": {standing.word}{loss}")
        + Content.styled(" · next: ", "$quiet")
        + Content.styled(next_of(each), "bold")
        + Content.styled("  ⏎", "bold $primary")
    )
    if not each.runs:
        return [first, Content.styled("trains offline in about two minutes" if is_first(each) else "no runs yet", "$quiet")]
    return [first, Content("   ").join(short_run(run) for run in each.runs[:4])]


def short_run(run: RunLine) -> Content:
    """A run in a few cells."""
    glyph, style = RUN_MARKS.get(run.phase, ("●", "$primary"))
    loss = "" if run.loss is None else f" {run.loss:.3f}"
    return literal(run.name[:9]) + Content.styled(f" {glyph} ", style) + Content.styled(f"r{run.rank}{loss}", "$quiet")


def short_path(path: Path, most: int) -> str:
    """A path that fits: the person's home is ~, and its middle goes first."""
    text = str(path)
    own = str(Path.home())
    text = "~" + text[len(own) :] if text.startswith(own + "/") else text
    return text if len(text) <= most else "…" + text[-most + 1 :]
