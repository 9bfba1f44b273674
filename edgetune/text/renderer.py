"""The parent's side of template_child.py: conversations go in as batches, texts or reasons come back."""

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from edgetune.errors import TemplateError
from edgetune.files import clean

CHILD = Path(__file__).with_name("template_child.py")
SECONDS = 2.0  # of processor time for one text: a busy machine does not refuse a good template
MEMORY = 256 << 20  # bytes
LONGEST = 1 << 20  # characters of one text
BATCH, BATCH_SIZE = 256, 4 << 20  # texts that are asked for at once, and characters of what they are asked with
PATIENCE = 60.0  # seconds without a sign of life
DEATHS = 3  # a template that killed so many children is not tried again
SECRETS = ("TOKEN", "SECRET", "PASSWORD", "KEY")
HINT = "take the template from where the model came from, or mend it"


class Request(NamedTuple):
    """One text to render."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None = None
    prompt: bool = False  # with the header of the answer that is to come
    marked: bool = False  # with the ends of {% generation %} marked


class Child:
    """The process and what it has said so far."""

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not any(word in key.upper() for word in SECRETS)}
        command = [sys.executable, "-P", str(CHILD)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, bufsize=0)
        self.said = bytearray()
        self.memory = 0
        weakref.finalize(self, stop, self.process)

    def tell(self, message: str) -> None:
        """One line in. That the child is gone shows when it does not answer."""
        assert self.process.stdin is not None
        line = memoryview(f"{message}\n".encode())
        with suppress(BrokenPipeError):
            while line:
                line = line[self.process.stdin.write(line) :]

    def hear(self) -> dict[str, str] | None:
        """One line out; None where the child ended, by itself or because it took too much."""
        assert self.process.stdout is not None
        until, seen = time.monotonic() + PATIENCE, 0
        while (end := self.said.find(b"\n", seen)) < 0:
            seen = len(self.said)
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                more = os.read(self.process.stdout.fileno(), 1 << 18)
                if not more:
                    return None
                self.said += more
            elif time.monotonic() > until or self.takes_too_much():
                self.process.kill()
        reply: dict[str, str] = json.loads(self.said[:end])
        del self.said[: end + 1]
        return reply

    def takes_too_much(self) -> bool:
        """Whether it outgrew its memory: macOS does not hold a process to its limit."""
        with suppress(psutil.Error):
            self.memory = psutil.Process(self.process.pid).memory_info().rss
        return self.memory > MEMORY

    def cause_of_death(self) -> str:
        """Why it does not answer any more."""
        code = stop(self.process)
        if code == -signal.SIGPROF:
            return f"the chat template takes longer than {SECONDS:g} seconds"
        if self.memory > MEMORY:
            return f"the chat template needs more than {MEMORY >> 20} MB of memory"
        return f"the chat template's process died ({signal.strsignal(-code) if code < 0 else f'exit code {code}'})"


class Renderer:
    """Renders one template in a child process, which is started when it is needed and again after it died."""

    def __init__(self, source: str, names: Mapping[str, str], now: str | None = None):
        limits = {"seconds": SECONDS, "memory": MEMORY, "longest": LONGEST}
        self.setup = {"template": source, "names": dict(names), "now": now, **limits}
        self.child: Child | None = None
        self.deaths = 0

    def render(self, requests: Sequence[Request]) -> list[str | TemplateError]:
        """A text, or the reason why there is none, for each request."""
        answers: list[str | TemplateError] = []
        while len(answers) < len(requests):
            batch = first_of(requests[len(answers) : len(answers) + BATCH])
            if self.deaths < DEATHS:
                answers += self.ask(batch)
            else:
                answers += [TemplateError("the chat template failed too often to be tried again", hint=HINT)] * len(batch)
        return answers

    def ask(self, batch: Sequence[str]) -> list[str | TemplateError]:
        """Answers to the first of these requests: to fewer than all where the child died; then the last says why."""
        child = self.child or self.start()
        child.tell(f"[{','.join(batch)}]")
        answers: list[str | TemplateError] = []
        for _ in batch:
            reply = child.hear()
            if reply is None:
                return [*answers, self.death(child)]
            answers.append(
                reply["text"] if "text" in reply else TemplateError(f"the chat template says: {clean(reply['error'])}")
            )
        return answers

    def start(self) -> Child:
        """The child, with the template compiled in it.

        Raises:
            TemplateError: it is not a template.
        """
        child = Child()
        child.tell(json.dumps(self.setup))
        reply = child.hear()
        if reply is None:
            raise self.death(child)
        if "error" in reply:
            raise TemplateError(f"is not a chat template: {clean(reply['error'])}", hint=HINT)
        self.child = child
        return child

    def death(self, child: Child) -> TemplateError:
        """What to say of a child that died; the next request starts another."""
        self.child = None
        self.deaths += 1
        return TemplateError(child.cause_of_death(), hint=HINT)


def first_of(requests: Sequence[Request]) -> list[str]:
    """The first of the requests, at least one, in JSON."""
    batch: list[str] = []
    size = 0
    for request in requests:
        batch.append(json.dumps(request))
        size += len(batch[-1])
        if size >= BATCH_SIZE:
            break
    return batch


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ends a child, if it has not ended, and gives back all that it held."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    return process.wait()
