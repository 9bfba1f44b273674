"""Our own command line as a child of the app: whatever computes, computes there. Short questions are answered here; long
jobs are started through the workspace and outlive the app."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from edgetune.events import AnyEvent, from_line
from edgetune.exits import explain_exit

LONGEST = 64 << 20  # bytes of an answer
LINE = 1 << 20  # bytes of an event
GRACE = 3.0  # seconds that a child is given to leave


class ChildError(Exception):
    """What a child says is wrong, and what to do about it."""

    def __init__(self, message: str, hint: str = "", kind: str = "", exit_code: int = 1):
        super().__init__(message)
        self.message, self.hint, self.kind, self.exit_code = message, hint, kind, exit_code
        self.document: dict[str, Any] = {}  # what it told before it refused


async def ask(arguments: Sequence[str], on_event: Callable[[AnyEvent], None] | None = None) -> dict[str, Any]:
    """Runs `edgetune ARGUMENTS --json` and gives its document; events (progress, above all) arrive while it works.

    Cancelling the task ends the child.

    Raises:
        ChildError: it refused or died; with its own message and hint.
    """
    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgetune", *arguments, "--json", "--events", f"/dev/fd/{write_end}",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            pass_fds=[write_end], start_new_session=True, limit=LINE,
        )  # fmt: skip
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    try:
        out, err, _ = await asyncio.gather(
            bounded(process.stdout), bounded(process.stderr), events_of(read_end, on_event or (lambda event: None))
        )
        code = await process.wait()
    finally:
        await end(process)
    return answer_of(out, err, code)


async def bounded(stream: asyncio.StreamReader | None) -> bytes:
    """All that a stream says, up to LONGEST bytes; the rest is read and forgotten, so that the child does not hang."""
    assert stream is not None
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        if len(kept) < LONGEST:
            kept += chunk
    return bytes(kept)


async def events_of(descriptor: int, on_event: Callable[[AnyEvent], None]) -> None:
    """Hands on the events that a child writes into a pipe, until it closes its end."""
    reader = asyncio.StreamReader(limit=LINE)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than LINE
                continue
            if not line:
                return
            if event := from_line(line):
                on_event(event)
    finally:
        transport.close()


async def end(process: asyncio.subprocess.Process) -> None:
    """Makes sure that a child is gone, with all that it started."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), GRACE)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def answer_of(out: bytes, err: bytes, code: int) -> dict[str, Any]:
    """The document of a child that is done.

    Raises:
        ChildError: it says what is wrong, or it died without a word.
    """
    documents = documents_of(out)
    document = documents[0] if documents else {}
    if code == 0:
        return document
    wrong = documents[-1].get("error") if documents else None
    if isinstance(wrong, dict):
        error = ChildError(str(wrong.get("message")), str(wrong.get("hint", "")), str(wrong.get("kind", "")), code)
        error.document = {key: value for key, value in document.items() if key != "error"}
        raise error
    if code < 0:
        raise ChildError(*explain_exit(code), "killed", code)
    if document:
        return document
    last = err.decode(errors="replace").strip().splitlines()
    raise ChildError(last[-1] if last else f"the process ended with code {code}", "", "", code)


def documents_of(out: bytes) -> list[dict[str, Any]]:
    """The JSON documents that were written, a line each: the answer, and the error that followed it."""
    found: list[dict[str, Any]] = []
    for line in out.splitlines():
        with suppress(ValueError):
            document = json.loads(line)
            if isinstance(document, dict):
                found.append(document)
    return found
