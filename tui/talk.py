"""A child that answers: `edgetune chat SOURCE --lines`. Whatever computes or may crash does it there."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from edgetune.exits import explain_exit
from tui.child import LINE, ChildError, end


class Drawing(NamedTuple):
    """How an answer is drawn."""

    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 7
    max_tokens: int = 256
    system: str = ""

    def request(self) -> dict[str, Any]:
        """The fields of a request."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }


class Talker:
    """One source, opened when it is first asked and kept open, so that what was read is not read again."""

    def __init__(self, arguments: Sequence[str]):
        self.arguments = tuple(arguments)
        self.process: asyncio.subprocess.Process | None = None
        self.busy = asyncio.Lock()

    async def open(self) -> None:
        """Starts the child and waits until the model is open.

        Raises:
            ChildError: it cannot be opened; with the child's own message and hint.
        """
        if self.process and self.process.returncode is None:
            return
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgetune", "chat", *self.arguments, "--lines",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, limit=LINE,
        )  # fmt: skip
        await self.told()

    async def told(self) -> dict[str, Any]:
        """The next line that the child says.

        Raises:
            ChildError: the line is an error, or the child is gone.
        """
        assert self.process and self.process.stdout
        try:
            line = await self.process.stdout.readline()
        except ValueError:
            raise ChildError("the answer is longer than a line may be") from None
        if not line:
            raise died(await self.process.wait())
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ChildError("the process said something that is no answer")
        if wrong := document.get("error"):
            raise ChildError(str(wrong.get("message")), str(wrong.get("hint", "")), str(wrong.get("kind", "")))
        return document

    async def answer(self, **request: Any) -> AsyncGenerator[str | dict[str, Any]]:
        """Pieces of the answer, then how it ended. Leaving the iteration stops the answer.

        Raises:
            ChildError: the source cannot be opened, or refuses.
        """
        async with self.busy:
            await self.open()
            await self.say(**request)
            done = False
            try:
                while not done:
                    told = await self.told()
                    done = "done" in told
                    yield told["done"] if done else str(told.get("text", ""))
            finally:
                if not done:
                    await asyncio.shield(self.finish())

    async def finish(self) -> None:
        """Stops the answer at hand and reads what is left of it, so that the next one begins clean."""
        with suppress(ChildError, ConnectionError):
            await self.say(stop=True)
            while "done" not in await self.told():
                pass

    async def say(self, **request: Any) -> None:
        """Sends one line."""
        assert self.process and self.process.stdin
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            await self.process.stdin.drain()
        except ConnectionError:
            raise died(await self.process.wait()) from None

    async def stop(self) -> None:
        """Ends the answer that is being given; the iteration goes on to its end."""
        if self.process and self.process.returncode is None:
            with suppress(ChildError):
                await self.say(stop=True)

    async def close(self) -> None:
        """Ends the child."""
        if self.process:
            await end(self.process)
            self.process = None


def died(code: int) -> ChildError:
    """What the end of a child means."""
    return ChildError(f"the model's process: {explain_exit(code)[0]}", "ask again: it is opened anew", "killed", code)
