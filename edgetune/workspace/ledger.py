"""Where the time of a run went, and what happened to it besides its steps: read from its events, once, in their order.

Times are differences of the wall clock without what it was set by (ClockChanged), and never below nothing.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from edgetune.events import (
    CheckpointRejected,
    CheckpointSaved,
    ClockChanged,
    Diverged,
    Event,
    MemoryShort,
    PowerChanged,
    Recovered,
    RolledBack,
    RowsLeftOut,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    Slept,
    StepFinished,
    StepSkipped,
    Throttled,
    ValidationFinished,
    Warned,
)
from edgetune.units import count, duration, size

FIRST_STEPS = 10  # that the time of the whole run is first told from
MOST = 200  # incidents that are remembered: half of them the first, half the last


class Incident(Struct, frozen=True, kw_only=True):
    """Something that happened to a run and is no step; `seconds` where it lasted."""

    kind: str  # the event's name in small letters, or "interrupted", "continued"
    time: float
    step: int
    text: str
    seconds: float | None = None


class Times(Struct, frozen=True, kw_only=True):
    """Seconds, by what they went to."""

    wall: float = 0.0
    training: float = 0.0  # of steps, those that were done again included
    again: float = 0.0  # of steps that were done before
    checks: float = 0.0  # validations
    saving: float = 0.0
    resting: float = 0.0
    paused: float = 0.0
    slept: float = 0.0
    down: float = 0.0  # no process trained
    throttled: float = 0.0  # of all the others: while the machine was slower, or hotter, than it should be


class Ledger:
    """Adds events up; `times` and `incidents` are what came of them."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.incidents: list[Incident] = []
        self.left_out: Counter[str] = Counter()  # by kind
        self.first_left_out: RowsLeftOut | None = None
        self.first_steps: list[float] = []  # seconds
        self.slowest = 0.0  # percent
        self.skipped = self.rolled_back = self.step = self.furthest = 0
        self.set_by = self.first = self.last = self.last_seen = 0.0
        self.is_running = False
        self.pause: Span | None = None
        self.throttle: Span | None = None

    @property
    def times(self) -> Times:
        """Seconds, as far as they are known."""
        return Times(wall=max(self.last - self.first, 0.0), **self.sums)

    def clock(self, event: Event) -> float:
        """An event's time as the clock would show it had nobody set it."""
        return event.time - self.set_by

    def add(self, event: Event) -> None:
        """One more event."""
        if isinstance(event, ClockChanged):
            self.set_by += event.seconds
        if not isinstance(event, CheckpointRejected | RowsLeftOut):  # those precede the start that they belong to
            if isinstance(event, RunStarted):
                self.start(event)
            self.first = self.first or self.clock(event)
            self.last, self.last_seen = max(self.last, self.clock(event)), event.time
        if isinstance(event, StepFinished):
            self.add_step(event)
        else:
            self.add_rare(event)

    def add_step(self, event: StepFinished) -> None:
        """A step, and whether it was done before."""
        self.sums["training"] += event.seconds
        self.sums["resting"] += event.rested_seconds
        if event.step <= self.furthest:
            self.sums["again"] += event.seconds
        if len(self.first_steps) < FIRST_STEPS:
            self.first_steps.append(event.seconds)
        self.step, self.furthest = event.step, max(self.furthest, event.step)

    def add_rare(self, event: Event) -> None:
        """Everything that is no step."""
        match event:
            case RowsLeftOut():
                self.left_out[event.kind] += 1
                self.first_left_out = self.first_left_out or event
            case ValidationFinished():
                self.sums["checks"] += event.seconds
            case CheckpointSaved():
                self.sums["saving"] += event.seconds
            case RunPaused():
                self.pause = self.begin(event, f"paused: {event.reason or 'asked to pause'}")
            case RunResumed():
                self.end_pause()
            case RunStopped() | RunFailed() | RunFinished():
                self.end(event)
            case _:
                self.add_trouble(event)

    def add_trouble(self, event: Event) -> None:
        """What a night may do to a run."""
        match event:
            case Slept():
                self.sums["slept"] += event.seconds
                what = "the machine slept" if event.kind == "asleep" else "the run was held"
                self.tell(event, what, event.seconds)
            case Throttled():
                self.slowest = max(self.slowest, event.percent)
                self.throttle = self.throttle or self.begin(event, slower(event))
            case Recovered():
                self.end_throttle(event.seconds, event.rested_seconds)
            case RolledBack():
                self.rolled_back += 1
                self.step = event.to_step
                self.tell(event, f"back to step {count(event.to_step)}, at {event.rate_factor:g} times the rate")
            case StepSkipped():
                self.skipped += 1
                self.step = event.step
                self.tell(event, f"step {count(event.step)} changed nothing: {event.reason}")
            case _:
                if text := told(event):
                    self.tell(event, text)

    # ---- processes -------------------------------------------------------------------------------------------------

    def start(self, event: RunStarted) -> None:
        """A process takes the run up: the first, or one after another that was stopped or is gone."""
        if not self.first:
            self.tell(event, f"{count(event.total_steps)} steps begin on {event.backend}")
        else:
            if self.is_running:
                self.end_spans()
                self.note("interrupted", self.last_seen, f"the process was gone after step {count(self.step)}")
            down = max(self.clock(event) - self.last, 0.0)
            self.sums["down"] += down
            again = self.step - event.first_step
            redone = f", {count(again)} of its steps were done again" if again > 0 else ""
            self.note("continued", event.time, f"it went on after step {count(event.first_step)}{redone}", down)
        self.step, self.is_running = event.first_step, True

    def end(self, event: RunStopped | RunFailed | RunFinished) -> None:
        """A process says why it ends."""
        self.end_spans()
        self.is_running = False
        if isinstance(event, RunFinished):
            self.tell(event, f"done after {count(event.steps)} steps")
        elif isinstance(event, RunStopped):
            self.tell(event, f"stopped after step {count(event.step)}: {event.reason}")
        else:
            self.tell(event, f"failed after step {count(self.step)}: {event.message}")

    def close(self) -> None:
        """There are no more events, and no process that could write some."""
        if self.is_running:
            self.end_spans()
            self.note("interrupted", self.last_seen, f"the process was gone after step {count(self.step)}")

    # ---- what lasts ------------------------------------------------------------------------------------------------

    def begin(self, event: Event, text: str) -> "Span":
        """Something begins that has an end."""
        return Span(self.tell(event, text), self.clock(event), self.sums["slept"])

    def end_spans(self) -> None:
        """What lasted while the process lived ends with it."""
        self.end_pause()
        if self.throttle:
            self.end_throttle(max(self.last - self.throttle.start, 0.0))

    def end_pause(self) -> None:
        """The run goes on, or ends, after a pause; sleep in it counts as sleep."""
        if self.pause:
            seconds = max(self.last - self.pause.start - (self.sums["slept"] - self.pause.slept), 0.0)
            self.sums["paused"] += seconds
            self.finish(self.pause, seconds)
            self.pause = None

    def end_throttle(self, seconds: float, rested: float = 0.0) -> None:
        """The machine is itself again."""
        if self.throttle:
            self.sums["throttled"] += seconds
            self.finish(self.throttle, seconds, f", and rested {duration(rested)}" if rested else "")
            self.throttle = None

    def finish(self, span: "Span", seconds: float, more: str = "") -> None:
        """Writes how long something lasted to its incident, where that is still remembered."""
        for place, each in enumerate(self.incidents):
            if each is span.incident:
                self.incidents[place] = replace(each, seconds=seconds, text=each.text + more)

    # ---- incidents -------------------------------------------------------------------------------------------------

    def tell(self, event: Event, text: str, seconds: float | None = None) -> Incident:
        """Remembers an incident that an event tells of."""
        return self.note(type(event).__name__.removeprefix("Run").lower(), event.time, text, seconds)

    def note(self, kind: str, time: float, text: str, seconds: float | None = None) -> Incident:
        """Remembers an incident; of very many, the first and the last."""
        if len(self.incidents) == MOST:
            del self.incidents[MOST // 2]
        self.incidents.append(Incident(kind=kind, time=time, step=self.step, text=text, seconds=seconds))
        return self.incidents[-1]


class Span(NamedTuple):
    """What has begun and not ended yet: its incident, when, and how long the machine had slept before."""

    incident: Incident
    start: float
    slept: float


def slower(event: Throttled) -> str:
    """By how much the machine was slower, and how hot."""
    what = f"{event.percent:.0f} % slower" if event.percent > 0 else "too hot"
    return f"the machine was {what}" + (f" at {event.celsius:.0f} °C" if event.celsius is not None else "")


def told(event: Event) -> str:
    """An incident without a length, in words; empty for what is none."""
    match event:
        case PowerChanged():
            charge = f", {event.percent:.0f} % charged" if event.percent is not None else ""
            return f"{'on mains again' if event.source == 'mains' else 'on battery'}{charge}"
        case MemoryShort():
            saves = ", activations recomputed from then on" if event.recomputes else ""
            return f"memory was short, {size(event.available_bytes)} left{saves}"
        case Diverged():
            return f"the held-out loss was {event.loss:.4f}, far above the best, {event.best_loss:.4f}"
        case ClockChanged():
            return f"the clock was set {'forward' if event.seconds > 0 else 'back'} by {duration(abs(event.seconds))}"
        case CheckpointRejected():
            return f"a checkpoint was not used: {event.reason}"
        case Warned():
            return event.message
        case _:
            return ""
