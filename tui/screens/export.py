"""The export screen."""

from tui.screens.stage import Stage


class ExportScreen(Stage):
    """Not built yet."""

    number = 5
