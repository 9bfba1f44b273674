"""What was said: messages below each other, an answer that grows, and its figures."""

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.literal import literal

CHUNK = 1500  # characters of a growing answer that are laid out anew with each piece; what is before stays as it is


class Message(Vertical):
    """One message with its speaker at the left. An answer grows by `push`, and is then told apart from its figures."""

    DEFAULT_CSS = """
    Message { layout: horizontal; height: auto; margin-bottom: 1; }
    Message > .who { width: 7; color: $quiet; }
    Message > .said { width: 1fr; height: auto; }
    Message.-answer > .who { color: $primary; }
    Message .figures { color: $quiet; }
    Message Static { height: auto; }
    """

    def __init__(self, who: str, text: str = "", answer: bool = False):
        super().__init__(classes="-answer" if answer else None)
        self.who, self.text, self.rest = who, text, text
        self.waiting = answer and not text
        self.tail = Static(literal(text) if text else "", markup=False)
        self.body = Vertical(self.tail, classes="said")

    def compose(self) -> ComposeResult:
        """Speaker and text."""
        yield Static(literal(self.who), classes="who")
        yield self.body

    def push(self, piece: str) -> None:
        """The answer grows. Long ones are frozen piece by piece, so that a frame costs the same at any length."""
        self.text += piece
        self.rest += piece
        if len(self.rest) > CHUNK and (cut := self.rest.rfind("\n", 0, CHUNK) + 1 or self.rest.rfind(" ", 0, CHUNK) + 1):
            self.body.mount(Static(literal(self.rest[:cut].removesuffix("\n")), markup=False), before=self.tail)
            self.rest = self.rest[cut:]
        self.tail.update(literal(self.rest) + Content.styled("▌", "$primary"))

    def end(self, figures: str, style: str = "") -> None:
        """The answer is whole; its figures stand below."""
        self.tail.update(literal(self.rest))
        shown = literal(figures, style) if style else literal(figures)
        self.body.mount(Static(shown, classes="" if style else "figures", markup=False))


class Transcript(VerticalScroll):
    """Messages. It follows the newest, unless the person has scrolled up to read."""

    DEFAULT_CSS = """
    Transcript { height: 1fr; scrollbar-size-vertical: 1; }
    Transcript > .empty { color: $quiet; }
    """

    def __init__(self, empty: str, id: str | None = None):
        super().__init__(id=id)
        self.empty, self.follows = empty, True

    def compose(self) -> ComposeResult:
        """What will appear here, and how."""
        yield Static(literal(self.empty), classes="empty", markup=False)

    def watch_virtual_size(self) -> None:
        """New text pulls the view down, but only where it was down."""
        if self.follows:
            self.scroll_end(animate=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Who scrolls up reads; who comes back to the end follows again."""
        super().watch_scroll_y(old_value, new_value)
        self.follows = new_value >= self.max_scroll_y - 1

    async def add(self, message: Message) -> Message:
        """One more message, ready to grow: whoever asks wants to see the answer."""
        self.follows = True
        await self.query(".empty").remove()
        await self.mount(message)
        return message

    async def clear(self) -> None:
        """Nothing was said."""
        await self.remove_children()
        await self.mount(Static(literal(self.empty), classes="empty", markup=False))
