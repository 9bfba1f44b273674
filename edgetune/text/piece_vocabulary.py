"""tokenizer.model, read by the `sentencepiece` library, with the pieces of the file where a GGUF needs them."""

import re
import struct
from pathlib import Path
from typing import NamedTuple

import msgspec
import sentencepiece

from edgetune.errors import TokenizerError
from edgetune.text.protobuf import Field, fields
from edgetune.text.tokenizer_files import END_NAMES, LARGE, AddedToken, TokenizerFiles, read_bytes
from edgetune.text.vocabulary import SPACE_MARK, Kind, Prefix, pattern_of

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of a piece
BPE = 2  # a model type
HINT = "train the SentencePiece model with model_type=bpe: llama.cpp reads no other kind for these models"


class Piece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    score: float
    type: int


class PieceModel(NamedTuple):
    """What tokenizer.model holds (sentencepiece_model.proto)."""

    pieces: list[Piece]
    adds_prefix: bool
    begin_id: int
    end_id: int
    unknown_id: int
    data: bytes  # for the library: its normaliser off, its user-defined pieces left to us


def read_piece_model(file: Path) -> PieceModel:
    """Reads tokenizer.model as llama.cpp and tokenizer.json read it: no normalisation, no collapsing of spaces.

    User-defined pieces become control pieces in the library's copy, so that they are cut out of the text by one rule,
    ours, and only where they may be.

    Raises:
        TokenizerError: it is absent, damaged, or of another kind than BPE.
    """
    data = read_bytes(file, limit=LARGE)
    if not data:
        raise TokenizerError("is absent or empty", file=file)
    try:
        return parse_model(data, file)
    except (ValueError, struct.error) as problem:
        raise TokenizerError(
            f"is damaged: {problem}", file=file, hint="get this file anew from where the model came from"
        ) from None


def parse_model(data: bytes, file: Path) -> PieceModel:
    """The same, from the file's bytes; ValueError where they are not a SentencePiece model."""
    library_data = bytearray(data)
    pieces: list[Piece] = []
    trainer, normalizer = dict[int, Field](), dict[int, Field]()
    for field in fields(data):
        if field.number == 1:
            pieces.append(parse_piece(field, library_data))
        elif field.number in (2, 3):
            (trainer if field.number == 2 else normalizer).update({inner.number: inner for inner in fields(field.data)})
    kind = trainer[3].value if 3 in trainer else 1
    if kind != BPE:
        raise TokenizerError("is not a BPE model", file=file, hint=HINT)
    if 24 in trainer and trainer[24].value:
        raise TokenizerError("puts the space mark after a word", file=file, hint=HINT)
    adds_prefix = bool(normalizer[3].value) if 3 in normalizer else True
    ids = [trainer[number].value if number in trainer else default for number, default in ((41, 1), (42, 2), (40, 0))]
    begin, end, unknown = (at if 0 <= at < len(pieces) else -1 for at in ids)  # a 64-bit "-1" is none
    return PieceModel(pieces, adds_prefix, begin, end, unknown, bytes(library_data))


def parse_piece(field: Field, library_data: bytearray) -> Piece:
    """One piece; in the library's copy, a user-defined one becomes a control piece."""
    text, score, kind = "", 0.0, NORMAL
    for inner in fields(field.data):
        match inner.number:
            case 1:
                text = inner.data.decode()
            case 2:
                score = inner.float32
            case 3:
                kind = inner.value
                if kind == USER_DEFINED:
                    library_data[field.start + inner.start] = CONTROL
            case _:
                pass
    return Piece(text, score, kind)


class PieceVocabulary:
    """A Vocabulary over tokenizer.model and the tokens that the small files add to it."""

    kind: Kind = "sentencepiece"

    def __init__(self, file: Path, facts: TokenizerFiles):
        model = read_piece_model(file)
        self.file, self.pieces = file, model.pieces
        self.prefix: Prefix = "always" if model.adds_prefix else "never"
        self.bos_id, self.eos_id, self.unk_id = (
            at if at >= 0 else None for at in (model.begin_id, model.end_id, model.unknown_id)
        )
        tokens = self.cut_out(facts)
        self.control = {token.content: token for token in tokens if token.special}
        self.texts = {token.id: token.content for token in tokens}
        self.added = frozenset(self.texts)
        self.size = 1 + max(len(self.pieces) - 1, *self.added, 0)
        self.user_defined = {token.content: token.id for token in tokens if not token.special}
        self.pattern: re.Pattern[str] = pattern_of(token for token in tokens if not token.special)
        self.with_prefix = self.library(model.data, dummy=model.adds_prefix)
        self.without_prefix = self.library(model.data, dummy=False)

    def library(self, data: bytes, dummy: bool) -> sentencepiece.SentencePieceProcessor:
        """The library's processor with another normaliser: in protobuf, what comes later replaces what came before."""
        normalizer = bytes((0x12, 0, 0x18, dummy, 0x20, 0, 0x28, 1))  # no table, dummy space, spaces kept, as "▁"
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=data + bytes((0x1A, len(normalizer))) + normalizer)
        except (RuntimeError, OSError, ValueError) as problem:
            raise TokenizerError(f"is damaged: {problem}", file=self.file) from None

    def cut_out(self, facts: TokenizerFiles) -> list[AddedToken]:
        """Every token that is cut out of the text: control and user-defined pieces, and what the small files add."""
        named = facts.special | set(facts.names.values())
        ends = {self.bos_id, self.eos_id, facts.bos_id, *facts.end_ids}
        tokens: list[AddedToken] = []
        for at, piece in enumerate(self.pieces):
            token = facts.added.get(piece.text)
            flagged = (token is not None and token.special) or piece.text in named or at in ends
            if piece.type in (CONTROL, USER_DEFINED, UNKNOWN) or flagged:
                special = piece.type != USER_DEFINED or flagged or piece.text in END_NAMES
                tokens.append(AddedToken(piece.text, at, special, *((token.lstrip, token.rstrip) if token else ())))
        known = {piece.text: at for at, piece in enumerate(self.pieces)}
        for text, token in facts.added.items():
            if known.get(text, token.id) != token.id or (text not in known and token.id < len(self.pieces)):
                raise TokenizerError(f"has another token where {text!r} is added (id {token.id})", file=self.file)
            if text not in known:
                tokens.append(msgspec.structs.replace(token, special=token.special or text in END_NAMES))
        return tokens

    def ids(self, text: str, prefix: bool) -> list[int]:
        """Plain text to ids, control tokens taken as text; `prefix`: with the dummy space."""
        ids: list[int] = []
        at = 0
        for match in self.pattern.finditer(text):
            ids += self.stretch(text[at : match.start()], prefix)
            ids.append(self.user_defined[match[0]])
            at, prefix = match.end(), self.prefix == "always"
        return ids + self.stretch(text[at:], prefix)

    def stretch(self, text: str, prefix: bool) -> list[int]:
        """The ids of text without added tokens."""
        return (self.with_prefix if prefix else self.without_prefix).encode(text) if text else []

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none where no token has that id."""
        if token in self.texts:
            return self.texts[token].encode()
        if not 0 <= token < len(self.pieces):
            return b""
        piece = self.pieces[token]
        return bytes((int(piece.text[3:5], 16),)) if piece.type == BYTE else piece.text.replace(SPACE_MARK, " ").encode()

    def id_of(self, text: str) -> int | None:
        """The token of that very text."""
        added = next((at for at, known in self.texts.items() if known == text), None)
        return added if added is not None else next((at for at, piece in enumerate(self.pieces) if piece.text == text), None)

    def begins_with(self, token: int) -> bool:
        """The file does not say; Llama's rule, which the others follow, is to begin with BOS."""
        return token == self.bos_id
