"""3 Train, before: settings with their live cost. A child reads the model and the rows once; after that every change is planned
here in a moment."""

import shlex
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import DataTable

from edgetune.config import RunConfig, to_toml
from edgetune.errors import ConfigError, EdgeTuneError
from edgetune.events import AnyEvent, Progress
from edgetune.planner.facts import Facts
from edgetune.planner.plan import RunPlan, replan
from edgetune.units import duration
from tui import store
from tui.child import ChildError, ask
from tui.dashboard import keys, quiet
from tui.literal import cell, literal, one_line
from tui.plan_form import bounds, changes, editable, parsed, refusal, rows, shown, stepped
from tui.plan_view import improved, named, plan_lines, short_lines, why
from tui.screens.stage import Stage
from tui.widgets.bars import track
from tui.widgets.dialogs import Ask, Question
from tui.widgets.panel import Lines, Panel
from tui.widgets.settings_table import SettingRows, SettingsTable


class Suggestions(DataTable[Any]):
    """What would make the plan better; Enter applies."""

    help_text = "Each line changes some settings: what it saves, and what it costs. Enter applies it, u takes it back."


class PlanScreen(Stage):
    """The form, the plan that follows from it, and what would make it better."""

    number = 3
    help = (
        "Every key of a run's config is here. Enter edits a value, ← → turn it; memory and time follow at once. Enter on a "
        "suggestion applies it, a applies the best ones until it fits, or until it is done when you say; u takes the last "
        "change back. t times real steps of this model on your rows. Ctrl+r starts, y copies the same run as a command line."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "start", "Start", id="plan.start", tooltip="train with these settings"),
        Binding("a", "auto", "Auto", id="plan.auto", tooltip="apply the best suggestions"),
        Binding("t", "time", "Time it", id="plan.time", tooltip="time real steps of this model on your rows"),
        Binding("u", "undo", "Undo", id="plan.undo", tooltip="take the last change back"),
        Binding("y", "copy", "Copy as CLI", id="plan.copy", tooltip="the same run as a command line"),
        Binding("w", "watch", "Watch", id="plan.watch", show=False, tooltip="the run that is open"),
        Binding("escape", "halt", "Back", id="plan.back", show=False),
    ]
    DEFAULT_CSS = """
    PlanScreen #above { height: 1fr; }
    PlanScreen #settings { width: 3fr; height: 1fr; padding: 0; }
    PlanScreen #setting-line { padding: 0 1; }
    PlanScreen #plan { width: 2fr; height: 1fr; }
    PlanScreen #better { height: auto; max-height: 8; padding: 0; }
    PlanScreen #suggestions { height: auto; max-height: 6; overflow-x: hidden; }
    PlanScreen #brief { height: 4; }
    PlanScreen #brief-lines { text-wrap: nowrap; text-overflow: ellipsis; }
    PlanScreen #better.-hidden { display: none; }
    PlanScreen #problem { display: none; border: round $error; }
    PlanScreen #problem.-shown { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.form = rows()
        self.facts: Facts | None = None
        self.facts_of: tuple[Any, ...] = ()  # what they were asked for
        self.plan: RunPlan | None = None
        self.planned: tuple[Facts, RunConfig] | None = None
        self.progress: Progress | None = None
        self.asking = ""  # what a child is doing
        self.problem: tuple[str, str] = ("", "")

    def body(self) -> ComposeResult:
        """Form and plan side by side, suggestions below; at 80 columns the plan is two lines."""
        with Horizontal(id="above"):
            yield Panel(SettingsTable(self.form, id="form"), title="Settings", id="settings")
            yield Panel(Lines(id="plan-lines"), title="Plan", remark="t times real steps", id="plan", classes="wide-only")
        yield Panel(Lines(id="problem-lines"), title="That did not work", id="problem")
        table = Suggestions(id="suggestions", cursor_type="row", show_header=False)
        yield Panel(table, title="Suggestions", remark="tab, then ⏎ applies", id="better", classes="wide-only")
        yield Panel(Lines(id="brief-lines"), title="Plan", id="brief", classes="narrow-only")

    def on_mount(self) -> None:
        """The form is at hand."""
        super().on_mount()
        table = self.query_one(Suggestions)
        for name, width in (("what", 24), ("saving", 38), ("cost", 100)):
            table.add_column(name, key=name, width=width)
        self.query_one(SettingRows).focus()

    def on_resize(self) -> None:
        """Bars fill the width there is."""
        self.call_after_refresh(self.draw_plan)

    # ---- facts and plan ----------------------------------------------------------------------------------------------

    def wanted(self) -> tuple[Any, ...]:
        """What the facts depend on."""
        config = self.desk.config
        data = config.data
        valid = tuple(data.valid) if isinstance(data.valid, list) else data.valid
        return (config.model, tuple(data.train), valid, data.train_on, config.adapter.init_from)

    def desk_changed(self) -> None:
        """Shows the settings; asks for facts where other rows or another model were chosen, plans anew otherwise."""
        config = self.desk.config
        wanted = self.wanted()
        if wanted != self.facts_of:
            self.facts, self.plan, self.planned, self.facts_of = None, None, None, wanted
            if config.model and config.data.train:
                self.ask_facts("reading the model and the rows")
        if self.facts and self.planned != (self.facts, config):
            self.plan = replan(self.facts, config)
            self.planned = self.facts, config
        self.draw()

    def ask_facts(self, what: str) -> None:
        """Has a child look at model and rows."""
        self.asking, self.progress, self.problem = what, None, ("", "")
        self.run_worker(self.learn(), group="facts", exclusive=True)

    async def learn(self) -> None:
        """Takes the facts from a child's plan; one that refuses the run has told them nevertheless."""
        asked = self.facts_of
        with tempfile.TemporaryDirectory(prefix="edgetune-plan-") as folder:
            file = Path(folder) / "plan.toml"
            file.write_text(to_toml(self.desk.config), "utf-8")
            try:
                document = await ask(["plan", str(file)], self.heard)
            except ChildError as error:
                document = error.document
                if "facts" not in document:
                    self.problem = error.message.replace(f"{file}: ", ""), error.hint
        self.asking, self.progress = "", None
        if asked != self.facts_of:
            return
        if "facts" in document:
            try:
                self.facts = msgspec.convert(document["facts"], Facts)
            except msgspec.ValidationError as error:
                self.problem = f"the plan cannot be read: {error}", "is another version of edgetune installed beside this one?"
        self.desk_changed()

    def heard(self, event: AnyEvent) -> None:
        """How far the child is."""
        if isinstance(event, Progress):
            self.progress = event
            self.draw_plan()

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """One frame."""
        config = self.desk.config
        form = self.query_one(SettingsTable)
        form.show([(shown(row.value(config)), why(row, config, self.plan)) for row in self.form])
        panel = self.query_one("#settings", Panel)
        project = self.desk.project
        panel.remark(f"{store.next_run(project).name} · ⏎ edits · ← → turn" if project else "⏎ edits · ← → turn")
        if not form.editing_open:
            form.say(f"{form.row.key} · {bounds(form.row)}")
        self.draw_problem()
        self.draw_suggestions()
        self.draw_plan()

    def draw_problem(self) -> None:
        """What did not work, in its place."""
        message, hint = self.problem
        self.query_one("#problem").set_class(bool(message), "-shown")
        lines = [literal(f"✗ {message}", "$error")] + ([quiet(hint)] if hint else [])
        self.query_one("#problem-lines", Lines).show(*lines)

    def draw_suggestions(self) -> None:
        """What would help; a row each."""
        table = self.query_one(Suggestions)
        told = self.plan.suggestions if self.plan else ()
        at = table.cursor_row
        good, muted = (self.app.theme_variables.get(name, "") for name in ("success", "quiet"))
        table.clear()
        for each in told:
            table.add_row(cell(named(each), "bold"), cell(each.saving, good if each.fits else ""), cell(each.cost, muted))
        if told:
            table.move_cursor(row=min(at, len(told) - 1))
        panel = self.query_one("#better", Panel)
        panel.set_class(self.plan is None, "-hidden")
        panel.retitle("Suggestions" if told or not self.plan else "Suggestions: none, it is good as it is")

    def draw_plan(self) -> None:
        """Memory and time, or how far the child is, or what is missing."""
        if not self.is_standing:
            return
        config, lines, brief = self.desk.config, self.query_one("#plan-lines", Lines), self.query_one("#brief-lines", Lines)
        if self.asking:
            waiting = self.waiting_lines(lines.size.width or 50)
            lines.show(*waiting)
            brief.show(*waiting[:2])
        elif self.plan and self.facts:
            lines.show(*plan_lines(self.plan, self.facts, config, lines.size.width or 54))
            brief.show(*short_lines(self.plan, self.facts, config))
        else:
            missing = self.missing_lines()
            lines.show(*missing)
            brief.show(*missing[:2])

    def waiting_lines(self, width: int) -> list[Content]:
        """What a child does, and how far it is."""
        progress = self.progress
        if progress is None or not progress.total:
            done = f"  {progress.done:,.0f} {progress.unit}" if progress else ""
            return [one_line(f"{progress.stage if progress else self.asking}{done}", "$primary"), quiet("esc leaves it")]
        share = progress.done / progress.total
        return [one_line(progress.stage, "$primary"), track(share, min(width - 6, 40)) + quiet(f" {share:>4.0%}")]

    def missing_lines(self) -> list[Content]:
        """What is to be chosen before anything can be planned."""
        config = self.desk.config
        if not self.desk.project:
            return [quiet("No project is open: memory and time appear here once one is."), keys("0", "home")]
        if not config.model:
            return [quiet("Choose a base model: memory and time appear here."), keys("1", "choose a model")]
        if not config.data.train:
            return [quiet("Choose rows to learn from: memory and time appear here."), keys("2", "choose data")]
        return [quiet("There is no plan yet."), keys("t", "try again")]

    # ---- the form ----------------------------------------------------------------------------------------------------

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The line below says what may be written."""
        if isinstance(event.data_table, SettingRows):
            form = self.query_one(SettingsTable)
            form.say(f"{form.row.key} · {bounds(form.row)}")

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter edits a setting, or applies a suggestion."""
        event.stop()
        if isinstance(event.data_table, SettingRows):
            form = self.query_one(SettingsTable)
            form.edit(editable(form.row.value(self.desk.config)))
        elif self.plan and event.cursor_row < len(self.plan.suggestions):
            self.change(dict(self.plan.suggestions[event.cursor_row].settings))

    def on_settings_table_edited(self, event: SettingsTable.Edited) -> None:
        """A written value counts, or is refused with the config's own reason; then the line stays open."""
        value = parsed(event.text, event.row.value(self.desk.config))
        form = self.query_one(SettingsTable)
        if self.change({event.row.key: value}):
            form.close()
            form.say(f"{form.row.key} · {bounds(form.row)}")

    def on_settings_table_stepped(self, event: SettingsTable.Stepped) -> None:
        """A value is turned; at its bounds nothing happens but a word."""
        self.change({event.row.key: stepped(event.row, event.row.value(self.desk.config), event.by)})

    def change(self, settings: dict[str, Any]) -> bool:
        """Changes the config, if it allows that."""
        form = self.query_one(SettingsTable)
        try:
            self.desk.change(**settings)
        except ConfigError as error:
            form.say(refusal(error.message), wrong=True)
            return False
        self.problem = ("", "")
        self.edgetune.show_desk()
        return True

    # ---- keys --------------------------------------------------------------------------------------------------------

    def action_undo(self) -> None:
        """Takes the last change back."""
        if self.desk.undo():
            self.edgetune.show_desk()
        else:
            self.query_one(SettingsTable).say("nothing to take back")

    def action_auto(self) -> None:
        """Until it fits; and where it fits, until it is done by a time of the person's choice."""
        if self.plan is None or self.facts is None:
            return
        if not self.plan.fits:
            self.improve(lambda plan: plan.fits, "fits now")
            return

        def decided(text: str | None) -> None:
            if text is None:
                return
            limit = seconds_until(text, datetime.now())
            if limit is None:
                self.edgetune.complain(f"{text} is no time", "write 7:00, or 2h, or 45min")
            else:
                self.improve(lambda plan: plan.time.seconds <= limit, f"done by {text}")

        hint = f"It fits, and takes {duration(self.plan.time.seconds)}. Suggestions that save time are applied."
        self.edgetune.push_screen(Ask("Done by when?", hint, placeholder="7:00, 2h, 45min"), decided)

    def improve(self, enough: Callable[[RunPlan], bool], goal: str) -> None:
        """Applies suggestions until it is enough, and says which."""
        assert self.facts is not None
        config, done = improved(self.facts, self.desk.config, enough)
        reached = enough(replan(self.facts, config))
        if not done:
            already = "it is already" if reached else "no suggestion helps"
            self.edgetune.notify(already, title=goal, markup=False)
            return
        self.desk.put(config)
        self.edgetune.show_desk()
        severity = "information" if reached else "warning"
        text = f"{'; '.join(done)}\nu takes it back"
        self.edgetune.notify(text, title=goal if reached else f"not yet: {goal}", severity=severity, markup=False)

    def action_time(self) -> None:
        """Times real steps in a child."""
        config = self.desk.config
        if config.model and config.data.train and not self.asking:
            self.ask_facts("timing real steps")
            self.draw()

    def action_halt(self) -> None:
        """Leaves a child that is at work; otherwise leads home."""
        if self.asking:
            self.workers.cancel_group(self, "facts")
            self.asking, self.progress = "", None
            self.draw()
        else:
            self.edgetune.open_stage(0)

    def command_line(self) -> str:
        """The same run, as one line for a shell."""
        project = self.desk.project
        file = str(project.file) if project else "CONFIG.toml"
        parts = ["edgetune", "train", file, *(part for each in changes(self.desk.config) for part in ("--set", each))]
        return " ".join(shlex.quote(part) for part in parts)

    def action_copy(self) -> None:
        """Copies it, and shows it: not every terminal lets a program write to the clipboard."""
        line = self.command_line()
        self.app.copy_to_clipboard(line)
        self.edgetune.notify(line, title="Copied", timeout=12, markup=False)

    def action_watch(self) -> None:
        """The dashboard of the run that is open."""
        self.edgetune.open_screen("train")

    def action_start(self) -> None:
        """Starts the run, unless something stands in its way; where another one trains, asks."""
        if self.plan and not self.plan.fits:
            self.problem = "It does not fit into this machine", "a applies the suggestions that make it fit"
            self.draw()
        elif self.desk.is_live:

            def decided(yes: bool | None) -> None:
                if yes:
                    self.start()

            text = "A run is training. Two at once share cores and memory: both become slower."
            self.edgetune.push_screen(Question("Start another run?", text, yes="Start", no="Wait"), decided)
        else:
            self.start()

    def start(self) -> None:
        """Starts it in a process of its own, and shows the dashboard."""
        try:
            self.desk.start_run()
        except EdgeTuneError as error:
            self.problem = error.message, error.hint
            self.draw()
            return
        self.problem = ("", "")
        self.edgetune.open_screen("train")


def seconds_until(text: str, now: datetime) -> float | None:
    """How long it is until 7:00, or what 2h or 45min are; None for what is neither."""
    text = text.strip().lower().replace(" ", "")
    for unit, seconds in (("min", 60), ("h", 3600), ("m", 60)):
        if text.endswith(unit):
            try:
                return float(text.removesuffix(unit)) * seconds
            except ValueError:
                return None
    try:
        hour, _, minute = text.partition(":")
        end = now.replace(hour=int(hour), minute=int(minute or 0), second=0, microsecond=0)
    except ValueError:
        return None
    return ((end if end > now else end + timedelta(days=1)) - now).total_seconds()
