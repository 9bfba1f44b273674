"""`python -m tui` is `edgetune`."""

from tui.entry import run

run()
