"""`edgetune`: alone on a terminal it opens the app; with a command it is the command line."""

import os
import sys


def run() -> None:
    """The process's own command line."""
    if len(sys.argv) == 1 and sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from tui.app import main

        main()
        return
    from edgetune.cli.main import run as command_line

    command_line()
