"""The machine does not go to sleep by itself while a run trains."""

from collections.abc import Iterator

from edgetune.events import Event, KeptAwake, Warned
from edgetune.hardware.sensors import Sensors
from edgetune.training.guards.base import Guard
from edgetune.training.run import Run


class StayAwake(Guard):
    """Holds it awake from the first step to the last, except while the run waits."""

    def __init__(self, sensors: Sensors):
        self.sensors = sensors

    def begin(self, run: Run) -> Iterator[Event]:
        """Says once what a closed lid will do, or that nothing here can keep the machine awake."""
        method = self.sensors.awake.hold()
        if method:
            yield KeptAwake(method=method, has_lid=self.sensors.has_lid)
        elif self.sensors.may_sleep:
            hint = "turn automatic sleep off in the system's settings; after a sleep the run goes on by itself"
            yield Warned(message="nothing here can keep the machine awake: it may go to sleep while it trains", hint=hint)

    def wait(self, waits: bool) -> None:
        """A run that waits needs no machine that is awake."""
        if waits:
            self.sensors.awake.release()
        else:
            self.sensors.awake.hold()

    def end(self, run: Run) -> None:
        """It may sleep again."""
        self.sensors.awake.release()
