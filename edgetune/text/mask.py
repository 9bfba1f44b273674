"""Where each message lies in a rendered conversation, and which of its characters the assistant wrote.

A conversation is rendered twice: as it is, and with private-use characters around every message's text and around
everything in it that looks like a control token. Without them the second must equal the first; then they say where
the texts are. What the assistant wrote begins where the prompt for its answer ends, and ends with the first end-of-turn
token that the template, not a person, wrote after it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from edgetune.errors import TemplateError
from edgetune.text.conversation import Message
from edgetune.text.tokenizer import Control

MARKS = re.compile("[\U000f0000-\U0010ffff]")  # planes 15 and 16: no script, no emoji
STARTS, STOPS = 0xF0000, 0xF8000  # message k lies between the characters STARTS + k and STOPS + k
HIDE_START, HIDE_STOP, GENERATION_START, GENERATION_STOP = "\U00100000", "\U00100001", "\U00100002", "\U00100003"
Span = tuple[int, int]


class Place(NamedTuple):
    """Where a message's text is. `start` is None where the template left out its beginning."""

    start: int | None
    stop: int


class Layout(NamedTuple):
    """A rendered text without its marks, and what they said, in characters."""

    text: str
    places: dict[int, Place]  # of the messages that are printed once
    printed: frozenset[int]  # the messages whose text is there at all
    hidden: list[Span]  # what looks like a control token and is a person's text
    generated: list[Span]  # what {% generation %} held


class Turn(NamedTuple):
    """What the assistant wrote in one message, its end-of-turn token included: start:stop in characters."""

    message: int
    start: int
    stop: int


def marked(messages: Sequence[Message], control: re.Pattern[str]) -> list[Message]:
    """The messages with marks around their texts."""
    return [marked_message(message, at, control) for at, message in enumerate(messages)]


def marked_message(message: Message, at: int, control: re.Pattern[str]) -> Message:
    """One message: marks stand inside the spaces at its ends, for templates trim."""
    kept: Message = {key: value if key == "role" else hidden(value, control) for key, value in message.items()}
    content = kept.get("content", "")
    if core := content.strip():
        start = content.index(core)
        marks = chr(STARTS + at), chr(STOPS + at)
        kept["content"] = f"{content[:start]}{marks[0]}{core}{marks[1]}{content[start + len(core) :]}"
    return kept


def hidden(value: Any, control: re.Pattern[str]) -> Any:
    """The same value with marks around everything in its texts that looks like a control token."""
    if isinstance(value, str):
        return control.sub(lambda match: f"{HIDE_START}{match[0]}{HIDE_STOP}", value)
    if isinstance(value, dict):
        return {key: hidden(inner, control) for key, inner in value.items()}
    return [hidden(inner, control) for inner in value] if isinstance(value, list) else value


def layout_of(rendered: str, control: re.Pattern[str]) -> Layout:
    """Takes the marks out of a rendered text."""
    parts: list[str] = []
    seen: dict[str, list[int]] = {}
    spans: dict[str, list[Span]] = {HIDE_START: [], GENERATION_START: []}
    at, opened = 0, {HIDE_START: -1, GENERATION_START: -1}
    size = 0
    for match in MARKS.finditer(rendered):
        parts.append(rendered[at : match.start()])
        size, at, mark = size + match.start() - at, match.end(), match[0]
        seen.setdefault(mark, []).append(size)
        if mark in opened:
            opened[mark] = size
        elif (first := chr(ord(mark) - 1)) in opened and opened[first] >= 0:
            spans[first].append((opened[first], size))
            opened[first] = -1
    text = "".join([*parts, rendered[at:]])
    # A template that splits a text may tear a pair of marks apart: what they seem to hold must be a control token.
    shields = [span for span in spans[HIDE_START] if control.fullmatch(text, *span)]
    printed = frozenset(ord(mark) - STOPS for mark in seen if STOPS <= ord(mark) < ord(HIDE_START))
    return Layout(text, places_of(seen), printed, shields, spans[GENERATION_START])


def places_of(seen: Mapping[str, Sequence[int]]) -> dict[int, Place]:
    """The messages that were printed once."""
    places: dict[int, Place] = {}
    for mark, stops in seen.items():
        at = ord(mark) - STOPS
        if STOPS <= ord(mark) < ord(HIDE_START) and len(stops) == 1:
            starts = seen.get(chr(STARTS + at), ())
            places[at] = Place(starts[0] if len(starts) == 1 and starts[0] <= stops[0] else None, stops[0])
    return places


def shields_of(layout: Layout) -> list[Span]:
    """Where no control token of the template can be: the texts of the messages, and what was hidden elsewhere."""
    texts = [(place.start, place.stop) for place in layout.places.values() if place.start is not None]
    return [*texts, *layout.hidden]


def find_turns(
    messages: Sequence[Message],
    layout: Layout,
    controls: Sequence[Control],
    ends: frozenset[int],
    prompts: Mapping[int, str | TemplateError],
) -> list[Turn]:
    """What the assistant wrote, message by message. `prompts`: for each of its messages, the prompt that asks for it.

    Raises:
        TemplateError: a turn's place is not certain, or nothing ends it; the sentence says which, counted from 1.
    """
    refuse_omissions(messages, layout)
    turns: list[Turn] = []
    floor = 0
    for at, prompt in sorted(prompts.items()):
        start = turn_start(messages[at], at, layout, controls, prompt)
        place = layout.places.get(at)
        after = start if place is None else place.stop
        later = (
            other.start for k, other in layout.places.items() if k > at and other.start is not None and other.start >= after
        )
        bound = min(later, default=len(layout.text))
        end = next((one for one in controls if one.start >= after and one.token.id in ends), None)
        if end is None or end.stop > bound:
            raise TemplateError(
                f"no end-of-turn token follows message {at + 1}: a model that learns it would never stop",
                hint="use the template of an instruct model, or add eos_token after the assistant's text",
            )
        if start < floor or start > after:
            raise uncertain(at)
        turns.append(Turn(at, start, end.stop))
        floor = end.stop
    return turns


def turn_start(message: Message, at: int, layout: Layout, controls: Sequence[Control], prompt: str | TemplateError) -> int:
    """Where the assistant's turn begins: after the prompt for it, or else where its own text is found."""
    place = layout.places.get(at)
    if message.get("content", "").strip() and place is None:
        raise TemplateError(f"the chat template prints message {at + 1} (assistant) several times")
    if isinstance(prompt, str) and layout.text.startswith(prompt):
        return len(prompt)
    if place is None:
        raise uncertain(at)
    if place.start is not None:
        return place.start
    common = shared_prefix(prompt, layout.text) if isinstance(prompt, str) else 0
    last_control = max((one.stop for one in controls if one.stop <= common), default=0)
    for start in (last_control, common):
        if common and start <= place.stop and message["content"].rstrip().endswith(layout.text[start : place.stop]):
            return start
    raise uncertain(at)


def shared_prefix(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def refuse_omissions(messages: Sequence[Message], layout: Layout) -> None:
    """A template that drops a message (a system text, say) would teach another conversation than the person wrote."""
    for at, message in enumerate(messages):
        if message.get("content", "").strip() and at not in layout.printed:
            raise TemplateError(
                f"the chat template leaves out message {at + 1} ({message['role']})",
                hint="this template has no such role here: put its text into the next user message",
            )


def uncertain(at: int) -> TemplateError:
    """What to say of a turn that cannot be found."""
    return TemplateError(f"the chat template rewrites message {at + 1} (assistant): what to learn of it is not certain")


def generated_turns(
    messages: Sequence[Message], layout: Layout, controls: Sequence[Control], ends: frozenset[int]
) -> list[Turn]:
    """What {% generation %} says that the assistant wrote, with the end-of-turn token where the tag leaves it outside.

    Raises:
        TemplateError: there are not as many spans as turns, or nothing ends one of them.
    """
    refuse_omissions(messages, layout)
    assistants = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    spans = [whole_span(span, layout.text, controls, ends) for span in layout.generated if span[0] < span[1]]
    if len(spans) != len(assistants):
        raise TemplateError(f"the chat template marks {len(spans)} generations in {len(assistants)} assistant turns")
    for at, span in zip(assistants, spans, strict=True):
        if not any(one.stop == span[1] and one.token.id in ends for one in controls):
            raise TemplateError(f"the chat template's generation tag leaves message {at + 1} without an end-of-turn token")
    return [Turn(at, *span) for at, span in zip(assistants, spans, strict=True)]


def whole_span(span: Span, text: str, controls: Sequence[Control], ends: frozenset[int]) -> Span:
    """A generation's span from its text to its end-of-turn token: the first that stands in it or right after it."""
    start, stop = span
    for one in controls:
        if one.token.id in ends and start <= one.start and (one.stop <= stop or not text[stop : one.start].strip()):
            return (start, one.stop)
    return span


def trained_spans(
    messages: Sequence[Message], turns: Sequence[Turn], train_on: Literal["assistant", "last", "all"], size: int
) -> list[Span]:
    """The characters to learn from. OpenAI's weight 0 takes a turn out, whatever else is learned."""
    weights = {turn.message: messages[turn.message].get("weight", 1) for turn in turns}
    if train_on == "all":
        edges = [0, *(edge for turn in turns if not weights[turn.message] for edge in turn[1:]), size]
        return list(zip(edges[::2], edges[1::2], strict=True))
    chosen = turns[-1:] if train_on == "last" else turns
    return [(turn.start, turn.stop) for turn in chosen if weights[turn.message]]
