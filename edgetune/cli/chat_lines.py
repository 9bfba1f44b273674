"""`chat --lines`: a conversation with a program. Requests come on standard input, answers on standard output, as JSON lines.

    asked   {"ask": "Hello", "temperature": 0.7, "top_p": 0.95, "max_tokens": 512, "seed": 7}
            {"retry": true}             another answer to the last message, with the same settings as "ask"
            {"turns": [{"user": "…", "reply": "…"}], "system": "…"}   what was said so far, from now on
            {"stop": true}              ends the answer that is being given
    told    {"ready": {"context": 4096, "continues": false}}
            {"text": "Hel"}             a piece of the answer
            {"done": {"reply", "tokens", "prompt_tokens", "tokens_per_second", "first_seconds",
                      "stopped_by", "seed", "left_out"}}
            {"error": {"kind", "message", "hint"}}   of this request; the next one may be better

It ends with its input.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
from msgspec import Struct

from edgetune.errors import ChildFailed, EdgeTuneError, InputError

if TYPE_CHECKING:
    from edgetune.chat.conversation import Conversation
    from edgetune.chat.engine import Settings

LONGEST = 1 << 20  # characters of a request


class Said(Struct, frozen=True):
    """A turn that was had before."""

    user: str
    reply: str


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of input. What is left out is as the command line has it."""

    ask: str | None = None
    retry: bool = False
    stop: bool = False
    turns: list[Said] | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def settings(self, usual: "Settings") -> "Settings":
        """How the answer is drawn.

        Raises:
            InputError: a number is out of bounds.
        """
        names = ("temperature", "top_p", "top_k", "max_tokens", "seed")
        wanted: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        least = {"temperature": 0.0, "top_p": 0.01, "top_k": 1, "max_tokens": 1, "seed": 0}
        most = {"temperature": 10.0, "top_p": 1.0, "top_k": 1 << 20, "max_tokens": 1 << 20, "seed": (1 << 32) - 1}
        for name, value in wanted.items():
            if not least[name] <= value <= most[name]:
                raise InputError(f"{name} is {value}", hint=f"between {least[name]} and {most[name]}")
        return replace(usual, **wanted)


class LineTalk:
    """Reads requests on a thread of its own, so that "stop" is heard while an answer is being given."""

    def __init__(self, conversation: "Conversation", usual: "Settings", source: TextIO, out: TextIO):
        self.conversation, self.usual, self.source, self.out = conversation, usual, source, out
        self.requests: SimpleQueue[Request | InputError | None] = SimpleQueue()

    def run(self) -> None:
        """Answers until the input ends."""
        self.tell(ready={"context": self.conversation.engine.context, "continues": self.conversation.continues})
        threading.Thread(target=self.read, daemon=True).start()
        while (request := self.requests.get()) is not None:
            try:
                if isinstance(request, InputError):
                    raise request
                self.take(request)
            except ChildFailed:
                raise
            except InputError as error:
                self.tell(error=described(error))

    def read(self) -> None:
        """Hands requests on; the end of the input, and "stop", end the answer at hand."""
        while line := self.source.readline(LONGEST):
            request = decoded(line)
            if isinstance(request, Request) and request.stop:
                self.conversation.engine.stop()
            else:
                self.requests.put(request)
        self.conversation.engine.stop()
        self.requests.put(None)

    def take(self, request: Request) -> None:
        """Does what one request says."""
        from edgetune.chat.conversation import Turn

        settings = request.settings(self.usual)
        if request.turns is not None or request.system is not None:
            self.conversation.reset(request.system)
            self.conversation.turns = [Turn(said.user, said.reply) for said in request.turns or ()]
        if request.ask is not None:
            self.answer(self.conversation.ask(request.ask, settings))
        elif request.retry:
            self.answer(self.conversation.retry(settings))

    def answer(self, pieces: Iterator[str]) -> None:
        """Tells an answer as it comes, and how it ended."""
        self.conversation.answered = 0  # here a seed means the same in every turn
        started, first = time.monotonic(), 0.0
        for piece in pieces:
            first = first or time.monotonic()
            self.tell(text=piece)
        answer = self.conversation.answer
        assert answer is not None
        self.tell(
            done={
                "reply": answer.reply,
                "tokens": answer.tokens,
                "prompt_tokens": answer.prompt_tokens,
                "tokens_per_second": answer.tokens_per_second,
                "first_seconds": max(0.0, first - started) if first else 0.0,
                "stopped_by": answer.stopped_by,
                "seed": answer.seed,
                "left_out": self.conversation.left_out,
            }
        )

    def tell(self, **what: Any) -> None:
        """One line, at once."""
        self.out.write(json.dumps(what) + "\n")
        self.out.flush()


def decoded(line: str) -> Request | InputError:
    """The request of a line, or what is wrong with it."""
    try:
        return msgspec.json.decode(line, type=Request)
    except msgspec.MsgspecError as error:
        return InputError(f"not a request: {error}", hint="one JSON object a line; see the documentation of chat --lines")


def described(error: EdgeTuneError) -> dict[str, str]:
    """An error for a program."""
    return {"kind": error.kind, "message": error.message, "hint": error.hint}


def serve(opened: Callable[[], "Conversation"], usual: "Settings") -> None:
    """Opens the conversation and talks by lines; what cannot be opened is told as a line, too.

    Raises:
        EdgeTuneError: it cannot be opened, or llama.cpp died.
    """
    out = sys.stdout
    try:
        conversation = opened()
        try:
            LineTalk(conversation, usual, sys.stdin, out).run()
        finally:
            conversation.engine.close()
    except EdgeTuneError as error:
        out.write(json.dumps({"error": described(error)}) + "\n")
        out.flush()
        raise
