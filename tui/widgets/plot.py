"""The loss over the steps, with zoom: `z` and the wheel change how many steps are seen, arrows and a drag move along."""

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget

from edgetune.workspace.curve import Role, draw
from edgetune.workspace.run_state import Curve, Point
from tui.literal import literal

STYLES: dict[Role, str] = {"axis": "$quiet", "train": "$primary", "valid": "bold $warning"}
ZOOMS = (1.0, 0.5, 0.25, 0.1)  # of the steps that are done
FEWEST = 8  # steps that are seen at least


class LossPlot(Widget, can_focus=True):
    """A picture of the training loss, and ◆ for each validation. The window follows the newest step unless it was moved."""

    help_text = "Loss per trained token over the steps. ← → move, z or the wheel zooms, home shows all."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "pan(-0.25)", "Earlier", show=False, id="plot.left"),
        Binding("right", "pan(0.25)", "Later", show=False, id="plot.right"),
        Binding("home", "whole", "All steps", show=False, id="plot.all"),
    ]
    DEFAULT_CSS = """
    LossPlot { height: 1fr; }
    """

    def __init__(self, id: str | None = None):
        super().__init__(id=id)
        self.curve, self.valid, self.total = Curve(), tuple[Point, ...](), 0
        self.empty: Content = Content("")
        self.zoom = 1.0
        self.end: int | None = None  # last step of a window that was moved; None: follows
        self.dragged: int | None = None  # where the pointer went down

    def show(self, curve: Curve, valid: tuple[Point, ...], total: int, empty: Content) -> None:
        """What there is to see now."""
        if (curve, valid, total, empty) == (self.curve, self.valid, self.total, self.empty):
            return
        self.curve, self.valid, self.total, self.empty = curve, valid, total, empty
        self.refresh()

    @property
    def last(self) -> int:
        """The newest step."""
        return max([point.step for point in (*self.curve.points[-1:], *self.valid[-1:])], default=0)

    @property
    def window(self) -> tuple[int, int]:
        """The steps that are seen: all of the run, or a part of what is done."""
        if self.zoom >= 1:
            return 0, max(self.total, self.last)
        steps = max(round(self.zoom * self.last), FEWEST)
        end = self.last if self.end is None else self.end
        return max(end - steps, 0), max(end, steps)

    def render(self) -> Content:
        """The picture, or what will appear here."""
        if not self.curve.points and not self.valid:
            return self.empty
        size = self.size
        valid = () if not self.curve.points and len(self.valid) == 0 else self.valid
        lines = draw(self.curve.points, valid, size.width, size.height, self.window)
        if not lines:
            return literal("no step lies in this window: home shows all", "$quiet")
        return Content("\n").join(Content("").join(literal(span.text, STYLES[span.role]) for span in line) for line in lines)

    def cycle(self) -> None:
        """The next zoom, at the newest steps."""
        wider = [zoom for zoom in ZOOMS if zoom < self.zoom - 1e-9]
        self.zoom_to(wider[0] if wider else 1.0)

    def zoom_to(self, zoom: float, end: int | None = None) -> None:
        """Another window."""
        self.zoom, self.end = min(max(zoom, 0.02), 1.0), end
        self.refresh()

    def action_pan(self, share: float) -> None:
        """Moves along by a share of the window."""
        if self.zoom >= 1:
            return
        first, last = self.window
        end = last + round(share * (last - first))
        self.end = None if end >= self.last else max(end, last - first)
        self.refresh()

    def action_whole(self) -> None:
        """All steps."""
        self.zoom_to(1.0)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Nearer, around the pointer."""
        event.stop()
        self.zoom_at(event.x, 0.7)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Farther."""
        event.stop()
        self.zoom_at(event.x, 1 / 0.7)

    def zoom_at(self, x: int, factor: float) -> None:
        """Zooms so that the step under the pointer stays where it is."""
        first, last = self.window if self.zoom < 1 else (0, self.last)
        share = min(max(x / max(self.size.width, 1), 0), 1)
        step, zoom = first + share * (last - first), self.zoom * factor
        end = round(step + (1 - share) * zoom * self.last)
        self.zoom_to(zoom, None if zoom >= 1 or end >= self.last else end)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """A drag begins."""
        self.dragged = event.x
        self.capture_mouse()

    def on_mouse_up(self) -> None:
        """It ends."""
        self.dragged = None
        self.release_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The picture goes with the pointer."""
        if self.dragged is not None and event.x != self.dragged:
            self.action_pan((self.dragged - event.x) / max(self.size.width, 1))
            self.dragged = event.x
