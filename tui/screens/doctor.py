"""What this machine has, what is wrong, and how to mend it: `edgetune doctor` as a window."""

from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen

from tui.child import ChildError, ask
from tui.literal import literal, one_line
from tui.widgets.panel import Lines


class Doctor(ModalScreen[None]):
    """Asks the doctor; it takes some seconds, for everything is really tried."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,d", "dismiss", "Back", id="doctor.back"),
        Binding("r", "again", "Again", id="doctor.again"),
    ]
    DEFAULT_CSS = """
    Doctor { align: center middle; background: $background 60%; }
    Doctor > VerticalScroll { width: 92; max-width: 96%; height: auto; max-height: 90%; border: round $primary; padding: 1 2;
        background: $panel; border-title-color: $primary; border-subtitle-color: $quiet; }
    """

    def compose(self) -> ComposeResult:
        """A list that scrolls."""
        with VerticalScroll() as box:
            box.border_title, box.border_subtitle = "Doctor", "esc back · r look again"
            yield Lines(id="checks")

    def on_mount(self) -> None:
        """Begins at once."""
        self.action_again()

    @work(exclusive=True)
    async def action_again(self) -> None:
        """Looks at everything."""
        lines = self.query_one("#checks", Lines)
        lines.show(Content.styled("Trying everything that training and chat need…", "$quiet"))
        try:
            document = await ask(["doctor"])
        except ChildError as error:
            lines.show(literal(error.message, "$error"), literal(error.hint, "$quiet"))
            return
        lines.show(*checks_of(document.get("checks", [])))


def checks_of(checks: list[dict[str, Any]]) -> list[Content]:
    """One line for each thing, and a hint where it is not as it should be."""
    lines: list[Content] = []
    for check in checks:
        ok, needed = bool(check.get("ok")), bool(check.get("needed"))
        glyph, style = ("✓", "$success") if ok else ("✗", "bold $error") if needed else ("!", "bold $warning")
        name = Content.styled(f" {one_line(check.get('name', '')).plain:<10} ", "$quiet")
        lines.append(Content.styled(glyph, style) + name + one_line(check.get("detail", "")))
        if not ok and check.get("hint"):
            lines.append(Content.styled("             → ", "$primary") + one_line(check["hint"]))
    broken = [str(check.get("name")) for check in checks if check.get("needed") and not check.get("ok")]
    verdict = (
        literal(f"cannot work yet: {', '.join(broken)}", "bold $error")
        if broken
        else Content.styled("ready to train and to chat", "bold $success")
    )
    return [*lines, Content(""), verdict]
