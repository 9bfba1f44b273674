"""Chat templates: a conversation becomes token ids and the mask of trained tokens. The same renderer serves chat.

A template is rendered in a child process (renderer.py). Its own control tokens become their ids; what looks like one in
a person's text stays text (mask.py). The ids of a training row begin with exactly the ids that chat would ask with: the
text is cut where an answer begins, as generation cuts it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgetune.errors import TemplateError
from edgetune.text import mask
from edgetune.text.conversation import Conversation, Message, checked_messages, shown, strings
from edgetune.text.renderer import HINT, Renderer, Request
from edgetune.text.tokenizer import Control, Tokenizer
from edgetune.text.tokenizer_files import TokenizerConfig, read_bytes, read_json

TrainOn = Literal["assistant", "last", "all"]
LARGEST = 256 << 10  # bytes; real templates have at most some twenty thousand
PROBE = [{"role": "user", "content": "Good morning"}, {"role": "assistant", "content": "Good evening"}]
PROBE_TOOL = {
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {}, "required": []},
}
PROBE_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": {"where": "there"}}}


class Rendered(NamedTuple):
    """Token ids (time,) and which of them are trained targets (time,)."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]


class View(NamedTuple):
    """A rendered conversation, looked through."""

    layout: mask.Layout
    controls: list[Control]
    turns: list[mask.Turn] | TemplateError


class ChatTemplate:
    """A model's chat template. `source`: its text; `end_ids`: the tokens that end an answer."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, now: str | None = None, with_tools: str | None = None):
        self.source, self.tokenizer = source, tokenizer
        self.fingerprint = hashlib.sha256("\0".join((source, with_tools or "")).encode("utf-8", "replace")).hexdigest()
        self.renderer = Renderer(source, tokenizer.names, now)
        self.renderer.start()
        self.tags_generations = "endgeneration" in source
        self.with_tools = ChatTemplate(with_tools, tokenizer, now=now) if with_tools else None
        self.end_ids = tokenizer.end_ids
        self.end_ids |= self.probed_end() | (self.with_tools.end_ids if self.with_tools else frozenset())

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text, as transformers' apply_chat_template gives it.

        Raises:
            TemplateError: the template refuses the conversation, fails, or takes too much.
        """
        if tools and self.with_tools:
            return self.with_tools.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        messages = checked_messages(list(messages))
        request = Request(shown(messages, self.arguments_for(messages)), tools, add_generation_prompt)
        return text_of(self.renderer.render([request])[0])

    def encode(
        self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None, train_on: TrainOn = "assistant"
    ) -> Rendered:
        """The conversation as ids, with the mask of what the assistant wrote, end-of-turn tokens included.

        Raises:
            DataError: these are not messages.
            TemplateError: the template refuses the conversation, or it cannot be masked exactly.
        """
        result = self.encode_many([conversation(messages, tools)], train_on)[0]
        if isinstance(result, TemplateError):
            raise result
        return result

    def encode_many(self, conversations: Sequence[Conversation], train_on: TrainOn) -> list[Rendered | TemplateError]:
        """The same for many conversations at once: ids and mask, or the reason why not, for each."""
        if self.with_tools and any(one.tools for one in conversations):
            return [(self.with_tools if one.tools else self).encode_alone(one, train_on) for one in conversations]
        return [
            result if isinstance(result, TemplateError) else self.masked(one.messages, result, train_on)
            for one, result in zip(conversations, self.views(conversations, prompt=False), strict=True)
        ]

    def encode_alone(self, conversation: Conversation, train_on: TrainOn) -> Rendered | TemplateError:
        """One conversation, by this template whatever its tools."""
        view = self.views([conversation], prompt=False)[0]
        return view if isinstance(view, TemplateError) else self.masked(conversation.messages, view, train_on)

    def prompt(self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None) -> list[int]:
        """The ids that ask for an answer: the conversation and the header of the assistant's turn.

        Raises:
            TemplateError: the template refuses the conversation, or control tokens cannot be kept out of its texts.
        """
        if tools and self.with_tools:
            return self.with_tools.prompt(messages, tools=tools)
        view = self.views([conversation(messages, tools)], prompt=True)[0]
        if isinstance(view, TemplateError):
            raise view
        turns = [] if isinstance(view.turns, TemplateError) else view.turns
        runs = self.tokenizer.runs(view.layout.text, view.controls, cuts=[turn.start for turn in turns])
        return [token for run in runs for token in run.ids]

    def views(self, conversations: Sequence[Conversation], *, prompt: bool) -> list[View | TemplateError]:
        """Every conversation, rendered and looked through."""
        requests: list[Request] = []
        shares: list[int] = []
        for conversation in conversations:
            mine = self.requests(conversation, prompt)
            requests += mine
            shares.append(len(mine))
        texts = iter(self.renderer.render(requests))
        return [
            self.view(conversation, [next(texts) for _ in range(share)])
            for conversation, share in zip(conversations, shares, strict=True)
        ]

    def requests(self, conversation: Conversation, prompt: bool) -> list[Request]:
        """What to render for one conversation: it, it with marks, and the prompt for each of the assistant's turns."""
        messages = shown(conversation.messages, self.arguments_for(conversation.messages))
        tools, control = conversation.tools, self.tokenizer.pattern
        with_marks = Request(mask.marked(messages, control), mask.hidden(tools, control), prompt)
        heads = [] if self.tags_generations else [Request(messages[:at], tools, True) for at in assistants(messages)]
        return [Request(messages, tools, prompt, self.tags_generations), with_marks, *heads]

    def view(self, conversation: Conversation, texts: Sequence[str | TemplateError]) -> View | TemplateError:
        """A rendered conversation, looked through: `texts` answer `requests`."""
        whole, with_marks, *heads = texts
        if isinstance(whole, TemplateError):
            return whole
        messages, control = conversation.messages, self.tokenizer.pattern
        if mask.MARKS.search("".join(strings([messages, conversation.tools]))):
            return TemplateError("a message holds private-use characters from U+F0000 on, which mark messages here")
        plain = mask.layout_of(whole, control)
        marks = None if isinstance(with_marks, TemplateError) else mask.layout_of(with_marks, control)
        if marks is None or marks.text != plain.text:
            if any(map(control.search, strings([messages, conversation.tools]))):
                return TemplateError("a message holds the text of a control token, and the chat template rewrites the message")
            return View(plain, self.tokenizer.controls(plain.text), TemplateError(REWRITTEN))
        layout = marks._replace(generated=plain.generated)
        controls = self.tokenizer.controls(layout.text, mask.shields_of(layout))
        try:
            if self.tags_generations:
                turns = mask.generated_turns(messages, layout, controls, self.end_ids)
            else:
                prompts = dict(zip(assistants(messages), heads, strict=True))
                turns = mask.find_turns(messages, layout, controls, self.end_ids, prompts)
        except TemplateError as problem:
            return View(layout, controls, problem)
        return View(layout, controls, turns)

    def masked(self, messages: Sequence[Message], view: View, train_on: TrainOn) -> Rendered | TemplateError:
        """Ids and mask of a rendered conversation. The first token is nobody's target."""
        turns = view.turns
        if isinstance(turns, TemplateError):
            if train_on != "all" or any(message.get("weight", 1) == 0 for message in messages):
                return turns
            turns = []
        text = view.layout.text
        spans = mask.trained_spans(messages, turns, train_on, len(text))
        ids: list[int] = []
        trained: list[bool] = []
        for run in self.tokenizer.runs(text, view.controls, cuts=[turn.start for turn in turns]):
            ids += run.ids
            trained += [any(start <= run.start < stop for start, stop in spans)] * len(run.ids)
        trained[:1] = [False] * len(trained[:1])
        return Rendered(np.array(ids, np.int32), np.array(trained, np.bool_))

    def arguments_for(self, messages: Sequence[Message]) -> Literal["object", "text"]:
        """The form of tool calls' arguments that the template prints as JSON."""
        return self.arguments if any("tool_calls" in message for message in messages) else "object"

    @cached_property
    def arguments(self) -> Literal["object", "text"]:
        """Most templates want an object and print it as JSON; some want the JSON text. One call each way tells."""
        calling = [PROBE[0], {"role": "assistant", "tool_calls": [PROBE_CALL]}]
        tools = [{"type": "function", "function": PROBE_TOOL}]
        requests = [Request(shown(calling, form), tools) for form in ("object", "text")]
        as_object, as_text = self.renderer.render(requests)
        printed_by_python = isinstance(as_object, str) and "{'where'" in as_object
        return "text" if isinstance(as_text, str) and (isinstance(as_object, TemplateError) or printed_by_python) else "object"

    def probed_end(self) -> frozenset[int]:
        """The token that this template writes right after an assistant's text, where none that is known follows it."""
        view = self.views([Conversation(list(PROBE))], prompt=False)[0]
        if isinstance(view, TemplateError) or (place := view.layout.places.get(1)) is None:
            return frozenset()
        after = [one for one in view.controls if one.start >= place.stop]
        if (
            not after
            or any(one.token.id in self.end_ids for one in after)
            or view.layout.text[place.stop : after[0].start].strip()
        ):
            return frozenset()
        return frozenset((after[0].token.id,))


REWRITTEN = "the chat template changes what it prints with what a message says: the turns cannot be told apart"


def conversation(messages: Sequence[Message], tools: Sequence[Any] | None) -> Conversation:
    """What a caller says, checked."""
    return Conversation(checked_messages(list(messages)), list(tools) if tools else None)


def assistants(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Which messages are the assistant's."""
    return [at for at, message in enumerate(messages) if message["role"] == "assistant"]


def text_of(answer: str | TemplateError) -> str:
    """The text, or the error raised."""
    if isinstance(answer, TemplateError):
        raise answer
    return answer


class LegacyTemplate(Struct, frozen=True):
    """chat_template.json, which processors of 2024 wrote."""

    chat_template: str


def load_template(folder: Path, tokenizer: Tokenizer, *, now: str | None = None) -> ChatTemplate | None:
    """The chat template of a model folder; None where it has none.

    chat_template.jinja comes first, then tokenizer_config.json, then chat_template.json. `now`: the time that a
    template which prints the date is told, in ISO format; without it, the real time.

    Raises:
        TemplateError: there is a template and it is broken.
    """
    templates = named_templates(folder)
    source = templates.get("default")
    if source is None:
        return None
    try:
        return ChatTemplate(source, tokenizer, now=now, with_tools=templates.get("tool_use"))
    except TemplateError as problem:
        raise TemplateError(problem.message, file=folder, hint=problem.hint) from None


def named_templates(folder: Path) -> dict[str, str]:
    """The templates of a folder by name; most have one, "default"; some have "tool_use" for conversations with tools.

    Raises:
        TemplateError: one is no text, too large, or the list of them is not one.
    """
    more = {path.stem: file_text(path) for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (folder / "chat_template.jinja").exists():
        return {**more, "default": file_text(folder / "chat_template.jinja")}
    config = read_json(folder / "tokenizer_config.json", TokenizerConfig)
    given = config.chat_template if config else None
    if given is None:
        legacy = read_json(folder / "chat_template.json", LegacyTemplate, TemplateError)
        given = legacy.chat_template if legacy else None
    match given:
        case None:
            return {}
        case str():
            return {"default": sized(given, folder)}
        case [*listed] if all(isinstance(one, dict) and {"name", "template"} <= one.keys() for one in listed):
            return {str(one["name"]): sized(str(one["template"]), folder) for one in listed}
        case _:
            raise TemplateError(
                "chat_template is neither a text nor a list of named texts", file=folder / "tokenizer_config.json"
            )


def file_text(path: Path) -> str:
    """A template's file."""
    try:
        return (read_bytes(path, TemplateError, LARGEST) or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise TemplateError("is not UTF-8", file=path, hint=HINT) from None


def sized(source: str, folder: Path) -> str:
    """A template that stands in a JSON file, if it is not too large."""
    if len(source) > LARGEST:
        raise TemplateError(f"the chat template has more than {LARGEST:,} characters", file=folder, hint=HINT)
    return source
