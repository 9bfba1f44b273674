"""The small JSON files beside a tokenizer: which tokens begin and end a text, and which are added to the vocabulary."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edgetune.errors import InputError, TokenizerError

SMALL, LARGE = 16 << 20, 256 << 20  # bytes: no real file of its kind comes near
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FINGERPRINTED = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Control tokens that end a turn or a text by their very name, as llama.cpp has it (llama-vocab.cpp).
END_NAMES = frozenset(
    [
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>"),
        *("<end_of_turn>", "<end_of_utterance>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|end_of_text|>"),
        *("<|endoftext|>", "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
    ]
)
SPACES = re.compile(r"\s*")
Decoded = TypeVar("Decoded")


class AddedToken(Struct, frozen=True):
    """A token that is cut out of the text before the vocabulary sees it; `lstrip`, `rstrip`: with spaces beside it."""

    content: str
    id: int = -1
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class Named(Struct, frozen=True):
    """A token's name where it is written with its flags."""

    content: str


class SpecialTokens(Struct, frozen=True):
    """What special_tokens_map.json and tokenizer_config.json both say."""

    bos_token: str | Named | UnsetType | None = UNSET
    eos_token: str | Named | UnsetType | None = UNSET
    unk_token: str | Named | UnsetType | None = UNSET
    sep_token: str | Named | UnsetType | None = UNSET
    pad_token: str | Named | UnsetType | None = UNSET
    cls_token: str | Named | UnsetType | None = UNSET
    mask_token: str | Named | UnsetType | None = UNSET
    additional_special_tokens: list[str | Named] | None = None
    extra_special_tokens: list[str | Named] | dict[str, str | Named] | None = None


class TokenizerConfig(SpecialTokens, frozen=True):
    """The parts of tokenizer_config.json that say how text becomes ids."""

    add_bos_token: bool | None = None
    added_tokens_decoder: dict[int, AddedToken] | None = None
    chat_template: Any = None


class TokenIds(Struct, frozen=True):
    """The parts of generation_config.json and config.json that name tokens by id."""

    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None


@dataclass(frozen=True)
class TokenizerFiles:
    """All that the small files say, in one place."""

    names: dict[str, str]  # bos_token, eos_token, … -> text, for those that are set
    nameless: frozenset[str]  # those that are said to be none
    special: frozenset[str]  # texts that are control tokens, by these files
    added: dict[str, AddedToken]
    adds_bos: bool | None  # None: the files leave it to the tokenizer
    bos_id: int | None
    end_ids: tuple[int, ...]  # eos ids of generation_config.json, else of config.json


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Reads tokenizer_config, special_tokens_map, added_tokens, generation_config and config, each if it is there.

    Raises:
        TokenizerError: one is not JSON, or says something of the wrong type.
    """
    config = read_json(folder / "tokenizer_config.json", TokenizerConfig) or TokenizerConfig()
    special_map = read_json(folder / "special_tokens_map.json", SpecialTokens) or SpecialTokens()
    generation = read_json(folder / "generation_config.json", TokenIds) or TokenIds()
    model = read_json(folder / "config.json", TokenIds) or TokenIds()
    said = {name: token for tokens in (special_map, config) for name in NAMES if (token := getattr(tokens, name)) is not UNSET}
    names = {name: text_of(token) for name, token in said.items() if token is not None}
    special = extra_tokens(config) | extra_tokens(special_map)
    added = {token.content: msgspec.structs.replace(token, id=at) for at, token in (config.added_tokens_decoder or {}).items()}
    for text, at in (read_json(folder / "added_tokens.json", dict[str, int]) or {}).items():
        added.setdefault(text, AddedToken(text, at, special=text in special or text in names.values()))
    bos = first_id(generation.bos_token_id) if generation.bos_token_id is not None else first_id(model.bos_token_id)
    ends = ids_of(generation.eos_token_id) or ids_of(model.eos_token_id)
    return TokenizerFiles(names, frozenset(said.keys() - names.keys()), special, added, config.add_bos_token, bos, ends)


def text_of(token: str | Named) -> str:
    """A token's text, written plainly or with its flags."""
    return token if isinstance(token, str) else token.content


def extra_tokens(tokens: SpecialTokens) -> frozenset[str]:
    """The control tokens that have no name of their own."""
    extra = tokens.extra_special_tokens or []
    listed = list(extra.values()) if isinstance(extra, dict) else extra
    return frozenset(text_of(token) for token in [*listed, *(tokens.additional_special_tokens or [])])


def ids_of(value: int | list[int] | None) -> tuple[int, ...]:
    """One id, several, or none, as a tuple. Some configs write -1 for none."""
    given = [] if value is None else [value] if isinstance(value, int) else value
    return tuple(at for at in given if 0 <= at < 1 << 31)


def first_id(value: int | list[int] | None) -> int | None:
    """The first of the ids."""
    return next(iter(ids_of(value)), None)


def read_json(path: Path, kind: type[Decoded], error: type[InputError] = TokenizerError, limit: int = SMALL) -> Decoded | None:
    """A JSON file of a known shape; None where there is no such file.

    Raises:
        InputError: of the class `error`: it is no regular file, too large, not JSON, or of another shape.
    """
    data = read_bytes(path, error, limit)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"is damaged: {problem}", file=path, hint="get this file anew from where the model came from") from None


def read_bytes(path: Path, error: type[InputError] = TokenizerError, limit: int = SMALL) -> bytes | None:
    """A whole file; None where there is none. Looks before it opens: a FIFO would wait for ever.

    Raises:
        InputError: of the class `error`: it is no regular file, too large, or cannot be read.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise error("is not a regular file", file=path)
        if facts.st_size > limit:
            raise error(f"is too large for what it is: {facts.st_size:,} bytes, at most {limit:,}", file=path)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", file=path) from None
