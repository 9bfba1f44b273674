"""The chat screen."""

from tui.screens.stage import Stage


class ChatScreen(Stage):
    """Not built yet."""

    number = 0
