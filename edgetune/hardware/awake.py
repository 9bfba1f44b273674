"""Keeps the machine from going to sleep by itself, and never its display: a display that is forced on makes some Macs crash
under load (mlx issue 3267)."""

import os
import sys
from contextlib import ExitStack
from typing import Protocol

from edgetune.hardware.machine import power_source


class Awake(Protocol):
    """Holds the machine awake, and lets it go."""

    def hold(self) -> str:
        """Keeps it awake from now on; gives who does that, or an empty text where nobody can."""
        ...

    def release(self) -> None:
        """It may sleep again."""
        ...


class SystemAwake:
    """The way of this system: caffeinate, or the desktop's own session service. It ends with the process."""

    def __init__(self):
        self.held = ExitStack()

    def hold(self) -> str:
        """Keeps it awake from now on; gives who does that, or an empty text where nobody can."""
        from wakepy import keep  # here, not above: most commands never ask

        self.release()
        mode = self.held.enter_context(keep.running(on_fail="pass"))
        return mode.method.name if mode.active and mode.method else ""

    def release(self) -> None:
        """It may sleep again."""
        self.held.close()


def has_battery() -> bool:
    """Whether this is a laptop, as far as its battery tells."""
    return power_source()[1] is not None


def may_sleep() -> bool:
    """Whether this machine is of a kind that goes to sleep by itself: a laptop or a desktop, not a server."""
    return sys.platform == "darwin" or has_battery() or "XDG_CURRENT_DESKTOP" in os.environ
