"""The data screen."""

from tui.screens.stage import Stage


class DataScreen(Stage):
    """Not built yet."""

    number = 2
