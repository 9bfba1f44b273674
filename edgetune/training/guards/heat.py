"""A machine that becomes slower because it is hot: named, and given rests between steps, which change no number.

Smaller micro-batches would change them: a sum of float32 numbers depends on how it is split. So nothing is shrunk.
"""

import statistics
from collections import deque
from collections.abc import Generator

from edgetune.config import NightConfig
from edgetune.events import Event, Recovered, Throttled
from edgetune.hardware.sensors import Heat as Reading
from edgetune.hardware.sensors import Sensors
from edgetune.training.guards.base import Guard, Interval
from edgetune.training.run import Run

LOOK = 1.0  # seconds
WINDOW_SECONDS = 20.0  # of steps, and
WINDOW_STEPS = 5  # at least, that a pace is the median of
SLOWER = 0.25  # than the run's own best pace: throttled
ALMOST = 0.1  # slower than it: no longer
COOLER = 5.0  # degrees below the greatest heat: no longer too hot
WARM = 75.0  # degrees Celsius below which heat is not what makes a machine slow
LONGEST_REST = 10.0  # seconds


class Heat(Guard):
    """Measures the pace of the steps against the best of this run, for the same work whatever the rows' lengths."""

    def __init__(self, sensors: Sensors, night: NightConfig):
        self.sensors, self.night = sensors, night
        self.interval = Interval(sensors, LOOK)
        self.steps: deque[tuple[float, float]] = deque()  # (pace, seconds) of the last steps
        self.step, self.best = -1, 0.0
        self.throttled: Throttled | None = None
        self.since, self.rested = 0.0, 0.0

    def look(self, run: Run) -> Generator[Event, None, str]:
        """Tells when the machine is throttled, and when no longer; rests once after each step. It never makes a run wait."""
        if run.step != self.step and run.pace:
            self.step = run.step
            self.count(run)
            if self.interval.has_passed():
                yield from self.judge(run)
            self.rest(run)
        return ""

    def count(self, run: Run) -> None:
        """Takes the last step into the window, and lets those go that it has no need of."""
        self.steps.append((run.pace, run.step_seconds))
        total = sum(seconds for _, seconds in self.steps)
        while len(self.steps) > WINDOW_STEPS and total - self.steps[0][1] >= WINDOW_SECONDS:
            total -= self.steps.popleft()[1]

    def judge(self, run: Run) -> Generator[Event, None, None]:
        """What the pace and the heat say now."""
        heat, slower = self.sensors.heat(), self.slower()
        limit = self.night.max_celsius
        is_hot = bool(limit) and heat.celsius is not None and heat.celsius >= limit
        if self.throttled is None and (slower > SLOWER or is_hot):
            share = self.night.rest if is_hot or is_from_heat(heat) else 0.0
            self.throttled = Throttled(step=run.step, percent=max(0.0, 100 * slower), celsius=heat.celsius, rest_share=share)
            self.since, self.rested = self.now(), 0.0
            yield self.throttled
        elif self.throttled is not None and slower < ALMOST and not self.is_still_hot(heat):
            yield Recovered(step=run.step, seconds=self.now() - self.since, rested_seconds=self.rested)
            self.throttled = None

    def slower(self) -> float:
        """By which share of the best pace the window's is slower; 0 as long as the window is not full."""
        if len(self.steps) < WINDOW_STEPS or sum(seconds for _, seconds in self.steps) < WINDOW_SECONDS:
            return 0.0
        pace = statistics.median(pace for pace, _ in self.steps)
        self.best = max(self.best, pace)
        return 1 - pace / self.best

    def is_still_hot(self, heat: Reading) -> bool:
        """Whether it has not cooled down far enough below the limit."""
        limit = self.night.max_celsius
        return bool(limit) and heat.celsius is not None and heat.celsius > limit - COOLER

    def rest(self, run: Run) -> None:
        """A rest after the step at hand, while there is a reason."""
        if self.throttled and self.throttled.rest_share:
            seconds = min(LONGEST_REST, self.throttled.rest_share * run.step_seconds)
            self.sensors.sleep(seconds)
            run.rested += seconds
            self.rested += seconds

    def now(self) -> float:
        """Seconds without sleep."""
        return self.sensors.clock.times().worked


def is_from_heat(heat: Reading) -> bool:
    """Whether heat may be what makes the machine slow: another program cannot be cooled down."""
    if heat.is_slowed is not None:
        return heat.is_slowed
    return heat.celsius is None or heat.celsius >= WARM
