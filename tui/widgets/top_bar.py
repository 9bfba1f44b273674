"""The first line of every screen: the project, where it stands on its way, and the machine."""

from typing import Literal, NamedTuple

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from tui.literal import literal

Mark = Literal["done", "now", "open", "alarm"]
GLYPHS: dict[Mark, str] = {"done": "✓", "now": "●", "open": "○", "alarm": "!"}
STYLES: dict[Mark, str] = {"done": "$success", "now": "$primary", "open": "$quiet", "alarm": "$error"}
NAMES = ("Model", "Data", "Train", "Compare", "Export")


class Way(NamedTuple):
    """How far each of the five stages is."""

    model: Mark = "open"
    data: Mark = "open"
    train: Mark = "open"
    compare: Mark = "open"
    export: Mark = "open"


class TopBar(Widget):
    """The project, the five stages (a click opens one), and the machine at the right."""

    DEFAULT_CSS = """
    TopBar { height: 1; dock: top; background: $surface; color: $foreground; }
    """

    project: reactive[str] = reactive("")
    way: reactive[Way] = reactive(Way())
    stage: reactive[int] = reactive(0)  # the stage that is shown; 0: home
    machine: reactive[tuple[str, str]] = reactive(("", ""))  # long and short

    class Chosen(Message):
        """A stage was clicked."""

        def __init__(self, stage: int):
            super().__init__()
            self.stage = stage

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[int, int, int]] = []  # first cell, last cell, stage

    def render(self) -> Content:
        """One line, as wide as the screen allows: at 80 columns the words come closer together."""
        width = self.size.width
        wide = width >= 100
        name = literal(self.project or "EdgeTune").truncate(22 if wide else 14, ellipsis=True)
        line = Content(" ")
        if wide:
            line += Content.styled("EdgeTune", "bold $primary")
            line += Content.styled(" ▸ ", "$quiet") + name if self.project else Content("")
        else:
            line += name.stylize("bold")
        line += Content(" ")
        self.places = []
        for number, (mark, title) in enumerate(zip(self.way, NAMES, strict=True), start=1):
            line += self.segment(number, mark, title, wide, line.cell_length)
        shown = self.machine[0] if wide else self.machine[1]
        right = Content.styled(shown, "$quiet") + Content(" ")
        gap = width - line.cell_length - right.cell_length
        return line + Content(" " * gap) + right if gap >= 1 else line

    def segment(self, number: int, mark: Mark, title: str, wide: bool, start: int) -> Content:
        """One stage; the one that is shown stands in brackets."""
        here = number == self.stage
        blank = " " if wide else ""
        text = f"{GLYPHS[mark]}{blank}{number} {title}"
        style = "bold $primary" if here else STYLES[mark] if mark != "open" else "$quiet"
        shown = Content.styled(f"[{text}]" if here else f" {text} ", style)
        self.places.append((start, start + shown.cell_length, number))
        return shown

    def on_click(self, event: events.Click) -> None:
        """Opens the stage under the pointer; the name leads home."""
        stage = next((number for first, last, number in self.places if first <= event.x < last), 0)
        self.post_message(self.Chosen(stage))
