"""f1: what this screen is for, what has the focus, and every key."""

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static

from tui.literal import literal
from tui.screens.stage import Stage


class Help(ModalScreen[None]):
    """Closes with escape, f1, or a click beside it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,q", "dismiss", "Back", id="help.back")]
    DEFAULT_CSS = """
    Help { align: center middle; background: $background 60%; }
    Help > VerticalScroll { width: 76; max-width: 96%; height: auto; max-height: 90%; border: round $primary; padding: 1 2;
        background: $panel; border-title-color: $primary; border-subtitle-color: $quiet; }
    """

    def __init__(self, about: Screen[Any], focused: Widget | None):
        super().__init__()
        self.about, self.focused_widget = about, focused
        self.keys = self.keys_of(about)

    def compose(self) -> ComposeResult:
        """What it is, then the keys."""
        box = VerticalScroll(Static(self.text()))
        box.border_title, box.border_subtitle = "Help", "esc closes"
        yield box

    def text(self) -> Content:
        """Everything, as one text."""
        parts: list[Content] = []
        tooltip = getattr(self.focused_widget, "help_text", "") or (self.focused_widget.tooltip if self.focused_widget else "")
        if tooltip:
            parts += [literal(tooltip), Content("")]
        if isinstance(self.about, Stage) and self.about.help:
            parts += [literal(self.about.help), Content("")]
        for key, description in self.keys:
            parts.append(Content.styled(f"{key:>12}", "bold $primary") + literal(f"  {description}"))
        parts += [
            Content(""),
            Content.styled('Keys of your own: keys.toml in EdgeTune\'s home, "binding id" = "key".', "$quiet"),
        ]
        return Content("\n").join(parts)

    def keys_of(self, screen: Screen[Any]) -> list[tuple[str, str]]:
        """Key and meaning of all that works on a screen now."""
        found: dict[str, str] = {}
        for _, binding, enabled, tooltip in screen.active_bindings.values():
            if enabled and binding.description:
                key = self.app.get_key_display(binding) if self.is_attached else binding.key
                found.setdefault(key, tooltip or binding.description)
        return list(found.items())
