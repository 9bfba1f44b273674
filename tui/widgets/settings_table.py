"""The form of the settings: a table whose values are changed in place."""

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable, Input, Static

from tui.literal import cell, literal
from tui.plan_form import Row

LABEL, VALUE = 14, 21  # cells of the first two columns


class ValueInput(Input):
    """The value that is being edited, where it stands in the table."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Back", show=False, id="setting.leave")]

    class Left(Message):
        """Nothing is to be changed."""

    def action_leave(self) -> None:
        """Escape leaves the value as it was."""
        self.post_message(self.Left())

    def on_blur(self) -> None:
        """So does another focus."""
        self.post_message(self.Left())


class SettingRows(DataTable[Any]):
    """The rows. Left and right turn a value."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "turn(-1)", "Less", show=False, id="setting.less"),
        Binding("right", "turn(1)", "More", show=False, id="setting.more"),
        Binding("j", "cursor_down", "Down", show=False, id="setting.down"),
        Binding("k", "cursor_up", "Up", show=False, id="setting.up"),
        Binding("g", "scroll_top", "First", show=False, id="setting.first"),
        Binding("G", "scroll_bottom", "Last", show=False, id="setting.last"),
    ]
    help_text = "Enter edits a value, ← → turn it; every key of the config is here, the most used ones first."

    class Turned(Message):
        """Left or right was pressed on a row."""

        def __init__(self, row: int, by: int):
            super().__init__()
            self.row, self.by = row, by

    def action_turn(self, by: int) -> None:
        """The next value."""
        self.post_message(self.Turned(self.cursor_row, by))


class SettingsTable(Vertical):
    """The rows, the line that edits one of them, and what is wrong with it."""

    DEFAULT_CSS = """
    SettingsTable { height: 1fr; layers: below above; }
    SettingsTable > SettingRows { layer: below; height: 1fr; overflow-x: hidden; }
    SettingsTable > ValueInput { layer: above; display: none; color: $foreground; position: absolute; }
    SettingsTable > ValueInput.-open { display: block; }
    SettingsTable > #setting-line { layer: below; height: auto; max-height: 3; color: $quiet; }
    """

    class Edited(Message):
        """A person wrote a value for a row."""

        def __init__(self, row: Row, text: str):
            super().__init__()
            self.row, self.text = row, text

    class Stepped(Message):
        """A person turned a value."""

        def __init__(self, row: Row, by: int):
            super().__init__()
            self.row, self.by = row, by

    def __init__(self, rows: list[Row], id: str | None = None):
        super().__init__(id=id)
        self.rows, self.editing = rows, -1
        self.drawn: list[tuple[str, str]] = []

    def compose(self) -> ComposeResult:
        """Rows, the line over them, the line below them."""
        yield SettingRows(cursor_type="row", zebra_stripes=False)
        line = ValueInput(compact=True)
        line.styles.border = ("none", "black")  # the app's own style has a frame
        line.styles.height, line.styles.padding = 1, 0
        yield line
        yield Static("", id="setting-line", markup=False)

    def on_mount(self) -> None:
        """The columns, once."""
        table = self.query_one(SettingRows)
        table.add_column("Setting", width=LABEL, key="label")
        table.add_column("Value", width=VALUE, key="value")
        table.add_column("Why", key="why")
        for row in self.rows:
            table.add_row(cell(row.label, "bold"), cell(""), cell(""), key=row.key)

    def on_resize(self) -> None:
        """The last column takes what is left."""
        self.call_after_refresh(self.widen)

    def widen(self) -> None:
        """Gives the reasons the width there is, so that they end in an ellipsis and nothing scrolls sideways."""
        table = self.query_one(SettingRows)
        column = next(each for key, each in table.columns.items() if key.value == "why")
        width = max(self.size.width - LABEL - VALUE - 6 * table.cell_padding - 1, 8)
        if column.width != width:
            column.auto_width, column.width = False, width
            table.refresh(layout=True)

    def show(self, values: list[tuple[str, str]]) -> None:
        """A value and a reason for each row; only what differs is drawn."""
        table = self.query_one(SettingRows)
        quiet = self.app.theme_variables.get("quiet", "")
        for index, (row, value) in enumerate(zip(self.rows, values, strict=True)):
            if index < len(self.drawn) and self.drawn[index] == value:
                continue
            table.update_cell(row.key, "value", cell(value[0]))
            table.update_cell(row.key, "why", cell(value[1], quiet))
        self.drawn = values
        self.widen()

    def say(self, text: str, wrong: bool = False) -> None:
        """The line below: bounds, or what is wrong."""
        self.query_one("#setting-line", Static).update(literal(f"✗ {text}", "$error") if wrong else literal(text))

    @property
    def row(self) -> Row:
        """The row under the cursor."""
        return self.rows[self.query_one(SettingRows).cursor_row]

    @property
    def editing_open(self) -> bool:
        """Whether a value is being written."""
        return self.editing >= 0

    def edit(self, text: str) -> None:
        """Opens the line over the value under the cursor."""
        table, line = self.query_one(SettingRows), self.query_one(ValueInput)
        self.editing = table.cursor_row
        pad = table.cell_padding
        y = 1 + table.cursor_row - round(table.scroll_y)
        line.styles.offset = (LABEL + 3 * pad, y)
        line.styles.width = VALUE + 1
        line.value = text
        line.add_class("-open")
        line.focus()
        line.action_end()

    def close(self) -> None:
        """Takes the line away."""
        if self.editing >= 0:
            self.editing = -1
            self.query_one(ValueInput).remove_class("-open")
            self.query_one(SettingRows).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter offers the value."""
        event.stop()
        if self.editing >= 0:
            self.post_message(self.Edited(self.rows[self.editing], event.value))

    def on_value_input_left(self) -> None:
        """Nothing is changed."""
        self.close()

    def on_setting_rows_turned(self, event: SettingRows.Turned) -> None:
        """Left or right."""
        self.post_message(self.Stepped(self.rows[event.row], event.by))
