"""The train screen."""

from tui.screens.stage import Stage


class TrainScreen(Stage):
    """Not built yet."""

    number = 3
