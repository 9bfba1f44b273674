"""Tells the person that a job has ended: the terminal's bell and notice, and a command of theirs."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from edgetune.cli.output import Output, Styled, moves, one_line
from edgetune.events import Event, RunFailed, RunFinished, RunStarted, RunStopped, StepFinished, ValidationFinished
from edgetune.files import clean

LONGEST = 30.0  # seconds that the person's command may take
BELL = "\a"
NOTICES = {  # by TERM_PROGRAM: OSC 9 (iTerm2), OSC 777 (urxvt)
    "iTerm.app": "\x1b]9;{}\x07",
    "WezTerm": "\x1b]777;notify;EdgeTune;{}\x07",
    "ghostty": "\x1b]777;notify;EdgeTune;{}\x07",
}


def notice(text: str, environment: Mapping[str, str]) -> str:
    """What rings the terminal's bell and, where it is known to have notices and nothing sits between, shows one."""
    between = any(environment.get(name) for name in ("TMUX", "STY"))
    form = "" if between else NOTICES.get(environment.get("TERM_PROGRAM", ""), "")
    words = one_line(clean(text)).replace(";", ",")
    return BELL + (form.format(words) if form else "")


def ring(output: Output, text: str) -> None:
    """Sends the notice, where standard error is a terminal that is not dumb."""
    if moves(output.err):
        with suppress(OSError):
            output.err.write(notice(text, os.environ))
            output.err.flush()


def run_command(output: Output, command: str, facts: Mapping[str, str | float | None]) -> None:
    """Runs a person's command without a shell: the facts are in EDGETUNE_… variables, and as JSON on its standard input.

    One that fails is a warning: the job is done all the same.
    """
    known = {f"EDGETUNE_{name.upper()}": str(value).replace("\0", "") for name, value in facts.items() if value is not None}
    try:
        done = subprocess.run(
            shlex.split(command), input=json.dumps(facts), text=True, timeout=LONGEST, env={**os.environ, **known},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        problem = f"it ended with {done.returncode}" if done.returncode else ""
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        output.note(Styled("warning:", "yellow"), f" --notify: {problem}")


def at_the_end(output: Output, command: str = "") -> Callable[[Event], None]:
    """What hears a run's events, and tells the person of the last one: at the terminal, and by their command."""
    facts: dict[str, str | float | None] = {}

    def hear(event: Event) -> None:
        match event:
            case RunStarted():
                facts.update(run=event.run, step=event.first_step)
            case StepFinished():
                facts.update(step=event.step, loss=event.loss)
            case ValidationFinished():
                facts.update(valid_loss=event.loss)
            case RunFinished() | RunStopped() | RunFailed():
                facts.update(state=type(event).__name__.removeprefix("Run").lower(), **ended(event))
                ring(output, f"{Path(str(facts.get('run', 'the run'))).name} {facts['state']}")
                if command:
                    run_command(output, command, facts)
            case _:
                pass

    return hear


def ended(event: RunFinished | RunStopped | RunFailed) -> dict[str, str | float | None]:
    """What the last event tells besides."""
    match event:
        case RunFinished():
            return {"loss": event.train_loss, "valid_loss": event.valid_loss, "step": event.steps, "adapter": event.adapter}
        case RunStopped():
            return {"reason": event.reason}
        case RunFailed():
            return {"reason": event.message}
