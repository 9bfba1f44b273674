"""Signals while a run trains: the first asks it to stop after the step at hand, the second ends it where it is."""

import os
import signal
from types import FrameType
from typing import Any, Self

from edgetune.cli.output import Output

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Watches from `begin` on: before that there is nothing to save, and a signal does what it always does.

    A signal that was ignored from outside stays ignored: a run under nohup outlives its terminal.
    """

    def __init__(self, output: Output):
        self.output, self.received = output, 0
        self.before: dict[signal.Signals, Any] = {}

    def begin(self) -> None:
        """Takes the signals over."""
        for each in SIGNALS:
            if each not in self.before and signal.getsignal(each) is not signal.SIG_IGN:
                self.before[each] = signal.signal(each, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The first signal is noted; the second leaves, and the last checkpoint is whole as it is."""
        self.received += 1
        if self.received > 1:
            os._exit(128 + number)
        self.output.urgent("stopping after this step; once more leaves at once")

    def requested(self) -> bool:
        """Whether the run was asked to stop."""
        return self.received > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self.before.items():
            signal.signal(each, handler)
