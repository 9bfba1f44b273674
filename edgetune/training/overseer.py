"""What may come between two steps of a run: a person's wishes, what the guards of the night see, and a disk that is full."""

import errno
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from edgetune.config import RunConfig
from edgetune.errors import DiskFull, InputError
from edgetune.events import Event, RunPaused, RunResumed, Warned
from edgetune.hardware.sensors import Sensors
from edgetune.training.control import AnyCommand, Control, Pause, Resume, Sample, Save, Stop
from edgetune.training.guards import Guard, guards_of
from edgetune.training.guards.disk import Reserve, require_room
from edgetune.training.run import Run

LOOK = 0.2  # seconds between two looks while a run is paused
RETRY = 1.0  # seconds between two attempts to write where there seems to be room: a quota is not seen
Result = TypeVar("Result")
Ask = Callable[[Run], Generator[Event, None, str]]


class Overseer:
    """Obeys what is asked, holds the run while a guard says so, and keeps what must be kept. Only a run's first process has
    one."""

    def __init__(
        self,
        control: Control,
        should_stop: Callable[[], bool],
        sensors: Sensors,
        guards: Sequence[Guard] = (),
        reserve: Reserve | None = None,
        failed_saves: int = 1,
    ):
        self.control, self.should_stop, self.sensors, self.guards = control, should_stop, sensors, guards
        self.reserve, self.failures_allowed, self.failures = reserve, failed_saves - 1, 0
        self.is_asked_to_wait = self.is_waiting_for_room = False
        self.stop = ""

    def begin(self, run: Run) -> Iterator[Event]:
        """What the guards have to say before the first step."""
        if self.reserve:
            self.reserve.fill()
        for guard in self.guards:
            yield from guard.begin(run)

    def end(self, run: Run) -> None:
        """Everything is as it was before the run."""
        for guard in self.guards:
            guard.end(run)
        if self.reserve:
            self.reserve.release()

    # ---- waiting -----------------------------------------------------------------------------------------------------

    def between_steps(self, run: Run) -> Generator[Event, None, str]:
        """Everything that is due before the next step, waiting included; gives the reason to stop, or an empty text."""
        reason = yield from self.reason_to_wait(run)
        if reason and not self.stop:
            yield from self.save(run)
        if reason and not self.stop:
            yield from self.wait(run, reason, self.reason_to_wait)
        return self.stop

    def wait(self, run: Run, reason: str, ask: Ask) -> Iterator[Event]:
        """Until there is no reason any more, or until the run is asked to stop."""
        yield RunPaused(step=run.step, reason=reason)
        for guard in self.guards:
            guard.wait(True)
        while reason and not self.stop:
            self.sensors.sleep(LOOK)
            reason = yield from ask(run)
        if not self.stop:
            for guard in self.guards:
                guard.wait(False)
            yield RunResumed(step=run.step)

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
                if not self.is_waiting_for_room:  # where it does, that is what it waits for
                    yield from self.save(run)
            case Sample(prompt):
                yield from run.samples([prompt] if prompt else run.config.checks.samples)
            case Stop():
                self.stop = "asked to stop"

    # ---- keeping -----------------------------------------------------------------------------------------------------

    def save(self, run: Run) -> Iterator[Event]:
        """Writes a checkpoint. A full disk is waited for; where it fails otherwise, the run goes on and it is tried again.

        Raises:
            InputError, DiskFull: it failed too often in a row; the last good checkpoint is kept.
        """
        try:
            event = yield from self.keep(run, run.save, run.checkpoint_bytes)
        except (InputError, DiskFull, OSError) as error:
            self.failures += 1
            run.hold_best()
            if self.failures > self.failures_allowed:
                raise
            if self.failures == 1:
                yield Warned(
                    message=f"no checkpoint of step {run.step}: {error}",
                    hint=f"the run goes on in memory; it ends once {self.failures_allowed + 1} in a row cannot be written",
                )
        else:
            if event:
                self.failures = 0
                yield event

    def keep(self, run: Run, write: Callable[[], Result], need: int) -> Generator[Event, None, Result | None]:
        """Writes something that takes up to `need` bytes; waits for them where they are not there.

        None: the run was asked to stop before there was room.
        """
        kept: list[Result] = []

        def attempt() -> str:
            try:
                require_room(self.sensors, run.folder, need)
                kept.append(write())
            except DiskFull as error:
                if is_own_limit(error):
                    raise
                return f"the disk is full: {error.message}"
            return ""

        if reason := attempt():
            if self.reserve:
                self.reserve.release()
            if not self.stop:
                yield from self.wait(run, reason, self.until_there_is_room(attempt, need))
            if not kept:
                hint = "a resume learns the steps since the last checkpoint again"
                yield Warned(message=f"not written after step {run.step}: {reason}", hint=hint)
                return None
            if self.reserve:
                self.reserve.fill()
        return kept[0]

    def until_there_is_room(self, attempt: Callable[[], str], need: int) -> Ask:
        """Why to go on waiting: room is looked for all the time, and if there seems to be enough, it is tried now and then."""
        last_try = self.now()

        def ask(run: Run) -> Generator[Event, None, str]:
            nonlocal last_try
            self.is_waiting_for_room = True
            yield from self.reason_to_wait(run)
            self.is_waiting_for_room = False
            is_time = self.now() - last_try >= RETRY or self.stop
            if not is_time or self.sensors.free_space(run.folder) < need:
                return "the disk is full"
            last_try = self.now()
            return attempt()

        return ask

    def now(self) -> float:
        """Seconds without sleep."""
        return self.sensors.clock.times().worked


def is_own_limit(error: DiskFull) -> bool:
    """Whether a file is larger than this process may write (RLIMIT_FSIZE): no room that comes back lifts that."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EFBIG


def overseer_of(folder: Path, config: RunConfig, should_stop: Callable[[], bool], sensors: Sensors) -> Overseer:
    """The overseer of a run, with the guards that its config asks for."""
    guards = guards_of(config.night, sensors)
    return Overseer(Control(folder), should_stop, sensors, guards, Reserve(folder), config.night.failed_saves)
