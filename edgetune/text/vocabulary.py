"""What the two tokenizer libraries are to this project: plain text to ids, and an id to the bytes it stands for."""

import re
from collections.abc import Iterable
from typing import Literal, Protocol

from edgetune.text.tokenizer_files import AddedToken

Kind = Literal["bpe", "sentencepiece"]
Prefix = Literal["never", "first", "always"]
SPACE_MARK = "▁"
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary(Protocol):
    """Pieces and the rule that finds them in a text."""

    kind: Kind  # byte-level BPE, or SentencePiece's alphabet, whichever library reads it
    prefix: Prefix  # where a text gets SentencePiece's dummy space: nowhere, at its start, after every added token too
    size: int  # 1 + the highest id
    control: dict[str, AddedToken]  # never parsed from text
    added: frozenset[int]  # every token that is cut out of the text, control or not
    bos_id: int | None  # where the file itself says so
    eos_id: int | None
    unk_id: int | None

    def ids(self, text: str, prefix: bool) -> list[int]:
        """Plain text to ids, control tokens taken as text; `prefix`: with the dummy space."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none where no token has that id."""
        ...

    def id_of(self, text: str) -> int | None:
        """The token of that very text."""
        ...

    def begins_with(self, token: int) -> bool:
        """Whether a text begins with that token (BOS) where the small files do not say."""
        ...


def pattern_of(tokens: Iterable[AddedToken]) -> re.Pattern[str]:
    """Finds the leftmost, then longest, of these tokens in a text."""
    longest_first = sorted(tokens, key=lambda token: (-len(token.content), token.content))
    texts = (re.escape(token.content) for token in longest_first if token.content)
    words = {re.escape(token.content) for token in longest_first if token.single_word}
    return re.compile("|".join(rf"(?<!\w){text}(?!\w)" if text in words else text for text in texts) or r"(?!)")
