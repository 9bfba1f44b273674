"""Recorded nights: the events of runs to which something happened, for the tests of what is told in the morning."""

import math
from collections.abc import Iterator

from edgetune.config import AdapterConfig, ChecksConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.events import (
    AnyEvent,
    CheckpointSaved,
    ClockChanged,
    KeptAwake,
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
    SampleWritten,
    Slept,
    StepFinished,
    StepSkipped,
    Throttled,
    ValidationFinished,
)

EVENING = 1795906800.0  # 28 Nov 2026, 23:00 UTC
PROMPT = "My parcel never came, what now?"
CONFIG = RunConfig(
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    data=DataConfig(train=["train.jsonl"]),
    adapter=AdapterConfig(rank=16),
    training=TrainingConfig(epochs=3.0, rate=2e-4),
    checks=ChecksConfig(eval_every=100, save_every=50, samples=[PROMPT]),
)


class Night:
    """Writes events down as a run would, by a clock that only it moves."""

    def __init__(self, steps: int = 600, seconds: float = 36.0, valid_rows: int = 63):
        self.total, self.seconds, self.valid_rows = steps, seconds, valid_rows
        self.events: list[AnyEvent] = []
        self.now, self.step, self.best = EVENING, 0, math.inf

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    def start(self, first_step: int = 0) -> None:
        """A process takes the run up."""
        self.step = first_step
        self.events.append(
            RunStarted(
                time=self.now, run="night", first_step=first_step, total_steps=self.total, backend="numpy",
                trained_parameters=4_884_480, train_rows=1204, valid_rows=self.valid_rows, train_tokens=150_000,
                trained_tokens=60_000, planned_peak_bytes=2_930_000_000, planned_seconds=23_400.0,
            )
        )  # fmt: skip
        self.events.append(KeptAwake(time=self.now, method="systemd-inhibit", has_lid=True))

    def check(self, loss: float, reply: str = "") -> None:
        """A validation, its sample and a checkpoint."""
        self.wait(9.0)
        if self.valid_rows:
            best = loss < self.best
            self.best = min(loss, self.best)
            self.events.append(
                ValidationFinished(time=self.now, step=self.step, loss=loss, tokens=4000, seconds=9.0, best=best)
            )
        if reply:
            self.events.append(SampleWritten(time=self.now, step=self.step, prompt=PROMPT, reply=reply))
        self.save()

    def save(self) -> None:
        """A checkpoint."""
        self.events.append(CheckpointSaved(time=self.now, step=self.step, folder=f"step-{self.step:06}", seconds=0.3))

    def train(self, until: int, floor: float = 1.35, slow: float = 1.0, rest: float = 0.0) -> None:
        """Steps up to this one; the loss falls towards `floor`."""
        for step in range(self.step + 1, until + 1):
            self.wait(self.seconds * slow + rest)
            loss = floor + 1.6 * math.exp(-step / 90) + 0.04 * math.sin(step * 1.7)
            self.events.append(
                StepFinished(
                    time=self.now, step=step, loss=loss, rate=1e-4, gradient_norm=0.8, tokens=10_000, trained_tokens=4000,
                    seconds=self.seconds * slow, memory_bytes=2_910_000_000, rested_seconds=rest,
                )
            )  # fmt: skip
            self.step = step

    def add(self, event: AnyEvent) -> None:
        """Any other event, now."""
        self.events.append(event)

    def finish(self, train_loss: float, valid_loss: float | None, best_step: int, energy: float | None = None) -> None:
        """The end that a run is made for."""
        self.add(
            RunFinished(
                time=self.now, run="night", adapter="night/adapter", steps=self.step, tokens=10_000 * self.step,
                train_loss=train_loss, valid_loss=valid_loss, best_step=best_step, tokens_per_second=277.8,
                peak_bytes=2_910_000_000, seconds=21_000.0, energy_joules=energy,
            )
        )  # fmt: skip


def quiet() -> Night:
    """Nothing happened: the loss fell and was level at the end."""
    night = Night()
    night.start()
    losses = [2.914, 1.952, 1.623, 1.531, 1.502, 1.496, 1.491]
    night.check(losses[0], "I'm sorry to hear that. Can you tell me more about your parcel?")
    for place, loss in enumerate(losses[1:], 1):
        night.train(100 * place)
        night.check(loss, "I am sorry it is late. I opened a trace with the courier; you get a mail today.")
    night.finish(1.3712, 1.491, 600, energy=1.51e6)
    return night


def learned_by_heart() -> Night:
    """The held-out loss was best at a third."""
    night = Night()
    night.start()
    night.check(2.914)
    for place, loss in enumerate([1.62, 1.482, 1.497, 1.55, 1.61, 1.66], 1):
        night.train(100 * place, floor=0.4)
        night.check(loss)
    night.finish(0.41, 1.482, 200)
    return night


def unfinished_business() -> Night:
    """The held-out loss still fell when the steps ended."""
    night = Night()
    night.start()
    night.check(2.914)
    for place, loss in enumerate([2.4, 2.1, 1.95, 1.83, 1.74, 1.66], 1):
        night.train(100 * place, floor=1.5)
        night.check(loss)
    night.finish(1.58, 1.66, 600)
    return night


def hard() -> Night:
    """Heat, a pulled plug, sleep, a killed process, a clock that was set: and the right adapter in the morning."""
    night = Night()
    night.start()
    night.check(2.914, "I'm sorry to hear that.")
    night.train(120)
    night.add(Throttled(time=night.now, step=120, percent=38, celsius=94, rest_share=0.2))
    night.train(160, slow=1.6, rest=8.0)
    night.add(Recovered(time=night.now, step=160, seconds=2624.0, rested_seconds=320.0))
    night.check(1.702)
    night.train(250)
    night.save()
    night.add(PowerChanged(time=night.now, step=250, source="battery", percent=34))
    night.train(255)
    night.save()
    night.add(RunPaused(time=night.now, step=255, reason="on battery, 18 % left"))
    night.wait(600)
    night.wait(1800)
    night.add(Slept(time=night.now, step=255, seconds=1800.0))
    night.wait(480)
    night.add(PowerChanged(time=night.now, step=255, source="mains", percent=20))
    night.add(RunResumed(time=night.now, step=255))
    night.train(311)
    night.wait(7800)
    night.start(300)
    night.now -= 3600
    night.add(ClockChanged(time=night.now, step=300, seconds=-3600.0))
    for until, loss in ((400, 1.52), (500, 1.50), (600, 1.498)):
        night.train(until)
        night.check(loss, "I opened a trace with the courier.")
    night.finish(1.39, 1.498, 600)
    return night


def killed() -> Night:
    """The process was gone at step 311."""
    night = Night()
    night.start()
    night.check(2.914)
    night.train(300)
    night.check(1.58)
    night.train(311)
    return night


def stopped() -> Night:
    """Somebody asked it to stop."""
    night = Night()
    night.start()
    night.check(2.914)
    night.train(42)
    night.save()
    night.add(RunStopped(time=night.now, step=42, reason="asked to stop"))
    return night


def full_disk() -> Night:
    """No room for a checkpoint."""
    night = Night()
    night.start()
    night.check(2.914)
    night.train(49)
    night.add(RunFailed(time=night.now, kind="disk_full", message="no room left while writing x", hint="free some disk space"))
    return night


def rolled_back() -> Night:
    """Numbers that were not finite, three times in a row."""
    night = Night()
    night.start()
    night.check(2.914)
    night.train(200)
    night.check(1.7)
    night.train(230)
    for step in (231, 232, 233):
        night.add(
            StepSkipped(time=night.now, step=step, reason="the loss is nan, the length of its gradient nan", rows=["a.jsonl:3"])
        )
    night.add(RolledBack(time=night.now, step=233, to_step=200, rate_factor=0.5, rows=["a.jsonl:3"], reason="not finite"))
    night.step = 200
    night.train(600)
    night.check(1.52)
    night.finish(1.4, 1.52, 600)
    return night


def left_out(kind: str = "row", number: int = 300) -> Night:
    """A fifth of the rows was not learned."""
    night = quiet()
    why = "1,802 tokens, 1,024 fit" if kind == "dropped" else "messages[2] has no content"
    rows: list[AnyEvent] = [
        RowsLeftOut(time=EVENING, file="data/train.jsonl", line=line, kind=kind, message=why) for line in range(7, 7 + number)
    ]
    night.events = [*rows, *night.events]
    return night


def nothing_held_out() -> Night:
    """No validation rows."""
    night = Night(valid_rows=0)
    night.start()
    night.check(0.0, "Hello.")
    night.train(600)
    night.check(0.0, "Good evening.")
    night.finish(1.37, None, 600)
    return night


def still_training() -> Night:
    """A run at step 150."""
    night = Night()
    night.start()
    night.check(2.914)
    night.train(150)
    return night


ALL = (
    quiet, learned_by_heart, unfinished_business, hard, killed, stopped, full_disk, rolled_back, left_out, nothing_held_out,
    still_training,
)  # fmt: skip


def all_nights() -> Iterator[tuple[str, Night]]:
    """Every night by its name."""
    for night in ALL:
        yield night.__name__, night()
