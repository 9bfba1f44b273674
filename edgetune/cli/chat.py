"""`chat`: one turn, or a conversation in the terminal, with a GGUF, a run or a model folder."""

import secrets
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetune.cli.options import Job
from edgetune.cli.output import Output, Styled
from edgetune.errors import ChildFailed, ConfigError, InputError
from edgetune.events import Progress
from edgetune.files import clean
from edgetune.units import count, rate

if TYPE_CHECKING:
    from edgetune.chat.conversation import Answer, Conversation
    from edgetune.chat.engine import Settings
    from edgetune.chat.source import Source

SEEDS = 1 << 32
HELP = {
    "/help": "this list",
    "/retry": "another answer to the last message",
    "/system TEXT": "begin anew with this system text; without TEXT: without one",
    "/reset": "forget what was said",
    "/quit": "leave; Ctrl-D does, too",
    "Ctrl-C": "ends an answer; at the prompt, twice in a row, leaves",
    "//…": "a message that begins with a slash",
}


def chat(
    job: Job,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A GGUF, a run, or a model by folder or name.")],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT or mlx-lm folder or a run; for a GGUF, an adapter GGUF.")] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="What the model is told before the conversation.")] = "",
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="One turn with this message, then leave.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=SEEDS - 1, help="The same seed, the same answer.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=10, help="0: always the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Draw from the likeliest tokens of this share.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 512,
    context_tokens: Annotated[
        int, typer.Option("--context", min=0, max=1 << 20, help="Tokens to keep in mind; 0: the model's own, at most 4096.")
    ] = 0,
    step: Annotated[str, typer.Option(metavar="STEP", help="Of a run, a checkpoint: its step, last or best.")] = "",
    lines: Annotated[bool, typer.Option("--lines", help="For programs: requests and answers are JSON lines.")] = False,
) -> None:
    """Talk with a model, offline."""
    from edgetune.chat.engine import Settings
    from edgetune.chat.source import find_source

    if job.output.as_json and prompt is None:
        raise ConfigError("--json needs --prompt", hint="a conversation is for people; --prompt TEXT is one turn")
    if lines and (prompt is not None or job.output.as_json):
        raise ConfigError("--lines takes its prompts from standard input", hint="leave --prompt and --json out")
    chosen = secrets.randbelow(SEEDS) if seed is None else seed
    settings = Settings(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=chosen)
    if lines:
        from edgetune.cli.chat_lines import serve

        serve(lambda: opened(job, find_source(source, adapter, step), system, context_tokens), settings)
        return
    found = find_source(source, adapter, step)
    conversation = opened(job, found, system, context_tokens)
    try:
        if prompt is None:
            Talk(job.output, conversation, settings, found.note).run()
        else:
            one_turn(job.output, conversation, settings, prompt)
    finally:
        conversation.engine.close()


def opened(job: Job, source: "Source", system: str, context: int) -> "Conversation":
    """The conversation, ready. Where llama.cpp dies of a GGUF, its header may tell a person why."""
    from edgetune.chat.source import open_conversation

    def loaded(share: float) -> None:
        job.event(Progress(stage="opening the model", done=round(100 * share), total=100, unit="%"))

    try:
        return open_conversation(source, system=system, context=context, on_progress=loaded)
    except ChildFailed:
        if source.gguf:
            from edgetune.export.gguf_header import check_gguf, read_gguf_header

            check_gguf(read_gguf_header(source.gguf))
        raise


class CtrlC:
    """What Ctrl-C does: at the prompt it breaks the line off, later it ends the answer, and pressed again it leaves.

    It is watched all the time: pressed before an answer begins or just after it ended, it does not end the program either.
    """

    def __init__(self, stop: Callable[[], None]):
        self.stop = stop
        self.at_prompt, self.pressed = False, 0

    @contextmanager
    def watched(self) -> Generator[None]:
        """Takes the signal over."""
        before = signal.signal(signal.SIGINT, self.press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def press(self, *_: object) -> None:
        """The signal."""
        self.pressed += 1
        if self.at_prompt or self.pressed > 1:
            raise KeyboardInterrupt
        self.stop()

    def line(self, prompt: str) -> str:
        """The next line that is typed; Ctrl-C there is KeyboardInterrupt."""
        self.at_prompt = True
        try:
            return input(prompt)
        finally:
            self.at_prompt, self.pressed = False, 0


def one_turn(output: Output, conversation: "Conversation", settings: "Settings", text: str) -> None:
    """Answers once."""
    ctrl_c = CtrlC(conversation.engine.stop)
    with ctrl_c.watched():
        answer = show(output, conversation, conversation.ask(text, settings), ctrl_c)
    document = {
        "reply": answer.reply,
        "tokens": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
        "tokens_per_second": answer.tokens_per_second,
        "stopped_by": answer.stopped_by,
        "seed": answer.seed,
    }
    output.document(document)


def show(output: Output, conversation: "Conversation", answer: Iterator[str], ctrl_c: CtrlC) -> "Answer":
    """Writes an answer as it comes. Ctrl-C ends it; what there is of it counts."""
    for piece in answer:
        if not output.as_json:
            output.clear_status()
            output.out.write(clean(piece))
            output.out.flush()
        if ctrl_c.pressed:
            conversation.engine.stop()  # it may have been pressed before there was an answer to end
    output.say()
    assert conversation.answer is not None
    return conversation.answer


class Talk:
    """A conversation in the terminal, line by line; lines from a pipe are taken the same way."""

    def __init__(self, output: Output, conversation: "Conversation", settings: "Settings", note: str):
        self.output, self.conversation, self.settings, self.note = output, conversation, settings, note
        self.ctrl_c = CtrlC(conversation.engine.stop)
        self.typed = bool(sys.stdin) and sys.stdin.isatty()

    def run(self) -> None:
        """Takes lines until the person leaves."""
        with suppress(ImportError):
            import_module("readline")  # gives input() a history and arrow keys
        if isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        self.greet()
        with self.ctrl_c.watched():
            while (line := self.read()) is not None:
                try:
                    if not self.take(line.strip()):
                        return
                except ChildFailed:
                    raise
                except InputError as error:
                    self.output.error(error)

    def greet(self) -> None:
        """What a person should know before the first line."""
        if self.note:
            self.output.note(Styled(self.note, "dim"))
        if self.conversation.continues:
            self.output.note(Styled("this model has no chat template: it continues what you write", "dim"))
        if self.typed:
            told = f"{count(self.conversation.engine.context)} tokens of context · /help · Ctrl-D leaves"
            self.output.note(Styled(told, "dim"))

    def read(self) -> str | None:
        """The next line; None when the person leaves, with Ctrl-D or with Ctrl-C twice in a row."""
        for _ in range(2 if sys.stdin else 0):
            try:
                return self.ctrl_c.line("> " if self.typed else "")
            except EOFError:
                self.output.note()
                return None
            except KeyboardInterrupt:
                self.output.note(Styled(" once more leaves", "dim"))
        return None

    def take(self, line: str) -> bool:
        """Answers a message or follows a command; False when it was the last."""
        command, _, rest = line.partition(" ")
        match command:
            case "":
                pass
            case "/quit" | "/exit":
                return False
            case "/help":
                for name, meaning in HELP.items():
                    self.output.say(f"  {name:<13} {meaning}")
            case "/reset":
                self.conversation.reset()
                self.output.note(Styled("forgotten", "dim"))
            case "/system":
                self.conversation.reset(system=rest.strip())
                self.output.note(Styled("begun anew", "dim"))
            case "/retry":
                self.answer(self.conversation.retry(self.settings))
            case _ if command.startswith("/") and not command.startswith("//"):
                raise InputError(f"there is no {command}", hint="/help lists what there is; // begins a message with /")
            case _:
                self.answer(self.conversation.ask(line.removeprefix("/") if line.startswith("//") else line, self.settings))
        return True

    def answer(self, pieces: Iterator[str]) -> None:
        """Shows an answer, its speed, and why it ended where that is not plain."""
        before = self.conversation.left_out
        answer = show(self.output, self.conversation, pieces, self.ctrl_c)
        told = f"{count(answer.tokens)} tokens · {rate(answer.tokens_per_second, 'tokens')}"
        reasons = {
            "end": "",
            "length": f" · cut at --max-tokens {self.settings.max_tokens}",
            "context": " · the context is full",
            "user": " · stopped",
        }
        self.output.note(Styled(told + reasons[answer.stopped_by], "dim"))
        if self.conversation.left_out > before:
            left_out = count(self.conversation.left_out)
            self.output.note(Styled(f"the oldest messages do not fit any more: {left_out} left out", "dim"))
