"""A quiet box with a title above and a remark below: what every screen is made of."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui.literal import literal


class Panel(Vertical):
    """A bordered box. `empty` says what will appear here and which key makes it appear, until there is something."""

    DEFAULT_CSS = """
    Panel { border: round $line; border-title-color: $quiet; border-subtitle-color: $quiet; padding: 0 1; height: auto; }
    Panel:focus-within { border: round $primary; border-title-color: $primary; }
    Panel > .empty { color: $quiet; }
    """

    def __init__(self, *children: Widget, title: str = "", remark: str = "", id: str | None = None, classes: str | None = None):
        super().__init__(*children, id=id, classes=classes)
        self.titles = ("", "")  # title and remark as they stand: setting them anew would draw the box anew
        self.retitle(title)
        self.remark(remark)

    def retitle(self, title: str) -> None:
        """Sets what stands in the upper edge; nothing in it is markup."""
        if title != self.titles[0]:
            self.titles = title, self.titles[1]
            self.border_title = literal(title) if title else None  # pyright: ignore[reportAttributeAccessIssue]

    def remark(self, text: str) -> None:
        """Sets what stands in the lower edge."""
        if text != self.titles[1]:
            self.titles = self.titles[0], text
            self.border_subtitle = literal(text) if text else None  # pyright: ignore[reportAttributeAccessIssue]


class Lines(Static):
    """A few lines of text that are replaced whole. `show` takes literal text or ready content."""

    def __init__(self, *lines: Content | str, id: str | None = None, classes: str | None = None):
        super().__init__(id=id, classes=classes, markup=False)
        self.shown = Content("")
        self.show(*lines)

    def show(self, *lines: Content | str) -> None:
        """Replaces the lines; the same ones are not laid out anew."""
        content = Content("\n").join(line if isinstance(line, Content) else literal(line) for line in lines)
        if not content.is_same(self.shown):
            self.shown = content
            self.update(content)


def panel_of(title: str, *lines: Content | str, id: str) -> ComposeResult:
    """A panel with lines in it: `#id` is the panel, `#id-lines` the lines."""
    yield Panel(Lines(*lines, id=f"{id}-lines"), title=title, id=id)
