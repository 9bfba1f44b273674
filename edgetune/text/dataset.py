"""Rows become examples: token ids and the mask of what is learned. Nothing is dropped or cut silently."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgetune.config import DataConfig
from edgetune.errors import DataError, InputError, TemplateError
from edgetune.text.chat_template import ChatTemplate, Rendered
from edgetune.text.conversation import Conversation
from edgetune.text.examples import Example, Examples
from edgetune.text.reading import read_rows
from edgetune.text.rows import Problem, RawRow, RowError
from edgetune.text.tokenizer import Tokenizer
from edgetune.units import count, percent

TOLERATED = 0.05  # the share of bad rows with which a file still is what its owner thinks
BATCH_ROWS, BATCH_SIZE = 256, 1 << 20  # rows, and bytes of them, that are rendered at once
NAMED = 5  # problems that an error names

__all__ = ["Dataset", "Example", "Examples", "Problem", "RawRow", "load_examples", "read_examples", "read_rows"]


@dataclass(frozen=True)
class Dataset:
    """What files hold. `rows`: all that were read, good and bad. `fingerprint`: SHA-256 over ids and masks."""

    examples: Examples
    problems: list[Problem]
    rows: int
    fingerprint: str


class Encoder(NamedTuple):
    """What turns rows into examples."""

    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    data: DataConfig
    vocab: int


def load_examples(
    files: Sequence[Path],
    tokenizer: Tokenizer | None,
    template: ChatTemplate | None,
    data: DataConfig,
    vocab: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Dataset:
    """Reads, renders and tokenises all rows. `vocab`: the model's embedding rows. `on_rows`: told how many are done.

    Raises:
        DataError: a file is absent, empty or unusable, more than one row in twenty is bad, or nothing is to be learned.
    """
    dataset = read_examples(files, tokenizer, template, data, vocab, on_rows)
    refuse_useless(files, dataset.examples, dataset.problems, dataset.rows)
    return dataset


def read_examples(
    files: Sequence[Path],
    tokenizer: Tokenizer | None,
    template: ChatTemplate | None,
    data: DataConfig,
    vocab: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Dataset:
    """As `load_examples`, however many rows are bad.

    Raises:
        DataError: a file is absent, empty or unusable.
    """
    encoder = Encoder(tokenizer, template, data, vocab)
    problems: list[Problem] = []
    rows = 0

    def examples() -> Iterator[Example]:
        nonlocal rows
        for batch in batches(read_rows(files)):
            rows += sum(isinstance(row, RawRow) or row.bad for row in batch)
            for result in encode(batch, encoder):
                if isinstance(result, Problem):
                    problems.append(result)
                else:
                    yield result
            on_rows(rows)

    found = Examples(examples())
    return Dataset(found, problems, rows, fingerprint_of(found))


def refuse_useless(files: Sequence[Path], examples: Examples, problems: Sequence[Problem], rows: int) -> None:
    """Stops where training would not learn what the person thinks.

    Raises:
        DataError: too many rows are bad, or none is left.
    """
    bad = [problem for problem in problems if problem.bad]
    named = "; ".join(f"{one.file}:{one.line}: {one.message}" for one in (bad or problems)[:NAMED])
    where = ", ".join(map(str, files))
    if len(bad) > TOLERATED * rows:
        message = f"{count(len(bad))} of {count(rows)} rows ({percent(len(bad) / rows)}) cannot be learned from: {named}"
        raise DataError(message, file=where, hint="`edgetune data` lists them all")
    if not examples:
        hint = "raise data.max_tokens, or set data.long_rows to cut or split" if problems else "check the rows"
        raise DataError(f"no row is left to learn from: {named}", file=where, hint=hint)


def fingerprint_of(examples: Examples) -> str:
    """SHA-256 over what is learned, in order."""
    digest = hashlib.sha256()
    for part in (examples.stops, examples.ids, examples.trained):
        digest.update(part.data)
    return digest.hexdigest()


def batches(rows: Iterable[RawRow | Problem]) -> Iterator[list[RawRow | Problem]]:
    """Rows in groups that are small in number and in size."""
    batch: list[RawRow | Problem] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size if isinstance(row, RawRow) else 0
        if len(batch) >= BATCH_ROWS or size >= BATCH_SIZE:
            yield batch
            batch, size = [], 0
    yield batch


def encode(rows: Sequence[RawRow | Problem], encoder: Encoder) -> Iterator[Example | Problem]:
    """A group of rows as examples, with problems in their places."""
    chats = [chat if isinstance(row, RawRow) and encoder.template and (chat := row.conversation()) else None for row in rows]
    rendered = iter(render([chat for chat in chats if chat], encoder))
    for row, chat in zip(rows, chats, strict=True):
        if isinstance(row, Problem):
            yield row
            continue
        try:
            result = next(rendered) if chat else encode_plain(row, encoder)
            if isinstance(result, TemplateError):
                raise result
            yield from fitted(checked(result, encoder.vocab), row, encoder.data)
        except InputError as problem:
            hint = f" ({problem.hint})" if problem.hint else ""
            kind = problem.what if isinstance(problem, RowError) else "template"
            yield Problem(row.file, row.line, kind, problem.message + hint)


def render(chats: Sequence[Conversation], encoder: Encoder) -> Sequence[Rendered | TemplateError]:
    """The chats of a group, by the model's template."""
    return encoder.template.encode_many(chats, encoder.data.train_on) if encoder.template and chats else []


def encode_plain(row: RawRow, encoder: Encoder) -> Rendered:
    """A row that no template renders: tokens as they are, text from BOS to EOS, or a prompt and what completes it.

    Raises:
        RowError: the row needs a tokenizer, a chat template or an EOS token, and the model has none.
    """
    if row.kind == "tokens":
        return Rendered(row.value["input_ids"], row.value["loss_mask"])
    tokenizer = encoder.tokenizer
    if tokenizer is None:
        raise RowError("a row of text, but the model folder has no tokenizer", what="tokenizer")
    if tokenizer.eos_id is None:
        raise RowError("the tokenizer names no eos_token: a model that learned this would never stop", what="tokenizer")
    given, learned = ("", row.value["text"]) if row.kind == "text" else row.pair() or ("", None)
    if learned is None:
        hint = "use an instruct model, or rows of prompt and completion"
        raise RowError("a chat, but the model has no chat template", what="template", hint=hint)
    start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    prompt = [*start, *tokenizer.encode(given)]
    answer = [*tokenizer.encode(learned, start=not given), tokenizer.eos_id]
    trained = [encoder.data.train_on == "all"] * len(prompt) + [True] * len(answer)
    return Rendered(np.array(prompt + answer, np.int32), np.array(trained, np.bool_))


def checked(row: Rendered, vocab: int) -> Rendered:
    """The row, if it can be learned: the first token is no target, since nothing comes before it.

    Raises:
        RowError: no token is trained, or one has no place in the embedding.
    """
    highest = int(row.ids.max(initial=0))
    if highest >= vocab:
        hint = "tokenizer and model do not belong together"
        raise RowError(f"token {highest}, but the model's embedding has {vocab} rows", what="vocabulary", hint=hint)
    trained = row.trained.copy()
    trained[:1] = False
    if not trained.any():
        raise RowError("no token of this row is trained", what="untrained")
    return Rendered(row.ids, trained)


def fitted(row: Rendered, source: RawRow, data: DataConfig) -> Iterator[Example | Problem]:
    """The row in at most data.max_tokens tokens, and a note of what that took."""
    size, most = len(row.ids), data.max_tokens
    if size <= most:
        yield Example(*row, source.file, source.line)
        return
    whole = size, int(np.count_nonzero(row.trained))
    lost = int(np.count_nonzero(row.trained[most:]))
    long = f"{count(size)} tokens, at most {count(most)}"
    if data.long_rows == "split":
        pieces = list(split(row, most))
        yield Problem(source.file, source.line, "split", f"{long}: split into {len(pieces)} pieces", *whole)
        yield from (Example(*piece, source.file, source.line) for piece in pieces)
    elif data.long_rows == "cut" and row.trained[:most].any():
        note = f"{long}: its end is cut off, with {count(lost)} trained tokens"
        yield Problem(source.file, source.line, "cut", note, *whole)
        yield Example(row.ids[:most], row.trained[:most], source.file, source.line)
    else:
        why = "dropped" if data.long_rows == "drop" else "dropped, since nothing before the cut is trained"
        yield Problem(source.file, source.line, "dropped", f"{long}: {why}", *whole)


def split(row: Rendered, most: int) -> Iterator[Rendered]:
    """Pieces that overlap by a token, so that no target loses the one before it; those without a target go."""
    for start in range(0, len(row.ids) - 1, most - 1):
        trained = row.trained[start : start + most].copy()
        trained[:1] = False
        if trained.any():
            yield Rendered(row.ids[start : start + most], trained)
