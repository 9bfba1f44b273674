"""A clock that stands still while this process does: stopped by a signal, frozen by the system, or asleep with the machine.

The system's own clocks go on while a process is stopped. So a thread looks four times a second whether it still runs: where
it was away for longer than any busy machine keeps a thread waiting, that time does not count.
"""

import threading
import time
from collections.abc import Callable
from typing import Self

PULSE = 0.25  # seconds between two looks
AWAY = 2.0  # seconds without a look after which the process was not running


class RunningClock:
    """Seconds that this process was running; `away` is what does not count. A context: it begins and ends its thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self.now, self.last, self.away = now, now(), 0.0
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.watch, name="clock", daemon=True)

    def __call__(self) -> float:
        """Seconds from any start, as time.monotonic, less those away."""
        with self.lock:
            now = self.now()
            if now - self.last > AWAY:
                self.away += now - self.last
            self.last = now
            return now - self.away

    def watch(self) -> None:
        """Looks until it is ended."""
        while not self.ended.wait(PULSE):
            self()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
