"""The palette: everything that can be done, by name."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from textual.app import SystemCommand

if TYPE_CHECKING:
    from tui.app import EdgeTune

STAGES = (
    ("home", "Home", "Projects: open, resume, repair"),
    ("model", "1 Model", "Choose a base model: does it fit this machine?"),
    ("data", "2 Data", "Choose rows, and see exactly what will be learned"),
    ("plan", "3 Train: settings", "Settings with their live cost"),
    ("train", "3 Train: dashboard", "Watch the run"),
    ("compare", "4 Compare", "Base against tuned"),
    ("export", "5 Export", "Merge, convert, quantise, verify"),
    ("chat", "Chat", "Talk with your model"),
)


def system_commands(app: "EdgeTune") -> Iterable[SystemCommand]:
    """Every screen, and every key of the screen that is shown."""
    for name, title, help in STAGES:
        yield SystemCommand(f"Go to {title}", help, partial(app.open_screen, name))
    for _, binding, enabled, tooltip in app.screen.active_bindings.values():
        if enabled and binding.description and binding.action != "command_palette":
            yield SystemCommand(binding.description, tooltip or f"key: {binding.key}", partial(act, app, binding.action))


def act(app: "EdgeTune", action: str) -> None:
    """Does what a key does."""
    app.call_later(app.run_action, action, app.focused or app.screen)
