"""The plan screen."""

from tui.screens.stage import Stage


class PlanScreen(Stage):
    """Not built yet."""

    number = 3
