"""The model screen."""

from tui.screens.stage import Stage


class ModelScreen(Stage):
    """Not built yet."""

    number = 1
