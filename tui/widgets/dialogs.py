"""Questions: a decision, or a line of text. Escape always leaves, and nothing is lost by it."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from tui.literal import literal


class Question(ModalScreen[bool]):
    """Asks before something is done that cannot be undone, or not at once."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "answer(False)", "No", id="question.no"),
        Binding("y", "answer(True)", "Yes", id="question.yes"),
    ]
    DEFAULT_CSS = """
    Question { align: center middle; background: $background 60%; }
    Question > Vertical { width: 60; max-width: 90%; height: auto; border: round $primary; padding: 1 2; background: $panel; }
    Question Horizontal { height: auto; margin-top: 1; align-horizontal: right; }
    Question Button { margin-left: 2; }
    """

    def __init__(self, title: str, detail: str = "", yes: str = "Yes", no: str = "No"):
        super().__init__()
        self.asked, self.detail, self.yes, self.no = title, detail, yes, no

    def compose(self) -> ComposeResult:
        """The question, what follows from it, and the two answers with their keys."""
        with Vertical():
            yield Static(literal(self.asked, "bold"))
            if self.detail:
                yield Static(literal(self.detail, "$quiet"))
            with Horizontal():
                yield Button(literal(f"{self.no} (esc)"), id="no")
                yield Button(literal(f"{self.yes} (y)"), variant="primary", id="yes")

    def on_mount(self) -> None:
        """The harmless answer is at hand."""
        self.query_one("#no", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A click is an answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        """So is a key."""
        self.dismiss(answer)


class Ask(ModalScreen[str | None]):
    """Asks for a line of text: a name, a path, a prompt."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Back", id="ask.leave")]
    DEFAULT_CSS = """
    Ask { align: center middle; background: $background 60%; }
    Ask > Vertical { width: 70; max-width: 94%; height: auto; border: round $primary; padding: 1 2; background: $panel; }
    Ask Input { margin-top: 1; border: tall $line; }
    Ask #wrong { color: $error; height: auto; }
    """

    def __init__(self, title: str, hint: str = "", value: str = "", placeholder: str = ""):
        super().__init__()
        self.asked, self.hint, self.value, self.placeholder = title, hint, value, placeholder

    def compose(self) -> ComposeResult:
        """The question, a hint, and the line."""
        with Vertical():
            yield Static(literal(self.asked, "bold"))
            if self.hint:
                yield Static(literal(self.hint, "$quiet"))
            yield Input(self.value, placeholder=self.placeholder)
            yield Static("", id="wrong", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter gives the text, if there is one."""
        if text := event.value.strip():
            self.dismiss(text)

    def action_leave(self) -> None:
        """Nothing is given."""
        self.dismiss(None)
