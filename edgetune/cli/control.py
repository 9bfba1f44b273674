"""`pause`, `stop`, `save` and `sample`: what a person asks of a run that trains elsewhere, and what came of it."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import Job
from edgetune.cli.output import Styled
from edgetune.errors import CheckpointError, EdgeTuneError
from edgetune.events import AnyEvent, CheckpointSaved, RunPaused, RunResumed, RunStopped, SampleWritten, Warned
from edgetune.locks import told
from edgetune.training.control import AnyCommand, Pause, Resume, Sample, Save, Stop, send
from edgetune.units import count, duration
from edgetune.workspace.follow import Follower
from edgetune.workspace.names import named
from edgetune.workspace.runs import RUNNING, find_run, is_alive, name_of, summary

LOOK = 0.1  # seconds between two looks
PATIENCE, STEPS = 20.0, 5  # seconds, and recent steps, that an answer may take
Name = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, or its name in `edgetune runs`.")]
Told = Callable[[AnyEvent], bool]


def pause(job: Job, run: Name) -> None:
    """Let a run save itself and wait. `edgetune resume RUN` lets it go on."""
    folder, follower = living(run)
    if follower.state.phase == "paused" and "asked to pause" in follower.state.waits_for:
        job.output.say("it is paused already")
        return job.output.document({"run": str(folder), "obeyed": True})
    ask(job, folder, Pause(), lambda event: isinstance(event, RunPaused))


def save(job: Job, run: Name) -> None:
    """Let a run write a checkpoint now."""
    folder, _ = living(run)
    ask(job, folder, Save(), lambda event: isinstance(event, CheckpointSaved))


def sample(
    job: Job, run: Name, prompt: Annotated[str, typer.Option(metavar="TEXT", help="Else those of its config.")] = ""
) -> None:
    """Let a run answer a prompt with the model as it is now."""
    from edgetune.training.session import read_run_config

    folder, _ = living(run)
    prompts = [prompt] if prompt else read_run_config(folder).checks.samples
    if not prompts:
        raise CheckpointError("its config has no samples", file=folder, hint="give one: --prompt TEXT")
    missing = set(prompts)

    def told(event: AnyEvent) -> bool:
        if isinstance(event, SampleWritten):
            missing.discard(event.prompt)
        return not missing

    ask(job, folder, Sample(prompt), told)


def stop(
    job: Job,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a job of `edgetune jobs`.")],
    now: Annotated[bool, typer.Option("--now", help="At once: what was learned since the last checkpoint is lost.")] = False,
) -> None:
    """End a run, saved; `edgetune resume RUN` continues it. Or end a job."""
    folder, started = named(run)
    if folder is None or not is_alive(folder):
        if started is None or not started.is_running():
            raise not_alive(folder or Path(run))
        started.cancel()
        return wait_for_end(job, str(folder) if folder else "", started.id, started.is_running, lambda: started.poll())
    if now:
        end_at_once(folder)
        return wait_for_end(job, str(folder), folder.name, lambda: is_alive(folder))
    ask(job, folder, Stop(), lambda event: isinstance(event, RunStopped))
    until = time.monotonic() + PATIENCE
    while is_alive(folder) and time.monotonic() < until:  # who resumes it next finds it free
        time.sleep(LOOK)


def go_on(job: Job, folder: Path) -> None:
    """Lets a run that lives go on after a pause.

    Raises:
        CheckpointError: it is not paused.
    """
    _, follower = living(str(folder))
    if follower.state.phase != "paused":
        raise CheckpointError(
            f"another process trains here: {told(folder / 'run.lock')}", file=folder, hint=f"edgetune watch {name_of(folder)}"
        )
    ask(job, folder, Resume(), lambda event: isinstance(event, RunResumed))


# ---- asking ------------------------------------------------------------------------------------------------------------


def living(name: str) -> tuple[Path, Follower]:
    """The folder of a run that a process trains now, and a follower of it that has read all.

    Raises:
        CheckpointError: there is no such run, or nobody trains it.
    """
    folder, started = named(name)
    if started and started.run and not is_alive(started.run) and started.is_running():
        hint = f"edgetune watch {started.id}"
        raise CheckpointError("it has not begun to train yet", file=started.run, hint=hint)
    folder = folder or find_run(name)
    follower = Follower(folder / "events.jsonl")
    follower.catch_up()
    if not is_alive(folder) or follower.state.phase not in RUNNING:
        raise not_alive(folder)
    return folder, follower


def not_alive(run: Path) -> CheckpointError:
    """The error for a run that cannot be asked."""
    return CheckpointError("nobody trains this run now", file=run, hint=f"edgetune resume {name_of(run)} continues it")


def ask(job: Job, folder: Path, command: AnyCommand, is_answer: Told) -> None:
    """Asks a run, waits until its events tell that it has obeyed, and says what happened.

    Raises:
        CheckpointError: it ended meanwhile.
    """
    _, follower = living(str(folder))
    recent = [step.seconds for step in follower.state.recent]
    patience = max([PATIENCE, *(STEPS * seconds for seconds in recent)])
    send(folder, command)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        for event in follower.poll():
            if is_answer(event):
                return obeyed(job, folder, event)
            if isinstance(event, SampleWritten | Warned):
                job.view.show(event)
        if not follower.is_behind:
            require_life(folder)
            job.output.status("waiting for the step at hand")
            time.sleep(LOOK)
    waits = f"; it waits: {follower.state.waits_for}" if follower.state.waits_for else ""
    job.output.say(f"asked; it has not obeyed within {duration(patience)}: it does so after the step at hand{waits}")
    job.output.document({"run": str(folder), "obeyed": False})


def require_life(folder: Path) -> None:
    """Looks whether the run can still answer.

    Raises:
        CheckpointError: its process is gone.
    """
    if not is_alive(folder):
        known = summary(folder)
        hint = f"edgetune watch {name_of(folder)} tells what came of it"
        raise CheckpointError(f"it ended meanwhile: {known.why or known.phase}", file=folder, hint=hint)


def obeyed(job: Job, folder: Path, event: AnyEvent) -> None:
    """What happened."""
    out = job.output
    out.clear_status()
    match event:
        case RunPaused():
            out.say(f"paused after step {count(event.step)}, saved")
            out.say(Styled(f"     edgetune resume {name_of(folder)}", "dim"))
        case RunResumed():
            out.say(f"goes on after step {count(event.step)}")
        case CheckpointSaved():
            out.say(f"saved after step {count(event.step)}: {event.folder}")
        case RunStopped():
            out.say(f"stopped after step {count(event.step)}, saved")
            out.say(Styled(f"     edgetune resume {name_of(folder)}", "dim"))
        case SampleWritten():
            out.say(event.reply)
        case _:
            pass
    out.document({"run": str(folder), "obeyed": True, "event": event})


# ---- ending ------------------------------------------------------------------------------------------------------------


def end_at_once(folder: Path) -> None:
    """Sends a run's process two signals: at the second it leaves, and its last checkpoint is whole.

    Raises:
        CheckpointError: it is on another machine.
    """
    from edgetune.locks import owner_of

    owner = owner_of(folder / "run.lock")
    if owner is None or owner.host != socket.gethostname():
        raise CheckpointError("its process is on another machine", file=folder, hint="stop it there, or without --now")
    with suppress(ProcessLookupError):
        os.kill(owner.pid, signal.SIGTERM)
        time.sleep(LOOK)
        os.kill(owner.pid, signal.SIGTERM)


def wait_for_end(
    job: Job, run: str, name: str, is_running: Callable[[], bool], look: Callable[[], object] = lambda: None
) -> None:
    """Waits for the end of a process, and says so.

    Raises:
        EdgeTuneError: it does not end.
    """
    until = time.monotonic() + 3 * PATIENCE
    while is_running():
        look()
        if time.monotonic() > until:
            raise EdgeTuneError(f"{name} does not end", hint="end its process by hand")
        time.sleep(LOOK)
    job.output.say(f"ended {name}")
    job.output.document({"run": run or None, "obeyed": True})
