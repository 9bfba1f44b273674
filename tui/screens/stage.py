"""What every screen has in common: the top bar, its own body, and the footer."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer

from tui.widgets.top_bar import TopBar

if TYPE_CHECKING:
    from tui.app import EdgeTune
    from tui.desk import Desk


class Stage(Screen[None]):
    """One of the screens. `number` is its stage, 0 for home; `body` is what it shows; `shown` is called whenever it appears.

    A screen is made once and kept: it shows what the desk holds, and hears of changes through `desk_changed`.
    """

    number: ClassVar[int] = 0
    help: ClassVar[str] = ""  # what f1 says where nothing in focus has a help of its own
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "app.to_home", "Back", id="app.back", show=False)]

    @property
    def edgetune(self) -> "EdgeTune":
        """The app."""
        return cast("EdgeTune", self.app)

    @property
    def desk(self) -> "Desk":
        """What is open."""
        return self.edgetune.desk

    @property
    def is_standing(self) -> bool:
        """Whether its widgets are there: not before it is composed, and not any more while the app takes it down."""
        return bool(self.query(TopBar))

    def compose(self) -> ComposeResult:
        """The frame of every screen."""
        yield TopBar()
        yield from self.body()
        yield Footer()

    def body(self) -> ComposeResult:
        """The screen's own part."""
        yield from ()

    def on_mount(self) -> None:
        """The top bar tells which stage this is."""
        self.query_one(TopBar).stage = self.number

    def on_screen_resume(self) -> None:
        """What changed while another screen was open is shown."""
        self.edgetune.dress(self)
        self.desk_changed()

    def desk_changed(self) -> None:
        """Shows what the desk holds now. Called when the screen appears, and whenever something changes while it is shown."""
