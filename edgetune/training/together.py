"""What happens around the steps where several processes train one run together (backend/team.py)."""

from collections.abc import Callable, Generator, Iterator

from edgetune.events import Event
from edgetune.training.loop import Between
from edgetune.training.run import Run


class Member:
    """What happens around the steps of a process that is not the first of its team: it hears the signals that it was sent."""

    def __init__(self, should_stop: Callable[[], bool]):
        self.should_stop = should_stop

    def between_steps(self, run: Run) -> Generator[Event, None, str]:
        """The reason to stop."""
        yield from ()
        return "asked to stop" if self.should_stop() else ""

    def save(self, run: Run) -> Iterator[Event]:
        """Into a folder that is thrown away: the older checkpoints go from the disk as in the first process's."""
        yield run.save()


class Together:
    """The same for a whole team: all of its processes stop after the same step."""

    def __init__(self, own: Between):
        self.own = own

    def between_steps(self, run: Run) -> Generator[Event, None, str]:
        """The reason to stop that any process of the team has heard."""
        reason = yield from self.own.between_steps(run)
        return (reason or "asked to stop") if run.runner.team.any(bool(reason)) else ""

    def save(self, run: Run) -> Iterator[Event]:
        """Each process its own."""
        yield from self.own.save(run)
