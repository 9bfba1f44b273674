"""A model folder's tokenizer and chat template as GGUF's keys.

Three forms exist: byte-level BPE (tokenizer.json), SentencePiece BPE (tokenizer.model), and SentencePiece BPE that was
turned into a tokenizer.json with byte fallback. llama.cpp merges the last two by score, so where only merges are given
the scores follow from their order. What llama.cpp would split, merge or normalise in another way is refused.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from msgspec import Struct, field

from edgetune.errors import TemplateError, TokenizerError
from edgetune.export.gguf_names import Metadata
from edgetune.export.gguf_pretokenizer import described, flattened, pre_tokenizer_name
from edgetune.files import clean
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.piece_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_piece_model
from edgetune.text.tokenizer import END_NAMES, Tokenizer, load_tokenizer
from edgetune.text.tokenizer_files import LARGE, AddedToken, read_json, read_tokenizer_files
from edgetune.text.vocabulary import BYTE_PIECE, SPACE_MARK

ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0
LOOKS_LIKE_CONTROL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
ONLY_HERE = "the model can be trained and merged, but not exported to GGUF"


class BpeModel(Struct):
    """The `model` part of a tokenizer.json."""

    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    ignore_merges: bool = False
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None

    @property
    def pairs(self) -> list[tuple[str, ...]]:
        """The merges as pairs, which older files write as one text."""
        return [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in self.merges]


class Description(Struct):
    """A tokenizer.json, as far as a GGUF repeats it."""

    model: BpeModel
    added_tokens: list[AddedToken] = field(default_factory=lambda: list[AddedToken]())
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None


class Token(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    type: int
    score: float = ADDED_SCORE


def read_vocabulary(folder: Path, rows: int) -> Metadata:
    """Every tokenizer key for a model whose embedding has `rows` rows.

    Raises:
        TokenizerError: the tokenizer has more tokens than the embedding, a token twice, or a form that llama.cpp has not.
        TemplateError: the chat template is broken.
    """
    tokenizer = load_tokenizer(folder)
    if not tokenizer.fits(rows):
        raise TokenizerError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, config.json and the embedding have {rows}",
            file=folder,
            hint="tokenizer and weights are of different models, or tokens were added without enlarging the embedding",
        )
    description = read_json(folder / "tokenizer.json", Description, limit=LARGE)
    if tokenizer.kind == "bpe" and description is not None:
        keys, tokens = byte_level(folder, description)
    else:
        keys, tokens = sentencepiece(folder, description)
    tokens = {id_: token for id_, token in tokens.items() if id_ < rows}
    for id_ in tokenizer.control_ids & tokens.keys():
        if tokens[id_].type != UNKNOWN:
            tokens[id_] = tokens[id_]._replace(type=CONTROL)
    keys |= token_lists(tokens, rows, folder)
    if tokenizer.kind == "sentencepiece":
        scores = [tokens[i].score if i in tokens else PADDING_SCORE for i in range(rows)]
        keys["tokenizer.ggml.scores"] = scores
    return keys | special_tokens(tokenizer, load_template(folder, tokenizer), keys["tokenizer.ggml.tokens"])


def byte_level(folder: Path, description: Description) -> tuple[Metadata, dict[int, Token]]:
    """The rules and tokens of a tokenizer.json over bytes, as GPT-2's, Llama 3's and Qwen's are.

    Raises:
        TokenizerError: llama.cpp would normalise, split or merge in another way.
    """
    file = folder / "tokenizer.json"
    model, normalizers = description.model, flattened(description.normalizer)
    # llama.cpp normalises nothing. NFC, Qwen's, leaves all but decomposed text as it is.
    if any(step.get("type") != "NFC" for step in normalizers):
        raise TokenizerError(f"llama.cpp has no normalizer {described(normalizers)}", file=file, hint=ONLY_HERE)
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        raise TokenizerError("llama.cpp has no marks inside words", file=file, hint=ONLY_HERE)
    tokens = {id_: Token(text, NORMAL) for text, id_ in model.vocab.items()}
    for token in (*read_tokenizer_files(folder).added.values(), *description.added_tokens):
        tokens[token.id] = added(token)
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer_name(description.pre_tokenizer, model.ignore_merges, file),
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else joined(merge) for merge in model.merges],
        "tokenizer.ggml.add_space_prefix": False,
    }
    return keys, tokens


def sentencepiece(folder: Path, description: Description | None) -> tuple[Metadata, dict[int, Token]]:
    """The rules and tokens of a SentencePiece model: from tokenizer.model where it is, else from its tokenizer.json."""
    if (folder / "tokenizer.model").exists() or description is None:
        model = read_piece_model(folder / "tokenizer.model")
        tokens = {id_: Token(piece.text, piece.type, piece.score) for id_, piece in enumerate(model.pieces)}
        adds_space = model.adds_prefix
    else:
        adds_space = begins_with_space(description, folder / "tokenizer.json")
        tokens = converted_pieces(description.model, folder / "tokenizer.json")
    if description is not None:
        tokens |= {token.id: added(token) for token in description.added_tokens if token.id not in tokens}
        for text, id_ in description.model.vocab.items():
            if id_ not in tokens or tokens[id_].text != text:
                message = f"tokenizer.json and tokenizer.model disagree on token {id_}, {clean(text)!r}"
                raise TokenizerError(message, file=folder, hint="the two are of different models: remove the wrong one")
    tokens |= {token.id: added(token) for token in read_tokenizer_files(folder).added.values()}
    if {f"<0x{byte:02X}>" for byte in range(256)} - {token.text for token in tokens.values()}:
        message = "has no tokens for single bytes: llama.cpp would die of a character that it does not know"
        raise TokenizerError(message, file=folder, hint="train the SentencePiece model with byte_fallback")
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": adds_space,
    }
    return keys, tokens


def begins_with_space(description: Description, file: Path) -> bool:
    """Whether a tokenizer.json that was a SentencePiece model puts a space before text.

    Raises:
        TokenizerError: it has a step that is not SentencePiece's.
    """
    answer = False
    for step in (*flattened(description.normalizer), *flattened(description.pre_tokenizer)):
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                answer = True
            case {"type": "Metaspace", "replacement": "▁", "prepend_scheme": str(scheme), "split": False}:
                answer = scheme != "never"
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                pass
            case {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}:
                pass  # Gemma's: no space is left to split at
            case _:
                raise TokenizerError(f"llama.cpp has no step {described([step])}", file=file, hint=ONLY_HERE)
    return answer


def converted_pieces(model: BpeModel, file: Path) -> dict[int, Token]:
    """The tokens of a tokenizer.json that was a SentencePiece model."""
    scores = scores_of(model.vocab, model.pairs, file)
    tokens: dict[int, Token] = {}
    for text, id_ in model.vocab.items():
        kind = UNKNOWN if text == model.unk_token else BYTE if BYTE_PIECE.fullmatch(text) else NORMAL
        tokens[id_] = Token(text, kind, scores.get(text, ADDED_SCORE))
    return tokens


def scores_of(vocab: Collection[str], merges: Sequence[tuple[str, ...]], file: Path) -> dict[str, float]:
    """A score for each token that a merge makes, such that merging by score is merging by order.

    That is so if all merges into one token stand together, and every pair that makes a token is among them.

    Raises:
        TokenizerError: it is not so: no scores could express these merges.
    """
    scores: dict[str, float] = {}
    made = ["".join(pair) for pair in merges]
    for before, token in pairwise(["", *made]):
        if token != before:
            if token in scores:
                raise TokenizerError("its merges are not those of a SentencePiece model", file=file, hint=ONLY_HERE)
            scores[token] = -float(len(scores))
    pairs = sum(token[:cut] in vocab and token[cut:] in vocab for token in vocab for cut in range(1, len(token)))
    if pairs != len(set(merges)):
        raise TokenizerError("its merges are not those of a SentencePiece model", file=file, hint=ONLY_HERE)
    return scores


def added(token: AddedToken) -> Token:
    """A token that was added to a vocabulary: one that steers, or one that is text."""
    if token.special or LOOKS_LIKE_CONTROL.fullmatch(token.content):
        return Token(token.content, CONTROL)
    return Token(token.content.replace(SPACE_MARK, " "), USER_DEFINED)


def joined(pair: Sequence[str]) -> str:
    """A merge as llama.cpp reads it: two parts and a space between; a space inside a part is written as bytes are."""
    left, right = (part.replace(" ", "Ġ") for part in pair)
    return f"{left} {right}"


def token_lists(tokens: Mapping[int, Token], rows: int, file: Path) -> Metadata:
    """Texts and types for every row of the embedding; rows without a token get a name of their own.

    Raises:
        TokenizerError: a text is there twice or holds a NUL, which would end llama.cpp's process.
    """
    texts = [tokens[i].text if i in tokens else f"[PAD{i}]" for i in range(rows)]
    first: dict[str, int] = {}
    for id_, text in enumerate(texts):
        if text in first or "\0" in text:
            what = f"is the text of two tokens, {first[text]} and {id_}" if text in first else "holds a NUL character"
            raise TokenizerError(f"{clean(text)!r} {what}", file=file, hint="llama.cpp needs a different text for each token")
        first[text] = id_
    types = [tokens[i].type if i in tokens else UNUSED for i in range(rows)]
    return {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": types}


def special_tokens(tokenizer: Tokenizer, template: ChatTemplate | None, texts: Sequence[str]) -> Metadata:
    """Which ids begin, end and fill a text, and the template.

    GGUF has three places for ids that end a generation (end of sequence, of turn, of message); the template's own end of
    a turn comes first, ends that llama.cpp knows by their text need none.

    Raises:
        TokenizerError: no token ends a text: llama.cpp would take another one for it.
    """
    turn = turn_end(template, tokenizer) if template else None
    ends = [id_ for id_ in dict.fromkeys((tokenizer.eos_id, turn, *sorted(tokenizer.end_ids))) if is_row(id_, texts)]
    if not ends:
        hint = "name an eos_token in tokenizer_config.json, or an eos_token_id in generation_config.json"
        raise TokenizerError("no token ends a text", file=tokenizer.folder, hint=hint)
    begin = tokenizer.bos_id
    if begin is None:  # Qwen's: no text begins with it, but where none is said llama.cpp takes token 11
        begin = read_tokenizer_files(tokenizer.folder).bos_id
    others = [id_ for id_ in ends[1:] if id_ == turn or texts[id_] not in END_NAMES]
    ids = {"bos": begin, "eos": ends[0], "unknown": tokenizer.unk_id, "padding": tokenizer.pad_id}
    ids |= dict(zip(("eot", "eom"), others, strict=False))
    return {
        **{f"tokenizer.ggml.{name}_token_id": id_ for name, id_ in ids.items() if is_row(id_, texts)},
        "tokenizer.ggml.add_bos_token": tokenizer.adds_bos,
        "tokenizer.ggml.add_eos_token": False,
        **({"tokenizer.chat_template": template.source} if template else {}),
    }


def is_row(id_: int | None, texts: Sequence[str]) -> TypeGuard[int]:
    """Whether there is such a token: a config may name -1, or one of another model."""
    return id_ is not None and 0 <= id_ < len(texts)


def turn_end(template: ChatTemplate, tokenizer: Tokenizer) -> int | None:
    """The control token that the template puts behind an answer; None where it puts none."""
    try:
        text = template.render([{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}])
    except TemplateError:
        return None
    behind = text.rpartition("answer")[2]
    found = [(behind.index(mark), -len(mark), id_) for mark, id_ in tokenizer.control.items() if mark in behind]
    return min(found)[2] if found else None
