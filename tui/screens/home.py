"""The home screen."""

from tui.screens.stage import Stage


class Home(Stage):
    """Not built yet."""

    number = 0
