"""A table of things to choose from: one row is the cursor, `j` and `k` move as the arrows do."""

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable


class ListTable(DataTable[Text]):
    """Columns are (key, title, width); ">" before a title aligns it right. `show_rows` replaces what changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False, id="list.down"),
        Binding("k", "cursor_up", show=False, id="list.up"),
        Binding("g", "scroll_top", show=False, id="list.first"),
        Binding("G", "scroll_bottom", show=False, id="list.last"),
    ]
    DEFAULT_CSS = """
    ListTable { background: $background; height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    ListTable:focus { background-tint: $foreground 0%; }
    """

    def __init__(self, *columns: tuple[str, str, int], id: str | None = None):
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)
        self.wanted = columns
        self.keys: list[str] = []

    def on_mount(self) -> None:
        """The columns are there before any row is."""
        for key, title, width in self.wanted:
            justify = "right" if title.startswith(">") else "left"
            self.add_column(Text(title.removeprefix(">"), no_wrap=True, justify=justify), key=key, width=width)

    def show_rows(self, rows: Sequence[tuple[str, Sequence[Text]]]) -> None:
        """Shows rows, each (key, cells). Where the keys are the same only what differs is drawn."""
        keys = [key for key, _ in rows]
        if keys != self.keys:
            chosen, line = self.chosen, self.cursor_row
            self.clear()
            for key, cells in rows:
                self.add_row(*cells, key=key)
            self.keys = keys
            self.move_cursor(row=keys.index(chosen) if chosen in keys else min(line, max(len(keys) - 1, 0)))
            return
        for at, (_, cells) in enumerate(rows):
            for column, cell in enumerate(cells):
                place = Coordinate(at, column)
                if self.get_cell_at(place) != cell:
                    self.update_cell_at(place, cell)

    @property
    def chosen(self) -> str | None:
        """The key of the row under the cursor."""
        return self.keys[self.cursor_row] if 0 <= self.cursor_row < len(self.keys) else None

    def choose(self, key: str) -> None:
        """Moves the cursor to a row."""
        if key in self.keys:
            self.move_cursor(row=self.keys.index(key))

    def resize_column(self, key: str, width: int) -> None:
        """Gives a column another width."""
        column: Any = self.columns.get(next((each for each in self.columns if each.value == key), None))  # pyright: ignore[reportArgumentType]
        if column is not None and column.width != width:
            column.width = width
            self.refresh(layout=True)
            self._require_update_dimensions = True
