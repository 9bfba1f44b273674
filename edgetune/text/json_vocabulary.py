"""tokenizer.json, read by the `tokenizers` library: byte-level BPE, and SentencePiece's alphabet in BPE form."""

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct
from tokenizers import Tokenizer as Library

from edgetune.errors import TokenizerError
from edgetune.text import byte_level
from edgetune.text.tokenizer_files import END_NAMES, LARGE, AddedToken, TokenizerFiles, read_bytes, read_json
from edgetune.text.vocabulary import BYTE_PIECE, SPACE_MARK, Kind, Prefix

HINT = "BPE tokenizers are read: byte-level (Llama 3, Qwen, SmolLM) or SentencePiece's (Llama 2, Mistral, Phi-3, Gemma)"


class BpeModel(Struct):
    """The `model` part of the file."""

    type: str = "BPE"
    vocab: dict[str, int] | list[Any] = msgspec.field(default_factory=lambda: dict[str, int]())
    byte_fallback: bool = False
    unk_token: str | None = None
    dropout: float | None = None


class Layout(Struct):
    """The parts of the file that say how it works."""

    model: BpeModel
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


class JsonVocabulary:
    """A Vocabulary over tokenizer.json. What begins or ends a text is a control token, however the file flags it."""

    bos_id: int | None = None
    eos_id: int | None = None

    def __init__(self, file: Path, facts: TokenizerFiles):
        layout = read_json(file, Layout, limit=LARGE)
        if layout is None:
            raise TokenizerError("is absent", file=file)
        pieces = checked_vocab(file, layout.model)
        self.file, self.tokens = file, added_tokens(layout, facts, pieces)
        self.kind: Kind = "bpe" if has(layout, "ByteLevel") else "sentencepiece"
        if self.kind == "sentencepiece" and not (layout.model.byte_fallback or has(layout, "Metaspace")):
            raise TokenizerError("is neither byte-level nor SentencePiece's alphabet", file=file, hint=HINT)
        self.prefix: Prefix = prefix_rule(layout)
        self.byte_fallback = layout.model.byte_fallback
        self.control = {token.content: token for token in self.tokens if token.special}
        self.texts = {token.id: token.content for token in self.tokens}
        self.added = frozenset(self.texts)
        self.size = 1 + max(max(pieces.values()), max(self.added, default=0))
        self.with_prefix, self.without_prefix = self.libraries(layout)
        self.unk_id = self.id_of(layout.model.unk_token or "")

    def libraries(self, layout: Layout) -> tuple[Library, Library]:
        """The library's tokenizer, and one that adds no dummy space: the same where there is none to add."""
        document = msgspec.json.decode(cast(bytes, read_bytes(self.file, limit=LARGE)), type=dict[str, Raw])
        changes: dict[str, Any] = {"truncation": None, "padding": None, "added_tokens": list(self.tokens)}
        first = self.load(document, changes)
        for token in self.tokens:
            if first.token_to_id(token.content) != token.id:
                raise TokenizerError(f"the added token {token.content!r} cannot have the id {token.id}", file=self.file)
        if self.prefix == "never":
            return first, first
        bare = {"normalizer": without_prefix(layout.normalizer), "pre_tokenizer": without_prefix(layout.pre_tokenizer)}
        return first, self.load(document, changes | bare)

    def load(self, document: Mapping[str, Raw], changes: Mapping[str, Any]) -> Library:
        """The file with some of its parts replaced, as the library has it."""
        parts = {**document, **{name: Raw(msgspec.json.encode(part)) for name, part in changes.items()}}
        with library_errors(self.file):
            library = Library.from_str(msgspec.json.encode(parts).decode())
            library.encode_special_tokens = True
            library.encode("The probe 1, é▁\n", add_special_tokens=False)
        return library

    def ids(self, text: str, prefix: bool) -> list[int]:
        """Plain text to ids, control tokens taken as text; `prefix`: with the dummy space."""
        library = self.with_prefix if prefix else self.without_prefix
        return library.encode(text, add_special_tokens=False).ids

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none where no token has that id."""
        if token in self.texts:
            return self.texts[token].encode()
        text = self.with_prefix.id_to_token(token) or ""
        if self.kind == "bpe":
            return byte_level.to_bytes(text)
        byte = BYTE_PIECE.fullmatch(text) if self.byte_fallback else None
        return bytes((int(byte[1], 16),)) if byte else text.replace(SPACE_MARK, " ").encode("utf-8", "replace")

    def id_of(self, text: str) -> int | None:
        """The token of that very text."""
        return self.with_prefix.token_to_id(text)

    def begins_with(self, token: int) -> bool:
        """Whether the file's own post-processing puts that token before a text."""
        return self.with_prefix.encode("a").ids[:1] == [token] != self.with_prefix.encode("a", add_special_tokens=False).ids[:1]


def checked_vocab(file: Path, model: BpeModel) -> dict[str, int]:
    """The vocabulary, text to id.

    Raises:
        TokenizerError: it is of another kind than BPE, drops merges at random, or gives one id to two tokens.
    """
    if model.type != "BPE" or not isinstance(model.vocab, dict):
        raise TokenizerError(f"is a {model.type} tokenizer", file=file, hint=HINT)
    if model.dropout:
        raise TokenizerError("drops merges at random: the same text would have several forms", file=file)
    if not model.vocab:
        raise TokenizerError("has an empty vocabulary", file=file)
    if len(set(model.vocab.values())) != len(model.vocab) or min(model.vocab.values()) < 0:
        raise TokenizerError("gives one id to two tokens, or a negative id", file=file)
    return model.vocab


def added_tokens(layout: Layout, facts: TokenizerFiles, pieces: Mapping[str, int]) -> tuple[AddedToken, ...]:
    """The added tokens of the file and of the small files, by id; what ends a text and listed specials are control."""
    tokens = {token.content: token for token in layout.added_tokens}
    taken = {token.id for token in tokens.values()}
    tokens |= {text: token for text, token in facts.added.items() if text not in tokens and token.id not in taken}
    texts = {at: text for text, at in pieces.items()} if facts.end_ids or facts.bos_id is not None else {}
    texts |= {token.id: token.content for token in tokens.values()}
    ends = {texts[at] for at in (*facts.end_ids, facts.bos_id) if at is not None and at in texts}
    ends |= {facts.names[name] for name in ("bos_token", "eos_token") if name in facts.names} | (END_NAMES & tokens.keys())
    for text in (ends | facts.special) & (tokens.keys() | pieces.keys()):
        token = tokens.get(text, AddedToken(text, pieces.get(text, -1)))
        tokens[text] = msgspec.structs.replace(token, special=True)
    return tuple(sorted((token for token in tokens.values() if token.content), key=lambda token: token.id))


def components(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A normaliser, pre-tokenizer or decoder, and those inside it."""
    if part:
        yield part
        for key in ("normalizers", "pretokenizers", "decoders"):
            for inner in part.get(key) or []:
                yield from components(inner)


def has(layout: Layout, kind: str) -> bool:
    """Whether the pre-tokenizer or the decoder has a component of that type."""
    parts = (*components(layout.pre_tokenizer), *components(layout.decoder))
    return any(part.get("type") == kind for part in parts)


def prefix_rule(layout: Layout) -> Prefix:
    """Where the file's own rules put a space that the text does not have."""
    rules: Collection[Prefix] = {rule_of(part) for part in (*components(layout.normalizer), *components(layout.pre_tokenizer))}
    return "always" if "always" in rules else "first" if "first" in rules else "never"


def rule_of(part: dict[str, Any]) -> Prefix:
    """One component's part in that."""
    match part:
        case {"type": "Prepend"} | {"type": "ByteLevel", "add_prefix_space": True}:
            return "always"
        case {"type": "Metaspace", "prepend_scheme": "first" | "never" as scheme}:
            return scheme
        case {"type": "Metaspace", "add_prefix_space": False}:
            return "never"
        case {"type": "Metaspace"}:
            return "always"
        case _:
            return "never"


def without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """The same component with no dummy space."""
    if not part:
        return part
    lists = {
        key: [bare for inner in part[key] if (bare := without_prefix(inner))]
        for key in ("normalizers", "pretokenizers")
        if part.get(key)
    }
    match part.get("type"):
        case "Prepend":
            return None
        case "Metaspace":
            return {key: value for key, value in part.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
        case "ByteLevel":
            return part | {"add_prefix_space": False}
        case _:
            return part | lists


@contextmanager
def library_errors(file: Path) -> Generator[None]:
    """Makes one sentence of whatever the library says of a damaged file.

    Raises:
        TokenizerError: the library refused, or a panic went through it: it raises no narrower class than BaseException.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as problem:
        raise TokenizerError(
            f"is damaged: {problem}", file=file, hint="get this file anew from where the model came from"
        ) from None
