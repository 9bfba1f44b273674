"""Where a person writes: Enter sends, ctrl+j is a new line, ↑ in the first line brings back what was sent before."""

from textual import events
from textual.message import Message
from textual.widgets import TextArea

HISTORY = 200


class Prompt(TextArea):
    """A few lines of text to send."""

    DEFAULT_CSS = """
    Prompt { height: auto; max-height: 6; border: round $line; padding: 0 1; background: $background;
        scrollbar-size-vertical: 1; }
    Prompt:focus { border: round $primary; }
    """

    class Sent(Message):
        """Enter was pressed on a text."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    def __init__(self, placeholder: str, id: str | None = None):
        super().__init__(id=id, soft_wrap=True, tab_behavior="focus", placeholder=placeholder, compact=False)
        self.sent: list[str] = []
        self.at = 0  # in the history; its length: what is being written

    async def _on_key(self, event: events.Key) -> None:
        """Enter, new lines and history; every other key writes."""
        match event.key:
            case "enter":
                event.prevent_default().stop()
                self.send()
            case "ctrl+j" | "shift+enter":
                event.prevent_default().stop()
                self.insert("\n")
            case "up" if self.cursor_location[0] == 0 and self.at > 0:
                event.prevent_default().stop()
                self.recall(self.at - 1)
            case "down" if self.cursor_location[0] == self.document.line_count - 1 and self.at < len(self.sent):
                event.prevent_default().stop()
                self.recall(self.at + 1)
            case _:
                await super()._on_key(event)

    def send(self) -> None:
        """Gives the text away and begins anew."""
        text = self.text.strip()
        if text:
            self.sent = [*[old for old in self.sent if old != text], text][-HISTORY:]
            self.at = len(self.sent)
            self.clear()
            self.post_message(self.Sent(text))

    def recall(self, at: int) -> None:
        """Shows a text of the history; beyond the newest there is an empty line."""
        self.at = at
        self.load_text(self.sent[at] if at < len(self.sent) else "")
        self.move_cursor(self.document.end)
