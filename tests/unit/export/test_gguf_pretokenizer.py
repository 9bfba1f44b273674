"""A pre-tokenizer gets the name under which llama.cpp splits alike, however it is written; others are refused."""

from pathlib import Path
from typing import Any

import pytest

from edgetune.errors import TokenizerError
from edgetune.export.gguf_pretokenizer import pre_tokenizer_name
from tests.parity.gguf_models import LLAMA3, PRE_TOKENIZERS, QWEN2, byte_level_step, split_step

FILE = Path("tokenizer.json")


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_known_ones(name: str) -> None:
    known = PRE_TOKENIZERS[name]
    assert pre_tokenizer_name(known.steps, known.ignore_merges, FILE) == name


def test_the_same_split_in_other_words() -> None:
    removed = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Removed", "invert": True}
    nested = {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [removed]}, byte_level_step(False)]}
    assert pre_tokenizer_name(nested, False, FILE) == "qwen2"
    literal = split_step(LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n"))
    assert pre_tokenizer_name(literal, True, FILE) == "llama-bpe"
    assert pre_tokenizer_name({"type": "ByteLevel", "add_prefix_space": False}, False, FILE) == "gpt-2"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (split_step(LLAMA3.replace("{1,3}", "{1,4}")), "Split"),
        ({"type": "BertPreTokenizer"}, "BertPreTokenizer"),
        ({"type": "Whitespace"}, "Whitespace"),
        (byte_level_step(True) | {"add_prefix_space": True}, "ByteLevel"),
        (
            {"type": "Sequence", "pretokenizers": [byte_level_step(True), {"type": "Digits", "individual_digits": True}]},
            "Digits",
        ),
        ({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "MergedWithNext", "invert": False}, "Split"),
        (None, r"\(none\)"),
        ({"type": "\x1b[2J"}, r"\\x1b"),
    ],
)
def test_unknown_ones_are_refused_by_name(steps: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(TokenizerError, match=f"the pre-tokenizer .*{words}.* has no name in llama.cpp") as caught:
        pre_tokenizer_name(steps, False, FILE)
    assert "llama-bpe" in caught.value.hint


def test_a_known_split_with_another_rule_for_merges_is_another_one() -> None:
    with pytest.raises(TokenizerError, match="ignore_merges"):
        pre_tokenizer_name(PRE_TOKENIZERS["qwen2"].steps, True, FILE)
