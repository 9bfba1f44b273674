"""A conversation: what was said, what of it still fits into the context, and the answers as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgetune.chat.engine import Engine, Settings
from edgetune.errors import InputError
from edgetune.llamacpp.protocol import StoppedBy
from edgetune.text.chat_template import ChatTemplate
from edgetune.text.conversation import Message
from edgetune.text.tokenizer import Tokenizer

ANSWER_ROOM = 256
SEEDS = 1 << 32


@dataclass(frozen=True)
class Turn:
    """What the person said, and what the model answered."""

    user: str
    reply: str


@dataclass(frozen=True)
class Answer:
    """A whole answer, and how it came about."""

    reply: str
    tokens: int
    prompt_tokens: int
    tokens_per_second: float
    stopped_by: StoppedBy
    seed: int


class Prompts:
    """Messages to the ids that ask for an answer: by the chat template, or, without one, text that is continued."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None):
        self.tokenizer, self.template = tokenizer, template
        self.end_ids = template.end_ids if template else tokenizer.end_ids

    def ids(self, system: str, turns: Sequence[Turn], text: str) -> list[int]:
        """The ids of a system text, some turns, and what the person says now.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        if self.template is None:
            start = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
            return [*start, *self.tokenizer.encode(f"{system}\n{text}" if system else text)]
        said = [pair for turn in turns for pair in (("user", turn.user), ("assistant", turn.reply))]
        every = [*([("system", system)] if system else []), *said, ("user", text)]
        messages: list[Message] = [{"role": role, "content": content} for role, content in every]
        return self.template.prompt(messages)


class Conversation:
    """Turns with one engine. An answer that fails or is left in the middle of the iteration leaves no trace."""

    def __init__(self, engine: Engine, prompts: Prompts, system: str = ""):
        self.engine, self.prompts, self.system = engine, prompts, system
        self.turns: list[Turn] = []
        self.left_out = 0
        """How many of the oldest turns do not fit into the context any more."""
        self.answered = 0
        self.answer: Answer | None = None

    @property
    def continues(self) -> bool:
        """Whether the model only continues texts: it has no chat template, and so no turns."""
        return self.prompts.template is None

    def ask(self, text: str, settings: Settings) -> Iterator[str]:
        """Streams the answer; `answer` is the whole of it then. Every answer of a conversation has a seed of its own.

        Raises:
            InputError: the text is too long for the context.
            TemplateError: the chat template refuses it.
            ChildFailed: llama.cpp died.
        """
        self.answer = None
        left_out, ids, room = self.fit(text, settings)
        seed = (settings.seed + self.answered) % SEEDS
        drawn = replace(settings, max_tokens=min(settings.max_tokens, room), seed=seed)
        pieces = list[str]()
        for piece in self.engine.stream(ids, drawn, self.prompts.end_ids):
            shown = piece if pieces else piece.lstrip()
            if shown:
                pieces.append(shown)
                yield shown
        ending = self.engine.ending
        assert ending is not None
        cut = ending.stopped_by == "length" and drawn.max_tokens < settings.max_tokens
        self.answer = Answer(
            reply="".join(pieces).rstrip(),
            tokens=ending.tokens,
            prompt_tokens=len(ids),
            tokens_per_second=ending.tokens_per_second,
            stopped_by="context" if cut else ending.stopped_by,
            seed=seed,
        )
        self.left_out, self.answered = left_out, self.answered + 1
        self.turns.append(Turn(text, self.answer.reply))

    def fit(self, text: str, settings: Settings) -> tuple[int, list[int], int]:
        """Leaves out as many of the oldest turns as must be: how many, the prompt, and the room behind it."""
        wanted = min(settings.max_tokens, ANSWER_ROOM, self.engine.context // 4)
        left_out = self.left_out
        while True:
            ids = self.prompts.ids(self.system, self.turns[left_out:], text)
            room = self.engine.context - len(ids)
            if room >= wanted:
                return left_out, ids, room
            if left_out >= len(self.turns):
                message = f"the message is too long: with it {len(ids)} tokens of {self.engine.context} are taken"
                raise InputError(message, hint="shorten it, or take a larger --context")
            left_out += 1

    def retry(self, settings: Settings) -> Iterator[str]:
        """Asks the last question again; the old answer is forgotten when the new one is there.

        Raises:
            InputError: nothing was asked yet.
        """
        if not self.turns:
            raise InputError("nothing was asked yet", hint="say something first")
        last = self.turns.pop()
        try:
            yield from self.ask(last.user, settings)
        finally:
            if self.answer is None:
                self.turns.append(last)

    def reset(self, system: str | None = None) -> None:
        """Forgets what was said; with `system`, another system text from now on."""
        self.turns, self.left_out, self.answer = [], 0, None
        self.system = self.system if system is None else system
