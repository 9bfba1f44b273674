"""The app: it opens screens, follows what runs in other processes, and computes nothing itself."""

import signal
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from tui.commands import system_commands
from tui.desk import Desk
from tui.keys import load_keymap
from tui.literal import LiteralFilter
from tui.machine import MachineLine
from tui.screens.registry import screen_class
from tui.screens.stage import Stage
from tui.settings import Settings
from tui.themes import EXTRA_VARIABLES, THEMES
from tui.widgets.top_bar import TopBar

LIVE, IDLE = 0.25, 1.0  # seconds between two looks at the run that is open: while it goes, and otherwise


class EdgeTune(App[None]):
    """One desk, seven screens and chat. Every job is a child process: closing the app leaves it going."""

    TITLE = "EdgeTune"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - so Textual has it
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        *[Binding(str(number), f"open_stage({number})", show=False, id=f"app.stage{number}") for number in range(1, 6)],
        Binding("0", "open_stage(0)", "Home", show=False, id="app.home"),
        Binding("f1", "explain", "Help", id="app.help"),
        Binding("ctrl+q", "leave", "Quit", show=False, id="app.quit", priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False, id="app.suspend"),
    ]

    def __init__(self, desk: Desk | None = None, settings: Settings | None = None):
        super().__init__()
        self.settings = settings or Settings.load()
        self.desk = desk or Desk(self.settings)
        self.machine = MachineLine()
        self.made: dict[str, Stage] = {}

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own, and the net under all untrusted text."""
        return [*super().get_line_filters(), LiteralFilter()]

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our style sheets ask for more roles than Textual's themes have."""
        return EXTRA_VARIABLES

    # ---- beginning and end -------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        """Dresses the app and opens the first screen; all else waits until that is painted."""
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = self.settings.theme if self.settings.theme in self.available_themes else THEMES[0].name
        self.theme_changed_signal.subscribe(self, lambda theme: self.settings.change(theme=theme.name))
        keymap, wrong = load_keymap()
        self.set_keymap(keymap)
        if wrong:
            self.notify(wrong, title="keys.toml", severity="warning", markup=False)
        self.watch_signals()
        self.open_stage(self.desk.open_last())
        self.call_after_refresh(self.begin)

    def begin(self) -> None:
        """What may take a moment: the machine is looked at, and the run that is open is followed."""
        self.set_interval(2.0, self.look_at_machine)
        self.look_at_machine()
        self.tick()

    def watch_signals(self) -> None:
        """A terminal that closes, or a polite kill, ends the app as `quit` does: the terminal is restored, jobs go on."""
        import asyncio

        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGHUP):
            try:
                loop.add_signal_handler(each, self.exit)
            except (RuntimeError, ValueError):  # not the main thread: a test
                return

    def action_leave(self) -> None:
        """Leaves; a run goes on in its own process, and the app says so before."""
        from tui.widgets.dialogs import Question

        if not self.desk.is_live:
            self.exit()
            return

        def decided(yes: bool | None) -> None:
            if yes:
                self.exit()

        text = "It trains on in its own process. Open the app again, or `edgetune watch`, to see it."
        self.push_screen(Question("Leave while a run is training?", text, yes="Leave", no="Stay"), decided)

    # ---- screens -----------------------------------------------------------------------------------------------------

    def action_open_stage(self, number: int) -> None:
        """Opens a stage by its number."""
        self.open_stage(number)

    def open_stage(self, number: int) -> None:
        """Shows a stage: home, model, data, train (before or while it runs), compare, export."""
        self.open_screen(self.desk.screen_of(number))

    def open_screen(self, name: str) -> None:
        """Shows a screen by its name; it is made when it is first asked for."""
        if name not in self.made:
            self.made[name] = screen_class(name)()
        screen = self.made[name]
        if self.screen is screen:
            return
        if isinstance(self.screen, Stage):
            self.switch_screen(screen)
        else:
            self.push_screen(screen)

    def action_to_home(self) -> None:
        """One step back: home, from anywhere. It never quits."""
        self.open_stage(0)

    def on_top_bar_chosen(self, message: TopBar.Chosen) -> None:
        """A click on a stage."""
        self.open_stage(message.stage)

    def action_explain(self) -> None:
        """Explains what has the focus, or the screen."""
        from tui.screens.help import Help

        self.push_screen(Help(self.screen, self.focused))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every command of the app is in the palette."""
        yield from system_commands(self)
        yield from super().get_system_commands(screen)

    # ---- following ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Reads what the run that is open has said since, and shows it; then again, sooner while it is live."""
        if not self.screen_stack:  # the app is ending
            return
        shown = self.screen is self.made.get("train")
        for note in self.desk.follow():
            if not shown:
                self.notify(note.text, title=note.title, severity=note.severity, timeout=10, markup=False)
        self.keep()
        if self.desk.take_change():
            self.show_desk()
        self.set_timer(LIVE if self.desk.is_live else IDLE, self.tick)

    def keep(self) -> None:
        """Keeps changes of the config; the disk may take its time."""
        if self.desk.unsaved:
            self.run_worker(self.save_desk, thread=True, exclusive=True, group="save")

    def save_desk(self) -> None:
        """Saves, and says so where it cannot be done."""
        if wrong := self.desk.try_save():
            self.call_from_thread(self.complain, wrong.message, wrong.hint)

    def on_unmount(self) -> None:
        """Nothing that was changed is lost."""
        self.desk.try_save()

    def show_desk(self) -> None:
        """Lets the screen that is shown show what the desk holds now."""
        if stage := self.stage_shown:
            self.dress(stage)
            stage.desk_changed()

    @property
    def stage_shown(self) -> Stage | None:
        """The stage that is shown, from when it is composed until the app takes it down."""
        screen = self.screen if self.screen_stack else None
        return screen if isinstance(screen, Stage) and screen.is_standing else None

    def look_at_machine(self) -> None:
        """Memory in the top bar."""
        self.machine.look()
        if stage := self.stage_shown:
            self.dress(stage)

    def dress(self, screen: Stage) -> None:
        """Brings a screen's top bar up to date."""
        bar = screen.query_one(TopBar)
        bar.project, bar.way, bar.machine = self.desk.name, self.desk.way, self.machine.texts

    def complain(self, message: str, hint: str = "") -> None:
        """Says what is wrong and what to do about it."""
        self.notify(f"{message}\n{hint}" if hint else message, title="That did not work", severity="error", markup=False)


def main() -> None:
    """Runs the app in this terminal."""
    EdgeTune().run()
