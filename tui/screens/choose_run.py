"""Chooses one of the project's runs. They are read while the list is already open."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Static

from edgetune.workspace.runs import RunSummary
from tui.literal import cell, literal


class RunTable(DataTable[Any]):
    """The runs."""


class ChooseRun(ModalScreen[Path | None]):
    """A list of runs; Enter takes one."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "Back", id="choose_run.back")]
    DEFAULT_CSS = """
    ChooseRun { align: center middle; background: $background 60%; }
    ChooseRun > Vertical { width: 70; max-width: 94%; height: auto; max-height: 80%; border: round $primary; padding: 0 1;
        background: $panel; border-title-color: $primary; }
    ChooseRun DataTable { height: auto; max-height: 16; background: $panel; }
    """

    def __init__(self, read: Callable[[], Sequence[RunSummary]]):
        super().__init__()
        self.read, self.runs = read, list[RunSummary]()

    def compose(self) -> ComposeResult:
        """The list, or a word while it is read."""
        box = Vertical(Static("reading the runs…", id="choose-wait", classes="quiet"), RunTable(cursor_type="row"))
        box.border_title = "Runs"
        yield box

    def on_mount(self) -> None:
        """Reads in a thread: a run's whole story is folded."""
        table = self.query_one(RunTable)
        for name in ("Run", "State", "Steps", "Val loss"):
            table.add_column(name)
        self.run_worker(self.fill, thread=True)

    def fill(self) -> None:
        """Runs in a thread."""
        runs = list(self.read())
        self.app.call_from_thread(self.show_runs, runs)

    def show_runs(self, runs: list[RunSummary]) -> None:
        """A row each, the newest first."""
        self.runs, table = runs, self.query_one(RunTable)
        for each in runs:
            loss = "–" if each.valid_loss is None else f"{each.valid_loss:.3f}"
            steps = f"{each.step}/{each.total_steps}"
            table.add_row(cell(Path(each.run).name, "bold"), cell(each.phase), cell(steps, right=True), cell(loss, right=True))
        text = "" if runs else "There is no run yet: 3 trains one."
        self.query_one("#choose-wait", Static).update(literal(text))
        self.query_one("#choose-wait").display = not runs
        table.focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter or a click takes a run."""
        self.dismiss(Path(self.runs[event.cursor_row].run))

    def action_leave(self) -> None:
        """Nothing changes."""
        self.dismiss(None)
