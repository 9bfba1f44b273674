"""The right answer, written by the person who knows it."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from tui.literal import literal


class Correct(ModalScreen[str | None]):
    """Begins with what the model said. ctrl+s keeps it, escape leaves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="correct.leave"),
        Binding("ctrl+s", "keep", "Keep", id="correct.keep"),
    ]
    DEFAULT_CSS = """
    Correct { align: center middle; background: $background 60%; }
    Correct > Vertical { width: 76; max-width: 96%; height: auto; max-height: 90%; border: round $primary; padding: 1 2;
        background: $panel; border-title-color: $primary; border-subtitle-color: $quiet; }
    Correct TextArea { height: 8; margin-top: 1; border: round $line; background: $background; }
    """

    def __init__(self, prompt: str, said: str):
        super().__init__()
        self.prompt, self.said = prompt, said

    def compose(self) -> ComposeResult:
        """The prompt, and the answer to be written."""
        box = Vertical()
        box.border_title, box.border_subtitle = "What should it have said?", "ctrl+s keeps it as a row · esc leaves"
        with box:
            yield Static(literal(self.prompt, "$quiet"))
            yield TextArea(self.said, soft_wrap=True, tab_behavior="focus")

    def on_mount(self) -> None:
        """One goes on where the model ended."""
        area = self.query_one(TextArea)
        area.move_cursor(area.document.end)
        area.focus()

    def action_keep(self) -> None:
        """Gives the answer, if there is one."""
        if text := self.query_one(TextArea).text.strip():
            self.dismiss(text)

    def action_leave(self) -> None:
        """Nothing is kept."""
        self.dismiss(None)
