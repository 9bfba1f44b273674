"""Our command line in forked children: a kill, a signal or a limit costs no new interpreter, so that there can be hundreds."""

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import NamedTuple

import edgetune.workspace.training  # noqa: F401 - loaded once here, not in every child
from edgetune import faults
from edgetune.cli.main import main

with redirect_stderr(io.StringIO()):  # what the parser loads for the first line with an argument is loaded once here, too
    main(["train", "/there is no such file"])


class Ended(NamedTuple):
    """How a child ended: its exit code, or a signal's number below zero, and what it said."""

    code: int
    out: str
    err: str


class Child:
    """A forked child that does `action` and exits with the code that this gives; `fault` is its EDGETUNE_FAULT."""

    def __init__(self, action: Callable[[], int], fault: str = ""):
        self.folder = tempfile.TemporaryDirectory(prefix="fork-")
        self.out, self.err = (Path(self.folder.name) / name for name in ("out", "err"))
        self.pid = os.fork()
        if self.pid == 0:
            self.act(action, fault)

    def act(self, action: Callable[[], int], fault: str) -> None:
        """What the child does; it never returns into the tests."""
        code = 70
        try:
            sys.stdout, sys.stderr = self.out.open("w"), self.err.open("w")
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stderr.fileno(), 2)
            # EDGETUNE_REEXECUTED: what would be begun anew here is pytest
            os.environ |= {"EDGETUNE_FAULT": fault, "EDGETUNE_REEXECUTED": "1"}
            faults.passages.clear()
            code = action()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> Ended:
        """Waits for its end."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        ended = Ended(code, self.out.read_text(), self.err.read_text())
        self.folder.cleanup()
        return ended


def forked(*arguments: str | Path, fault: str = "") -> Ended:
    """One of our command lines, to its end."""
    return Child(lambda: main([str(argument) for argument in arguments]), fault).wait()
