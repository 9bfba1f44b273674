"""One row as the model sees it: its tokens as pieces of text, which of them are trained, and who says them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgetune.errors import InputError, TemplateError
from edgetune.text.chat_template import ChatTemplate
from edgetune.text.conversation import Conversation
from edgetune.text.dataset import Example, RawRow
from edgetune.text.tokenizer import Control, Tokenizer

TRAINED, CONTROL = 1, 2  # flags of a piece


class Piece(NamedTuple):
    """A token's text; TRAINED and CONTROL; and the number of the part that it belongs to, -1 for the template's own words."""

    text: str
    flags: int
    part: int


class Pieces(NamedTuple):
    """A row in pieces. `parts`: who says each, in order: system, user, assistant, prompt, completion, text."""

    parts: list[str]
    pieces: list[Piece]


class Stretch(NamedTuple):
    """Characters start:stop of a rendered text, and the part that they are."""

    start: int
    stop: int
    part: int


def pieces_of(example: Example, row: RawRow | None, tokenizer: Tokenizer | None, template: ChatTemplate | None) -> Pieces:
    """The example in pieces; its parts are known where the row is, and where the example is the beginning of the row."""
    texts = texts_of(example, tokenizer)
    control = tokenizer.control_ids if tokenizer else frozenset[int]()
    flags = [
        TRAINED * trained + CONTROL * (token in control)
        for token, trained in zip(example.ids.tolist(), example.trained.tolist(), strict=True)
    ]
    parts, numbers = parts_of(example, row, tokenizer, template)
    return Pieces(parts, [Piece(*piece) for piece in zip(texts, flags, numbers, strict=True)])


def texts_of(example: Example, tokenizer: Tokenizer | None) -> list[str]:
    """Each token's text. A character of several tokens comes with its last one; without a tokenizer tokens are numbers."""
    if tokenizer is None:
        return [f"{token} " for token in example.ids.tolist()]
    stream = tokenizer.stream(control=True)
    texts = [stream.push(token) for token in example.ids.tolist()]
    if texts:
        texts[-1] += stream.end()
    return texts


def parts_of(
    example: Example, row: RawRow | None, tokenizer: Tokenizer | None, template: ChatTemplate | None
) -> tuple[list[str], list[int]]:
    """Who says what: names of the parts, and each token's part."""
    chat = row.conversation() if row else None
    if row and chat and template and tokenizer:
        layout = layout_of(template, chat)
        numbers = list(numbers_of(tokenizer, layout)) if layout else []
        if len(numbers) >= len(example.ids):
            return [message["role"] for message in chat.messages], numbers[: len(example.ids)]
    if row and row.kind in ("prompt", "instruction"):
        return ["prompt", "completion"], [int(trained) for trained in example.trained.tolist()]
    return [row.kind if row else "text"], [0] * len(example.ids)


class Layout(NamedTuple):
    """A rendered conversation: its text, its control tokens and cuts for the tokenizer, and where each message stands."""

    text: str
    controls: Sequence[Control]
    cuts: Sequence[int]
    stretches: Sequence[Stretch]


def layout_of(template: ChatTemplate, chat: Conversation) -> Layout | None:
    """Where each message stands in the rendered row; None where it cannot be rendered."""
    try:
        view = template.views([chat], prompt=False)[0]
    except InputError:
        return None
    if isinstance(view, TemplateError):
        return None
    turns = [] if isinstance(view.turns, TemplateError) else view.turns
    spans = {at: (place.start, place.stop) for at, place in view.layout.places.items() if place.start is not None}
    spans |= {turn.message: (turn.start, turn.stop) for turn in turns}
    stretches = sorted(Stretch(start, stop, at) for at, (start, stop) in spans.items())
    return Layout(view.layout.text, view.controls, [turn.start for turn in turns], stretches)


def numbers_of(tokenizer: Tokenizer, layout: Layout) -> Iterator[int]:
    """The part of every token of a rendered text."""
    stretches = iter(layout.stretches)
    now = next(stretches, None)
    for run in tokenizer.runs(layout.text, layout.controls, cuts=layout.cuts):
        stream = tokenizer.stream(control=True, start=False)
        lengths = [len(stream.push(token)) for token in run.ids] if len(run.ids) > 1 else [1]
        at = run.start - max(0, sum(lengths) - (run.stop - run.start))  # a space that the tokenizer puts before a text
        for length in lengths:
            while now and at >= now.stop:
                now = next(stretches, None)
            inside = now is not None and (at >= now.start or at + length > now.start)
            yield now.part if inside and now else -1
            at += length
