"""Children that answer, played: what `chat --lines` would say, piece by piece."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tui.child import ChildError

FIGURES = {"tokens": 12, "prompt_tokens": 9, "tokens_per_second": 84.0, "first_seconds": 0.19, "seed": 7, "left_out": 0}


class Talker:
    """Answers by a table from the last of its arguments; "…" in an answer waits there until it is stopped."""

    answers: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[dict[str, Any]]] = []
    closed: ClassVar[list[str]] = []

    def __init__(self, arguments: Sequence[str]):
        self.name, self.stopped = Path(arguments[-1]).name, asyncio.Event()

    async def answer(self, **request: Any) -> AsyncGenerator[str | dict[str, Any]]:
        Talker.asked.append({"of": self.name, **request})
        text = Talker.answers[self.name]
        if text.startswith("!"):
            raise ChildError(text[1:], "name another with f2")
        said = ""
        for word in text.split(" "):
            if word == "…":
                await self.stopped.wait()
                break
            said = f"{said} {word}".strip()
            yield word + " "
        yield {**FIGURES, "reply": said, "stopped_by": "user" if self.stopped.is_set() else "end"}

    async def stop(self) -> None:
        self.stopped.set()

    async def close(self) -> None:
        Talker.closed.append(self.name)
