"""A model folder's tokenizer: tokenizer.json or tokenizer.model behind one face.

Control tokens inside a person's text are text. They are parsed only where the caller asks for it, and then as llama.cpp
and the `tokenizers` library do: the text is cut at them, and every stretch between is encoded by itself.
"""

import codecs
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edgetune.errors import TokenizerError
from edgetune.text.json_vocabulary import JsonVocabulary
from edgetune.text.piece_vocabulary import PieceVocabulary
from edgetune.text.tokenizer_files import (
    END_NAMES,
    FINGERPRINTED,
    LARGE,
    SPACES,
    AddedToken,
    TokenizerFiles,
    read_bytes,
    read_tokenizer_files,
)
from edgetune.text.vocabulary import Kind, Vocabulary, pattern_of

SHORT, MEMORY = 200, 4096  # characters of a stretch that is remembered, and how many are


class Control(NamedTuple):
    """A control token's place in a text, start:stop in characters."""

    start: int
    stop: int
    token: AddedToken


class Run(NamedTuple):
    """A stretch of a text, start:stop in characters, and its ids. A control token is a run of its own."""

    start: int
    stop: int
    ids: list[int]


class Tokenizer:
    """Text to ids and back. `vocab_size` is 1 + the highest id, added tokens included."""

    def __init__(self, vocabulary: Vocabulary, facts: TokenizerFiles, fingerprint: str, folder: Path):
        self.vocabulary, self.fingerprint, self.folder = vocabulary, fingerprint, folder
        self.memory: dict[tuple[str, bool], list[int]] = {}
        self.kind: Kind = vocabulary.kind
        self.vocab_size = vocabulary.size
        self.control: Mapping[str, int] = {text: token.id for text, token in vocabulary.control.items()}
        self.control_ids = frozenset(self.control.values())
        self.pattern = pattern_of(vocabulary.control.values())
        self.bos_id = self.named(facts, "bos_token", vocabulary.bos_id if vocabulary.bos_id is not None else facts.bos_id)
        ends = facts.end_ids[:1] or (None,)
        self.eos_id = self.named(facts, "eos_token", vocabulary.eos_id if vocabulary.eos_id is not None else ends[0])
        self.pad_id = self.named(facts, "pad_token", None)
        self.unk_id = self.named(facts, "unk_token", vocabulary.unk_id)
        by_name = (at for text, at in self.control.items() if text in END_NAMES)
        self.end_ids = frozenset((*facts.end_ids, *by_name, *(() if self.eos_id is None else (self.eos_id,))))
        self.names: Mapping[str, str] = self.known_names(facts)
        rule = facts.adds_bos if facts.adds_bos is not None else self.bos_id is not None and vocabulary.begins_with(self.bos_id)
        self.adds_bos = self.bos_id is not None and rule

    def fits(self, rows: int) -> bool:
        """Whether an embedding of that many rows has one for every token, but for control tokens that nobody asks for.

        Gemma 3's small models share a tokenizer with those that see: its mark for an image is one row too far.
        """
        beyond = range(rows, self.vocab_size)
        needed = {self.bos_id, *self.end_ids}
        return len(beyond) <= len(self.control_ids) and all(id_ in self.control_ids and id_ not in needed for id_ in beyond)

    def named(self, facts: TokenizerFiles, name: str, otherwise: int | None) -> int | None:
        """The id of bos_token, eos_token, …

        Raises:
            TokenizerError: the small files name a text for the start or the end that is no token.
        """
        if name not in facts.names:
            return None if name in facts.nameless and name != "eos_token" else otherwise
        text = facts.names[name]
        token = self.vocabulary.id_of(text)
        if token is None and name in ("bos_token", "eos_token"):
            raise TokenizerError(f"{name} {text!r} is not in the vocabulary", file=self.folder / "tokenizer_config.json")
        return token

    def known_names(self, facts: TokenizerFiles) -> dict[str, str]:
        """The texts of the named tokens, as chat templates know them: bos_token, eos_token, …"""
        own = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.unk_id}
        found = {name: self.vocabulary.piece(at).decode("utf-8", "replace") for name, at in own.items() if at is not None}
        return found | facts.names

    def encode(self, text: str, *, control: bool = False, start: bool = True) -> list[int]:
        """Text to ids, no BOS or EOS added. `control`: control tokens are parsed. `start`: a text begins here."""
        if not control:
            return self.vocabulary.ids(text, start and self.vocabulary.prefix != "never")
        return [token for run in self.runs(text, self.controls(text), start=start) for token in run.ids]

    def controls(self, text: str, shielded: Sequence[tuple[int, int]] = ()) -> list[Control]:
        """The control tokens in a text, but for those that touch a shielded span: there they are text."""
        found = (
            Control(match.start(), match.end(), self.vocabulary.control[match[0]]) for match in self.pattern.finditer(text)
        )
        return [one for one in found if not any(left < one.stop and one.start < right for left, right in shielded)]

    def runs(self, text: str, controls: Sequence[Control], *, start: bool = True, cuts: Sequence[int] = ()) -> Iterator[Run]:
        """Text to ids, stretch by stretch, with these control tokens parsed.

        `cuts`, in order: where the text is cut besides, so that no token crosses; what comes after continues what came
        before.
        """
        at, fresh = 0, start
        for left, right, token in controls:
            stop = at + len(text[at:left].rstrip()) if token.lstrip else left
            yield from self.stretches(text, at, stop, fresh, cuts)
            yield Run(left, right, [token.id])
            at, fresh = right, True
            if token.rstrip and (spaces := SPACES.match(text, at)):
                at = min([spaces.end(), *(cut for cut in cuts if at <= cut)])
        yield from self.stretches(text, at, len(text), fresh, cuts)

    def stretches(self, text: str, at: int, stop: int, fresh: bool, cuts: Sequence[int]) -> Iterator[Run]:
        """Text between two control tokens, cut where it must be. `fresh`: nothing, or a control token, comes before."""
        for end in [*(cut for cut in cuts if at < cut < stop), stop]:
            if at < end:
                rule = self.vocabulary.prefix
                prefix = fresh and (rule == "always" or (rule == "first" and at == 0))
                yield Run(at, end, self.remembered(text[at:end], prefix))
                at, fresh = end, False

    def remembered(self, text: str, prefix: bool) -> list[int]:
        """The ids of a stretch. What stands between a template's control tokens comes again in every row."""
        ids = self.memory.get((text, prefix))
        if ids is None:
            ids = self.vocabulary.ids(text, prefix)
            if len(text) <= SHORT and len(self.memory) < MEMORY:
                self.memory[text, prefix] = ids
        return ids

    def decode(self, ids: Sequence[int], *, control: bool = False, start: bool = True) -> str:
        """Ids to text, with "�" for what is no UTF-8. `control`: control tokens appear. `start`: a text begins here."""
        stream = self.stream(control=control, start=start)
        return "".join(map(stream.push, ids)) + stream.end()

    def piece(self, token: int) -> bytes:
        """The raw bytes that one token adds to a running text."""
        return self.vocabulary.piece(token)

    def stream(self, *, control: bool = False, start: bool = True) -> "TextStream":
        """Ids to text, one at a time."""
        return TextStream(self, control, start)


class TextStream:
    """Text from ids as they come: whole characters only."""

    def __init__(self, tokenizer: Tokenizer, control: bool, start: bool):
        self.tokenizer, self.control = tokenizer, control
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        vocabulary = tokenizer.vocabulary
        self.drops_space = vocabulary.kind == "sentencepiece" and vocabulary.prefix != "never"
        self.fresh = start and self.drops_space  # the dummy space of the next piece is not of the text

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        added = token in self.tokenizer.vocabulary.added
        piece = b"" if token in self.tokenizer.control_ids and not self.control else self.tokenizer.piece(token)
        if self.fresh and not added and piece.startswith(b" "):
            piece = piece[1:]
        self.fresh = added and self.tokenizer.vocabulary.prefix == "always" and self.drops_space
        return self.decoder.decode(piece)

    def end(self) -> str:
        """What is left: "�" for the bytes of a character that never became whole."""
        return self.decoder.decode(b"", True)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: tokenizer.json, or tokenizer.model where there is no other.

    tokenizer.json comes first, because transformers and llama.cpp split a text as it says, even where the SentencePiece
    model beside it would collapse spaces.

    Raises:
        TokenizerError: no tokenizer is there, it is damaged, or it is of a kind that llama.cpp would read otherwise.
    """
    facts = read_tokenizer_files(folder)
    if (folder / "tokenizer.json").exists():
        file = folder / "tokenizer.json"
        vocabulary: Vocabulary = JsonVocabulary(file, facts)
    elif (folder / "tokenizer.model").exists():
        file = folder / "tokenizer.model"
        vocabulary = PieceVocabulary(file, facts)
    else:
        raise TokenizerError("no tokenizer.json and no tokenizer.model", file=folder, hint="get the whole model folder")
    tokenizer = Tokenizer(vocabulary, facts, fingerprint_of(folder), folder)
    for text, token in tokenizer.control.items():
        if token != tokenizer.unk_id and token in tokenizer.encode(text):
            raise TokenizerError(f"the control token {text!r} cannot be kept out of a person's text", file=file)
    return tokenizer


def fingerprint_of(folder: Path) -> str:
    """SHA-256 over the names and bytes of the tokenizer's files."""
    digest = hashlib.sha256()
    for name in FINGERPRINTED:
        if (data := read_bytes(folder / name, limit=LARGE)) is not None:
            digest.update(f"{name}\n{len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()
