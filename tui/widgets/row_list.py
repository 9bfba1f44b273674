"""A list of any length: only what is seen is held, pages are asked for as they come into view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from edgetune.files import clean
from edgetune.units import count

PAGE, PAGES = 200, 60  # rows of a page, and pages that are held
Row = Sequence[Any]  # words, tokens, trained, sign, file, line
SIGN_STYLES = {"!": "error", "✂": "warning", "=": "warning", "~": "warning"}


class RowList(ScrollView, can_focus=True):
    """Number, first words, length, sign. `order` shows chosen rows only, each with a text of its own in place of its length."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", show=False, id="rows.down"),
        Binding("up,k", "move(-1)", show=False, id="rows.up"),
        Binding("pagedown", "page(1)", show=False, id="rows.page_down"),
        Binding("pageup", "page(-1)", show=False, id="rows.page_up"),
        Binding("home,g", "end(False)", show=False, id="rows.first"),
        Binding("end,G", "end(True)", show=False, id="rows.last"),
    ]
    DEFAULT_CSS = """
    RowList { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; background: $background; }
    """

    @dataclass
    class Highlighted(Message):
        """Another row is the cursor."""

        row: int

        def can_replace(self, message: Message) -> bool:
            """Only the last of many counts."""
            return isinstance(message, RowList.Highlighted)

    @dataclass
    class PageWanted(Message):
        """Rows from `first` on came into view and are not here."""

        first: int

    def __init__(self, id: str | None = None):
        super().__init__(id=id)
        self.total, self.cursor, self.title = 0, 0, "Tok"
        self.pages: dict[int, Sequence[Row]] = {}
        self.asked: set[int] = set()
        self.order: Sequence[tuple[int, str]] | None = None

    # ---- what is in it -----------------------------------------------------------------------------------------------

    def reset(self, total: int) -> None:
        """Another list."""
        self.total, self.cursor, self.order, self.title = total, 0, None, "Tok"
        self.pages.clear()
        self.asked.clear()
        self.lay_out()

    def show_order(self, order: Sequence[tuple[int, str]] | None, title: str) -> None:
        """Shows these rows only, in this order; None: all of them again. The cursor stays on its row, or goes to the first."""
        row = self.row
        self.order, self.title = order, title
        numbers = [number for number, _ in order] if order is not None else None
        self.cursor = row if numbers is None else 0
        self.lay_out()
        self.announce()

    def fill(self, first: int, rows: Sequence[Row]) -> None:
        """A page has come."""
        if len(self.pages) >= PAGES:
            far = max(self.pages, key=lambda page: abs(page - first // PAGE))
            del self.pages[far]
            self.asked.discard(far)
        self.pages[first // PAGE] = rows
        self.refresh()

    @property
    def length(self) -> int:
        """Lines of the list."""
        return self.total if self.order is None else len(self.order)

    @property
    def row(self) -> int:
        """The number of the row under the cursor."""
        return self.cursor if self.order is None else self.order[self.cursor][0] if self.order else 0

    def lay_out(self) -> None:
        """The list's own height, with a line of titles."""
        self.virtual_size = Size(0, self.length + 1)
        self.refresh()

    def known(self, number: int) -> Row | None:
        """A row, if it is here; else its page is asked for."""
        page, at = divmod(number, PAGE)
        if page in self.pages:
            rows = self.pages[page]
            return rows[at] if at < len(rows) else None
        if page not in self.asked:
            self.asked.add(page)
            self.post_message(self.PageWanted(page * PAGE))
        return None

    # ---- moving ------------------------------------------------------------------------------------------------------

    def go(self, line: int) -> None:
        """The cursor on a line of the list."""
        line = min(max(line, 0), max(self.length - 1, 0))
        if line != self.cursor:
            self.cursor = line
            self.scroll_to_region(Region(0, line, 1, 2), animate=False)
            self.refresh()
            self.announce()

    def go_to_row(self, number: int) -> None:
        """The cursor on a row, where it is in the list."""
        if self.order is None:
            self.go(number)
        else:
            self.go(next((line for line, (row, _) in enumerate(self.order) if row == number), self.cursor))

    def announce(self) -> None:
        """Tells which row it is."""
        if self.length:
            self.post_message(self.Highlighted(self.row))

    def action_move(self, by: int) -> None:
        """Up or down."""
        self.go(self.cursor + by)

    def action_page(self, by: int) -> None:
        """A screenful."""
        self.go(self.cursor + by * max(self.size.height - 2, 1))

    def action_end(self, last: bool) -> None:
        """To an end."""
        self.go(self.length - 1 if last else 0)

    def on_click(self, event: events.Click) -> None:
        """The row under the pointer."""
        if event.y:
            self.go(self.scroll_offset.y + event.y - 1)

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """The titles stay where they are."""
        super().watch_scroll_y(old_value, new_value)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Titles on top, then rows."""
        theme, width = self.app.theme_variables, self.size.width
        quiet = theme.get("quiet", "#888888")
        base = Style(bgcolor=self.background_colors[1].rich_color, color=theme.get("foreground"))
        digits = max(len(count(self.total)), 2)
        if y == 0:
            return self.line(width, digits, ("#", "First words", self.title, ""), [Style(color=quiet)] * 4, base)
        at = y - 1 + self.scroll_offset.y
        if at >= self.length:
            return Strip.blank(width, base)
        number, own = (at, "") if self.order is None else self.order[at]
        row = self.known(number)
        here = at == self.cursor
        if here:
            shade = "" if self.has_focus else "blurred-"
            base += Style(
                bgcolor=theme.get(f"block-cursor-{shade}background"),
                color=theme.get(f"block-cursor-{shade}foreground"),
                bold=self.has_focus,
            )
        if row is None:
            return self.line(width, digits, (count(number + 1), "…", "", ""), [Style(color=quiet)] * 4, base)
        words, sign = str(row[0]) or "–", str(row[3])
        length = own or (count(row[1]) if row[1] else "–")
        dim = Style() if here else Style(color=quiet)
        styles = [dim, Style(), dim, Style(color=theme.get(SIGN_STYLES.get(sign, "error")), bold=True)]
        return self.line(width, digits, (count(number + 1), words, length, sign), styles, base)

    def line(self, width: int, digits: int, texts: Sequence[str], styles: Sequence[Style], base: Style) -> Strip:
        """Four columns: right, left, right, left."""
        number, words, length, sign = (clean(" ".join(text.split())) for text in texts)
        room = max(width - digits - 13, 4)
        words = words if cell_len(words) <= room else set_cell_size(words, room - 1).rstrip() + "…"
        parts = [f" {number:>{digits}} ", f" {set_cell_size(words, room)}", f" {length:>6} ", f" {sign:<1} "]
        return Strip([Segment(part, base + style) for part, style in zip(parts, styles, strict=True)]).adjust_cell_length(
            width, base
        )
