"""The compare screen."""

from tui.screens.stage import Stage


class CompareScreen(Stage):
    """Not built yet."""

    number = 4
