"""Which screen has which name. They are imported when they are first opened, so that the app appears at once."""

from importlib import import_module

from tui.screens.stage import Stage

SCREENS = {
    "home": ("tui.screens.home", "Home"),
    "model": ("tui.screens.model", "ModelScreen"),
    "data": ("tui.screens.data", "DataScreen"),
    "plan": ("tui.screens.plan", "PlanScreen"),
    "train": ("tui.screens.train", "TrainScreen"),
    "compare": ("tui.screens.compare", "CompareScreen"),
    "export": ("tui.screens.export", "ExportScreen"),
    "chat": ("tui.screens.chat", "ChatScreen"),
}


def screen_class(name: str) -> type[Stage]:
    """The class of a screen."""
    module, attribute = SCREENS[name]
    return getattr(import_module(module), attribute)
