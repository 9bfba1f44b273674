"""The tokenizer of a GGUF that comes alone, as the chat template sees it: llama.cpp cuts text, control tokens are ours.

With it the same renderer serves a lone GGUF and a model folder, and what looks like a control token in a person's text
stays text.
"""

import hashlib
from pathlib import Path

from edgetune.errors import TokenizerError
from edgetune.files import clean
from edgetune.llamacpp import LlamaChild
from edgetune.text.tokenizer import Tokenizer
from edgetune.text.tokenizer_files import AddedToken, TokenizerFiles
from edgetune.text.vocabulary import Kind, Prefix

KINDS: dict[str, Kind] = {"sentencepiece": "sentencepiece", "bpe": "bpe"}


class GgufVocabulary:
    """A Vocabulary that asks llama.cpp.

    Raises:
        TokenizerError: the file's tokenizer is of a kind that no chat model here has.
    """

    def __init__(self, child: LlamaChild, file: Path):
        info, words = child.info, child.words()
        if info.tokenizer not in KINDS:
            raise TokenizerError(f"has a {clean(info.tokenizer)} tokenizer", file=file, hint="only BPE is read")
        self.child, self.end_ids = child, tuple(words.end_ids)
        self.kind: Kind = KINDS[info.tokenizer]
        self.prefix: Prefix = "always" if info.adds_space else "never"
        self.size, self.bos_id, self.eos_id = info.vocab_size, info.bos_id, info.eos_id
        self.unk_id: int | None = None
        self.control = {
            text: AddedToken(text, word.id, special=True, lstrip=word.lstrip, rstrip=word.rstrip)
            for text, word in words.control.items()
        }
        self.added = frozenset(token.id for token in self.control.values())
        self.separator = self.tokenize("\n")

    def tokenize(self, text: str) -> list[int]:
        """The ids as llama.cpp has them, its dummy space included."""
        return self.child.tokenize(text, add_special=False, parse_special=False)

    def ids(self, text: str, prefix: bool) -> list[int]:
        """Plain text to ids, control tokens taken as text; `prefix`: with the dummy space.

        llama.cpp always puts a dummy space before a text where the model wants one. Behind a new line, which is a token
        of its own in these vocabularies, the text comes without.
        """
        if not text or prefix or self.prefix == "never":
            return self.tokenize(text)
        ids = self.tokenize("\n" + text)
        return ids[len(self.separator) :] if ids[: len(self.separator)] == self.separator else self.tokenize(text)

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text, as far as they are characters."""
        return self.child.detokenize([token], special=True).encode()

    def id_of(self, text: str) -> int | None:
        """The token of that very text, where it is a control token."""
        token = self.control.get(text)
        return token.id if token else None

    def begins_with(self, token: int) -> bool:
        """Whether a text begins with that token."""
        return self.child.info.adds_bos and token == self.bos_id


def gguf_tokenizer(child: LlamaChild, file: Path) -> Tokenizer:
    """The tokenizer of an open GGUF; it lives as long as the child does.

    Raises:
        TokenizerError: the file's tokenizer is of a kind that no chat model here has.
    """
    vocabulary = GgufVocabulary(child, file)
    facts = TokenizerFiles(
        names={},
        nameless=frozenset(),
        special=frozenset(),
        added={},
        adds_bos=child.info.adds_bos,
        bos_id=vocabulary.bos_id,
        end_ids=vocabulary.end_ids,
    )
    fingerprint = hashlib.sha256(repr((vocabulary.kind, vocabulary.size, sorted(vocabulary.control))).encode())
    return Tokenizer(vocabulary, facts, fingerprint.hexdigest(), file.parent)
