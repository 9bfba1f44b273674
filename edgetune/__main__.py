"""`python -m edgetune` is `edgetune`."""

from edgetune.cli.main import run

run()
