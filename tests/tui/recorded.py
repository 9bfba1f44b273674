"""A recorded run, made anew: the same numbers in every test, and none that a machine measured."""

import fcntl
import math
import os
import random
from pathlib import Path
from typing import Any, BinaryIO

from edgetune import events
from edgetune.config import ChecksConfig, DataConfig, RunConfig, to_toml
from edgetune.events import Event, to_line
from edgetune.locks import name_owner

START = 1_700_000_000.0
PROMPTS = ("My parcel never came, what now?", "How do I reset my password?", "Cancel my plan please")
FIRST = "I'm sorry to hear that. Can you tell me more about your parcel?"
LATER = "I am sorry it is late. I opened a trace with the courier; you get a mail today."
HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J[/foo][@click=app.exit]x[/]\u202egnp.exe\x9b31m"


def told(steps: int, total: int, prompts: tuple[str, ...] = PROMPTS, reply: str = LATER) -> list[Event]:
    """The events of a run up to a step; a step takes 0.8 s."""
    draw = random.Random(7)
    at, best = START, 9.0
    found: list[Event] = [
        events.RunStarted(
            time=at, run="run-3", first_step=0, total_steps=total, backend="mlx", trained_parameters=10_100_000,
            train_rows=1144, valid_rows=60, train_tokens=318_000, trained_tokens=120_000, planned_peak_bytes=2_930_000_000,
        ),
        events.KeptAwake(time=at, method="caffeinate"),
        *(events.SampleWritten(time=at, step=0, prompt=prompt, reply=FIRST) for prompt in prompts),
    ]  # fmt: skip
    for step in range(1, steps + 1):
        at += 0.8
        curve = 1.35 + 1.75 * math.exp(-8 * step / total)
        found.append(
            events.StepFinished(
                time=at, step=step, loss=curve + draw.gauss(0, 0.05), rate=2e-4 * (1 - step / total),
                gradient_norm=0.8, tokens=1850, trained_tokens=700, seconds=0.8, memory_bytes=2_910_000_000,
            )
        )  # fmt: skip
        if step % max(total // 6, 1) == 0:
            loss = curve + 0.03
            found.append(events.ValidationFinished(time=at, step=step, loss=loss, tokens=9000, seconds=2.1, best=loss < best))
            best = min(best, loss)
            found += [events.SampleWritten(time=at, step=step, prompt=prompt, reply=reply) for prompt in prompts]
            found.append(events.CheckpointSaved(time=at, step=step, folder="x", seconds=0.4))
    return found


HELD: list[BinaryIO] = []  # locks, as long as the tests


def record(run: Path, found: list[Event], alive: bool = False, **checks: Any) -> Path:
    """A run's folder. `alive`: this process holds its lock."""
    run.mkdir(parents=True)
    config = RunConfig(model="Qwen3-0.6B-4bit", data=DataConfig(train=["a.jsonl"]), checks=ChecksConfig(**checks))
    (run / "run.toml").write_text(to_toml(config), "utf-8")
    (run / "events.jsonl").write_bytes(b"".join(to_line(event) + b"\n" for event in found))
    if alive:
        lock = (run / "run.lock").open("a+b")
        fcntl.flock(lock, fcntl.LOCK_EX)
        HELD.append(lock)
        name_owner(run / "run.lock", os.getpid())
    return run


def ending(kind: str, step: int) -> list[Event]:
    """How a run ends, or what it waits for."""
    at = START + 0.8 * step
    match kind:
        case "paused":
            return [events.RunPaused(time=at, step=step, reason="on battery, 18 % left")]
        case "stopped":
            return [events.RunStopped(time=at, step=step, reason="asked to stop")]
        case "failed":
            message, hint = "the machine ran out of memory", "lower data.max_tokens, or training.batch"
            return [events.RunFailed(time=at, kind="memory", message=message, hint=hint)]
        case "slow":
            return [events.Throttled(time=at, step=step, percent=38, celsius=91, rest_share=0.2)]
        case "finished":
            return [
                events.RunFinished(
                    time=at, run="run-3", adapter="run-3/adapter", steps=step, tokens=step * 1850, train_loss=1.351,
                    valid_loss=1.381, best_step=step, tokens_per_second=2312.5, peak_bytes=2_910_000_000,
                    seconds=0.8 * step, energy_joules=41_000,
                )
            ]  # fmt: skip
        case _:
            return []
