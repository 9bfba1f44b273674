"""Which of llama.cpp's named pre-tokenizers splits text as a tokenizer.json says; one that has no name there is refused.

llama.cpp has no way to write the split's regular expressions into a file: it knows a list of names, each of which stands
for expressions in its source, src/llama-vocab.cpp. Two tokenizers with the same expressions may go by one name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetune.errors import TokenizerError
from edgetune.files import clean

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SIGNS, SIGNS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
LLAMA3 = "|".join([ENGLISH, WORD, r"\p{N}{1,3}", SIGNS, SPACE])
QWEN2 = "|".join([ENGLISH, WORD, DIGIT, SIGNS, SPACE])
QWEN35 = "|".join([ENGLISH, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", DIGIT, r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", SPACE])


def cased(ending: str, digits: str) -> str:
    """Words that are divided where a capital begins: Tekken's expression, and GPT-4o's with its endings."""
    first = r"[^\r\n\p{L}\p{N}]?"
    words = [f"{first}{UPPER}*{LOWER}+{ending}", f"{first}{UPPER}+{LOWER}*{ending}"]
    return "|".join([*words, digits, SIGNS_AND_SLASH, SPACE])


# The expressions, applied one after the other, and whether a word that is itself a token skips the merges.
NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "smaug-bpe",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
    ((DIGIT, GPT2), False): "smollm",
    ((GPT2,), False): "gpt-2",
    ((cased("", DIGIT),), True): "tekken",
    ((cased(f"{ENGLISH}?", r"\p{N}{1,3}"),), False): "gpt-4o",
}


def pre_tokenizer_name(pre_tokenizer: Mapping[str, Any] | None, ignore_merges: bool, file: Path) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level tokenizer.json.

    Raises:
        TokenizerError: llama.cpp has none that splits alike.
    """
    steps = flattened(pre_tokenizer)
    expressions = tuple(expression for step in steps for expression in expressions_of(step))
    name = NAMES.get((expressions, ignore_merges))
    if name is None:
        raise TokenizerError(
            f"the pre-tokenizer {described(steps)}{', ignore_merges' if ignore_merges else ''} has no name in llama.cpp",
            file=file,
            hint="known: " + ", ".join(NAMES.values()) + "; the model can be trained and merged, but not exported to GGUF",
        )
    return name


def flattened(step: Any) -> list[Mapping[str, Any]]:
    """The steps of a pre-tokenizer or normalizer, sequences opened."""
    if not isinstance(step, dict):
        return []
    if step.get("type") != "Sequence":
        return [step]
    inner = step.get("pretokenizers") or step.get("normalizers") or []
    return [part for entry in inner for part in flattened(entry)]


def expressions_of(step: Mapping[str, Any]) -> list[str]:
    """The regular expressions that one step stands for; its own description where it is none of those we know."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return [GPT2] if step.get("use_regex", True) else []
        case {"type": "Digits", "individual_digits": True}:
            return [DIGIT]
        case {"type": "Split", "pattern": {"Regex": str(expression)}, "behavior": "Isolated", "invert": False} | {
            "type": "Split",
            "pattern": {"Regex": str(expression)},
            "behavior": "Removed",
            "invert": True,
        }:
            return [expression.replace("\r", r"\r").replace("\n", r"\n")]
        case _:
            return [described([step])]


def described(steps: list[Mapping[str, Any]]) -> str:
    """A pre-tokenizer in a few words, for a message."""
    words = [str(step.get("type")) + (f" {json.dumps(step['pattern'])}" if "pattern" in step else "") for step in steps]
    return clean(" + ".join(words))[:300] or "(none)"
