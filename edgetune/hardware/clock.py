"""Time as a run has it: without the time that the machine slept or the process was held, whatever the wall clock is set to."""

import sys
import threading
import time
from typing import NamedTuple, Protocol

PULSE = 0.5  # seconds between two signs of life
HELD = 3.0  # a gap between two of them that no load explains
IDLE = 0.1  # of a gap: a process that worked more than this in it was not held


class Times(NamedTuple):
    """Seconds. Only differences between two looks mean anything."""

    worked: float  # that this process could have worked in
    asleep: float  # that the machine slept
    held: float  # that this process was stopped by a signal
    wall: float  # since 1970, as the clock is set


class Clock(Protocol):
    """What a run asks about time."""

    def begin(self) -> None:
        """From now on, being held is noticed."""
        ...

    def end(self) -> None:
        """No longer."""
        ...

    def times(self) -> Times:
        """How it is now."""
        ...


class SystemClock:
    """The machine's clocks, and a thread whose pulse stops when the process is held."""

    def __init__(self):
        self.lock, self.done = threading.Lock(), threading.Event()
        self.thread: threading.Thread | None = None
        self.held, self.beaten, self.busy = 0.0, time.monotonic(), time.process_time()

    def begin(self) -> None:
        """Starts the pulse."""
        self.done.clear()
        self.beaten, self.busy = time.monotonic(), time.process_time()
        self.thread = threading.Thread(target=self.pulse, name="pulse", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Ends the pulse."""
        self.done.set()
        if self.thread:
            self.thread.join()
        self.thread = None

    def pulse(self) -> None:
        """What the thread does."""
        while not self.done.wait(PULSE):
            self.beat()

    def beat(self) -> float:
        """A sign of life: a long gap since the last one, in which nothing was computed either, was no load. Gives the time."""
        with self.lock:
            now, busy = time.monotonic(), time.process_time()
            gap, worked = now - self.beaten, busy - self.busy
            self.beaten, self.busy = now, busy
            if self.thread and gap > HELD and worked < IDLE * gap:
                self.held += gap - PULSE
            return now

    def times(self) -> Times:
        """How it is now."""
        now = self.beat()
        return Times(now - self.held, asleep(), self.held, time.time())


def asleep() -> float:
    """Seconds that the machine slept, from some moment on: one of its clocks goes on in sleep, another stands."""
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
