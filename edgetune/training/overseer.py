"""What may come between two steps of a run: a person's wishes, and what the guards of the night see."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

from edgetune.events import Event, RunPaused, RunResumed
from edgetune.training.control import AnyCommand, Control, Pause, Resume, Sample, Save, Stop
from edgetune.training.run import Run

LOOK = 0.2  # seconds between two looks while a run is paused


class Guard(Protocol):
    """Watches the machine while a run trains."""

    def look(self, run: Run) -> Generator[Event, None, str]:
        """Tells what has changed since the last look; gives the reason why the run must wait, or an empty text."""
        ...


class Overseer:
    """Obeys what is asked, and holds the run while a guard says so. Only a run's first process has one."""

    def __init__(
        self,
        control: Control,
        should_stop: Callable[[], bool],
        guards: Sequence[Guard] = (),
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.control, self.should_stop, self.guards, self.sleep = control, should_stop, guards, sleep
        self.is_asked_to_wait = False
        self.stop = ""

    def between_steps(self, run: Run) -> Generator[Event, None, str]:
        """Everything that is due before the next step, waiting included; gives the reason to stop, or an empty text."""
        reason = yield from self.reason_to_wait(run)
        if reason and not self.stop:
            yield run.save()
            yield RunPaused(step=run.step, reason=reason)
            while reason and not self.stop:
                self.sleep(LOOK)
                reason = yield from self.reason_to_wait(run)
            if not self.stop:
                yield RunResumed(step=run.step)
        return self.stop

    def reason_to_wait(self, run: Run) -> Generator[Event, None, str]:
        """Obeys new commands and asks the guards; why the run must wait now, or an empty text."""
        for command in self.control.poll():
            yield from self.obey(command, run)
        if self.should_stop():
            self.stop = "asked to stop"
        reasons: list[str] = ["asked to pause"] if self.is_asked_to_wait else []
        for guard in self.guards:
            reasons.append((yield from guard.look(run)))
        return "; ".join(filter(None, reasons))

    def obey(self, command: AnyCommand, run: Run) -> Iterator[Event]:
        """Does what one command says."""
        match command:
            case Pause():
                self.is_asked_to_wait = True
            case Resume():
                self.is_asked_to_wait = False
            case Save():
                yield run.save()
            case Sample(prompt):
                yield from run.samples([prompt] if prompt else run.config.checks.samples)
            case Stop():
                self.stop = "asked to stop"
