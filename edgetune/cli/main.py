"""`edgetune`: the app, and the one place where an error becomes two lines and an exit code."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Concatenate

import typer
import typer.main

from edgetune.backend.launch import rank
from edgetune.cli import (
    adapter,
    bench,
    chat,
    control,
    data,
    demo,
    doctor,
    evaluate,
    export,
    jobs,
    merge,
    models,
    plan,
    projects,
    report,
    runs,
    selftest,
    train,
    watch,
)
from edgetune.cli.crash import report_crash
from edgetune.cli.options import ARGUMENTS, Job, command
from edgetune.cli.output import Output, one_line
from edgetune.errors import DiskFull, DoesNotFit, EdgeTuneError, InputError
from edgetune.events import JobEnded, to_line
from edgetune.files import append_line
from edgetune.workspace.bounded_log import LOG_VARIABLE, bound_standard_error

INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 + SIGINT, 128 + SIGPIPE: what shells expect

# Plain help, no completion scripts, no coloured tracebacks: each would load rich, and `--help` answers at once.
app = typer.Typer(
    name="edgetune",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Interrupted(EdgeTuneError):
    """Ctrl-C, outside of a training run."""

    exit_code = INTERRUPTED


def show_version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        from importlib.metadata import version

        Output().say(f"edgetune {version('edgetune')}")
        raise typer.Exit


@app.callback()
def edgetune(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Fine-tune a small language model on your own examples, on this machine, and talk to the proved result offline."""


COMMANDS: dict[str, Callable[Concatenate[Job, ...], None]] = {
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "data": data.data,
    "plan": plan.plan,
    "train": train.train,
    "resume": train.resume,
    "runs": runs.runs,
    "report": report.report,
    "watch": watch.watch,
    "pause": control.pause,
    "stop": control.stop,
    "save": control.save,
    "sample": control.sample,
    "jobs": jobs.jobs,
    "eval": evaluate.evaluate,
    "merge": merge.merge,
    "export": export.export,
    "chat": chat.chat,
    "bench": bench.bench,
}
for name, function in COMMANDS.items():
    app.command(name)(command(function))
app.add_typer(projects.app, name="projects")
app.add_typer(adapter.app, name="adapter")
app.add_typer(models.app, name="models")
app.add_typer(selftest.app, name="selftest")


def run() -> None:
    """The process's own command line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
        getattr(sys, name).reconfigure(errors="backslashreplace")
    if LOG_VARIABLE in os.environ:
        bound_standard_error()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is cancelled takes its unfinished files away
    code = main(sys.argv[1:])
    with suppress(OSError):
        sys.stdout.flush()
    if code == PIPE_CLOSED:  # what is left in the buffer has nowhere to go, and Python would complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Runs one command line; the exit code. With --events, it is the last event."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    output = Output(as_json="--json" in options)
    end = attempt(arguments, output)
    if (events := events_file(options)) and not rank():
        with suppress(OSError, EdgeTuneError):
            append_line(events, to_line(end), "event-copy")
    return end.exit_code


def attempt(arguments: Sequence[str], output: Output) -> JobEnded:
    """Runs one command line, and tells what is wrong; its end."""
    try:
        with redirect_stdout(output.err if output.as_json else output.out):
            return JobEnded(exit_code=invoke(list(arguments) or ["--help"], output))
    except BrokenPipeError:
        return JobEnded(exit_code=PIPE_CLOSED)
    except (Exception, KeyboardInterrupt) as error:
        told = translated(error, arguments)
        with suppress(BrokenPipeError):
            output.error(told)
        return JobEnded(exit_code=told.exit_code, kind=told.kind, message=told.message, hint=told.hint)


def events_file(options: Sequence[str]) -> Path | None:
    """What --events names, also where the command line is at fault elsewhere."""
    for option, following in zip_longest(options, options[1:], fillvalue=""):
        if option == "--events" and following:
            return Path(following)
        if option.startswith("--events="):
            return Path(option.partition("=")[2])
    return None


def invoke(arguments: list[str], output: Output) -> int:
    """Parses the line and calls the command, without the parser's own handling of errors."""
    try:
        top = typer.main.get_command(app)
        with top.make_context("edgetune", arguments, obj=output) as context:
            context.meta[ARGUMENTS] = arguments
            top.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def translated(error: BaseException, arguments: Sequence[str]) -> EdgeTuneError:
    """Any exception as one of ours: a usage error, an interrupt, the system's own refusals; all else is a bug."""
    match error:
        case EdgeTuneError():
            return error
        case typer.TyperException():
            context = getattr(error, "ctx", None)
            where = context.command_path if context else "edgetune"
            return InputError(one_line(error.format_message()), hint=f"see `{where} --help`")
        case KeyboardInterrupt() | typer.Abort():
            return Interrupted("interrupted", hint="nothing is left half done: start it again when you like")
        case MemoryError():
            return DoesNotFit(
                "memory ran out", hint="close other programs, or take a smaller model or a smaller data.max_tokens"
            )
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return DiskFull("no room left on the disk", hint="free some disk space and try again", file=error.filename)
        case OSError() if error.filename:
            return InputError(
                error.strerror or str(error), hint="check that place and its permissions", file=str(error.filename)
            )
        case _:
            return report_crash(error, arguments)
