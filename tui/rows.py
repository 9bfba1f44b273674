"""A child that knows the rows: `edgetune data FILES --model M --lines`. It reads them once and answers by the page."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgetune.events import AnyEvent
from tui.child import ChildError, end, events_of

LINE = 64 << 20  # bytes of an answer: one row may be as long as a line of a file may be


class RowsChild:
    """One data set as one model sees it. Answers come in the order of the questions."""

    def __init__(self, model: str, arguments: Sequence[str]):
        self.arguments = ["data", *arguments, "--model", model, "--offline", "--lines"]
        self.process: asyncio.subprocess.Process | None = None
        self.busy = asyncio.Lock()

    async def open(self, on_event: Callable[[AnyEvent], None]) -> dict[str, Any]:
        """Starts the child; the report, when all rows are read. Progress arrives meanwhile.

        Raises:
            ChildError: the rows cannot be read; with the child's own message and hint.
        """
        read_end, write_end = os.pipe()
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgetune", *self.arguments, "--events", f"/dev/fd/{write_end}",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                pass_fds=[write_end], start_new_session=True, limit=LINE,
            )  # fmt: skip
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        events = asyncio.create_task(events_of(read_end, on_event))
        try:
            return (await self.told())["report"]
        finally:
            events.cancel()

    async def told(self) -> dict[str, Any]:
        """The next line that the child says.

        Raises:
            ChildError: it is an error, or the child is gone.
        """
        process = self.process
        assert process and process.stdout and process.stderr
        try:
            line = await process.stdout.readline()
        except ValueError:
            raise ChildError("the answer is longer than a line may be") from None
        if not line:
            raise said_on_error(await process.stderr.read(1 << 16), await process.wait())
        document = msgspec.json.decode(line)
        if wrong := document.get("error"):
            raise ChildError(str(wrong.get("message")), str(wrong.get("hint", "")), str(wrong.get("kind", "")))
        return document

    async def ask(self, **request: Any) -> Any:
        """The answer to one question.

        Raises:
            ChildError: it refuses, or is gone.
        """
        async with self.busy:
            if not self.process or not self.process.stdin or self.process.returncode is not None:
                raise ChildError("the rows are not open", "r reads them again")
            try:
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                await self.process.stdin.drain()
                answer = await asyncio.shield(self.told())
            except ConnectionError:
                raise ChildError("the process that read the rows is gone", "r reads them again") from None
            return next(iter(answer.values()))

    async def close(self) -> None:
        """Ends the child."""
        process, self.process = self.process, None
        if process:
            await end(process)
            if process.stdin:
                process.stdin.close()


def said_on_error(text: bytes, code: int) -> ChildError:
    """What a child that ended said on standard error: its last `error:` and `hint:` lines."""
    lines = text.decode(errors="replace").splitlines()
    found = {start: line.removeprefix(start) for line in lines for start in ("error: ", "hint: ") if line.startswith(start)}
    return ChildError(found.get("error: ", f"the process ended with code {code}"), found.get("hint: ", ""), "", code)
