"""l: everything that a run has told, the newest first, and the end of what its process wrote."""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from edgetune.events import Event
from tui.event_lines import event_line
from tui.literal import literal

LINES = 40  # of the process's own log


class EventLog(ModalScreen[None]):
    """Closes with escape, l, or q."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,l,q", "dismiss", "Back", id="log.back")]
    DEFAULT_CSS = """
    EventLog { align: center middle; background: $background 60%; }
    EventLog > VerticalScroll { width: 100; max-width: 96%; height: 90%; border: round $primary; padding: 0 1;
        background: $panel; border-title-color: $primary; border-subtitle-color: $quiet; scrollbar-size-vertical: 1; }
    """

    def __init__(self, events: Iterable[Event], log: str, title: str):
        super().__init__()
        self.events, self.wrote, self.title_text = list(events), log, title

    def compose(self) -> ComposeResult:
        """All of it, as one text."""
        box = VerticalScroll(Static(self.text(), markup=False))
        box.border_title = literal(self.title_text)  # pyright: ignore[reportAttributeAccessIssue]
        box.border_subtitle = "newest first · esc closes"
        yield box

    def on_mount(self) -> None:
        """The arrows scroll at once."""
        self.query_one(VerticalScroll).focus()

    def text(self) -> Content:
        """A line an event, its hint below."""
        parts: list[Content] = []
        for event in reversed(self.events):
            line = event_line(event)
            head = literal(f"{datetime.fromtimestamp(event.time):%H:%M:%S} ", "$quiet")
            parts.append(head + literal(f"{line.glyph} {line.text}", "" if line.style == "$quiet" else line.style))
            if line.hint:
                parts.append(literal(f"           {line.hint}", "$quiet"))
        if not parts:
            parts.append(literal("Nothing has happened yet.", "$quiet"))
        if wrote := self.wrote.strip().splitlines()[-LINES:]:
            parts += [Content(""), literal("The process wrote:", "$quiet"), *(literal(line) for line in wrote)]
        return Content("\n").join(parts)
