"""A tokenizer becomes keys that make llama.cpp tokenise alike; what it would tokenise otherwise is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetune.errors import TokenizerError
from edgetune.export.gguf_vocabulary import read_vocabulary
from edgetune.text.piece_vocabulary import read_piece_model
from tests.parity.gguf_models import CHATML, write_byte_level, write_sentencepiece

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
CHAT = {"<|im_start|>": True, "<|im_end|>": True, "<think>": False, "<|tool|>": False}
NAMES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|tool|>"}


def key(keys: dict[str, Any], name: str) -> Any:
    return keys.get(f"tokenizer.ggml.{name}")


@pytest.fixture
def byte_level(tmp_path: Path) -> tuple[Path, int]:
    """A folder with a byte-level tokenizer, and its size."""
    return tmp_path, write_byte_level(tmp_path, "llama-bpe", CHAT, NAMES, CHATML)


def change(folder: Path, edit: Callable[[dict[str, Any]], object], file: str = "tokenizer.json") -> None:
    values = json.loads((folder / file).read_text())
    edit(values)
    (folder / file).write_text(json.dumps(values))


def test_byte_level_tokens_types_and_padding(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    keys = read_vocabulary(folder, size + 3)
    assert (key(keys, "model"), key(keys, "pre")) == ("gpt2", "llama-bpe")
    assert key(keys, "tokens")[-7:] == [*CHAT, f"[PAD{size}]", f"[PAD{size + 1}]", f"[PAD{size + 2}]"]
    assert key(keys, "token_type")[-7:] == [CONTROL, CONTROL, USER_DEFINED, CONTROL, UNUSED, UNUSED, UNUSED]
    assert set(key(keys, "token_type")[: size - 4]) == {NORMAL}
    assert len(key(keys, "tokens")) == len(key(keys, "token_type")) == size + 3
    assert key(keys, "scores") is None


def test_special_ids_and_the_template(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    keys = read_vocabulary(folder, size)
    assert [key(keys, f"{name}_token_id") for name in ("bos", "eos", "padding", "eot")] == [size - 4, size - 3, size - 1, None]
    assert [key(keys, f"add_{what}") for what in ("bos_token", "eos_token", "space_prefix")] == [False, False, False]
    assert keys["tokenizer.chat_template"] == CHATML


def test_a_mark_beyond_the_embedding_that_nobody_asks_for_is_left_out(tmp_path: Path) -> None:
    """Gemma 3's small models: their tokenizer's <image_soft_token> is one row too far."""
    size = write_sentencepiece(tmp_path, {"<image_soft_token>": True}, prefix=False)
    keys = read_vocabulary(tmp_path, size - 1)
    assert len(key(keys, "tokens")) == len(key(keys, "scores")) == size - 1
    assert "<image_soft_token>" not in key(keys, "tokens") and key(keys, "add_space_prefix") is False
    with pytest.raises(TokenizerError, match=f"has {size} tokens"):
        read_vocabulary(tmp_path, size - 2)


def test_bos_is_added_where_the_tokenizer_adds_it(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    change(folder, lambda values: values.update(add_bos_token=True), "tokenizer_config.json")
    assert key(read_vocabulary(folder, size), "add_bos_token") is True


def test_no_bos_of_the_tokenizers_own_is_taken_from_the_config_so_that_llama_cpp_takes_no_other(tmp_path: Path) -> None:
    size = write_byte_level(tmp_path, "qwen2", CHAT, {"eos_token": "<|im_end|>"})
    change(tmp_path, lambda values: values.update(bos_token=None), "tokenizer_config.json")
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": size - 4}))
    keys = read_vocabulary(tmp_path, size)
    assert (key(keys, "bos_token_id"), key(keys, "add_bos_token")) == (size - 4, False)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": size + 5}))
    assert key(read_vocabulary(tmp_path, size), "bos_token_id") is None


def test_merges_as_pairs_and_as_texts_are_the_same(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    pairs = key(read_vocabulary(folder, size), "merges")
    change(folder, lambda values: values["model"].update(merges=[" ".join(pair) for pair in values["model"]["merges"]]))
    assert key(read_vocabulary(folder, size), "merges") == pairs
    assert all(len(merge.split(" ")) == 2 for merge in pairs)


def test_the_end_of_a_turn_that_is_not_the_end_of_the_text(tmp_path: Path) -> None:
    size = write_byte_level(tmp_path, "llama-bpe", CHAT, {"eos_token": "<|tool|>"}, CHATML)
    keys = read_vocabulary(tmp_path, size)
    assert (key(keys, "eos_token_id"), key(keys, "eot_token_id"), key(keys, "eom_token_id")) == (size - 1, size - 3, None)


def test_other_ends_that_llama_cpp_would_not_know(tmp_path: Path) -> None:
    size = write_byte_level(tmp_path, "llama-bpe", CHAT, {"eos_token": "<|tool|>"}, CHATML)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [size - 1, size - 4]}))
    keys = read_vocabulary(tmp_path, size)
    assert (key(keys, "eot_token_id"), key(keys, "eom_token_id")) == (size - 3, size - 4)


def test_ids_that_no_token_has_are_left_out(tmp_path: Path) -> None:
    size = write_byte_level(tmp_path, "llama-bpe", CHAT, {"eos_token": "<|im_end|>"})
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"bos_token_id": size + 9, "eos_token_id": [-1, size + 9, size - 4]})
    )
    keys = read_vocabulary(tmp_path, size)
    assert [key(keys, f"{name}_token_id") for name in ("bos", "eos", "eot", "eom")] == [None, size - 3, size - 4, None]


def test_a_text_that_nothing_ends_is_refused(tmp_path: Path) -> None:
    size = write_byte_level(tmp_path, "llama-bpe", {"<x>": True}, {})
    with pytest.raises(TokenizerError, match="no token ends a text") as caught:
        read_vocabulary(tmp_path, size)
    assert "eos_token" in caught.value.hint


def test_more_tokens_than_rows_names_both_numbers(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    with pytest.raises(TokenizerError, match=f"has {size} tokens, config.json and the embedding have {size - 1}"):
        read_vocabulary(folder, size - 1)


@pytest.mark.parametrize(("normalizer", "words"), [({"type": "NFKC"}, "NFKC"), ({"type": "Lowercase"}, "Lowercase")])
def test_a_normaliser_that_llama_cpp_has_not_is_refused(
    byte_level: tuple[Path, int], normalizer: dict[str, Any], words: str
) -> None:
    folder, size = byte_level
    change(folder, lambda values: values.update(normalizer=normalizer))
    with pytest.raises(TokenizerError, match=f"no normalizer {words}"):
        read_vocabulary(folder, size)
    change(folder, lambda values: values.update(normalizer={"type": "NFC"}))
    read_vocabulary(folder, size)


def test_marks_inside_words_are_refused(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    change(folder, lambda values: values["model"].update(end_of_word_suffix="</w>"))
    with pytest.raises(TokenizerError, match="no marks inside words"):
        read_vocabulary(folder, size)


def test_two_tokens_of_one_text_are_refused(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    change(folder, lambda values: values["added_tokens"][2].update(content=f"[PAD{size}]"))
    change(folder, lambda values: values.pop("added_tokens_decoder"), "tokenizer_config.json")
    with pytest.raises(TokenizerError, match=rf"'\[PAD{size}\]' is the text of two tokens, {size - 2} and {size}"):
        read_vocabulary(folder, size + 1)


def test_a_token_with_a_nul_is_refused(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    change(folder, lambda values: values["added_tokens"][2].update(content="a\0b"))
    change(folder, lambda values: values.pop("added_tokens_decoder"), "tokenizer_config.json")
    with pytest.raises(TokenizerError, match="holds a NUL character"):
        read_vocabulary(folder, size)


@pytest.mark.parametrize("model", [True, False])
def test_sentencepiece_from_either_file(tmp_path: Path, model: bool) -> None:
    size = write_sentencepiece(tmp_path, CHAT, CHATML, model)
    keys = read_vocabulary(tmp_path, size + 1)
    assert (key(keys, "model"), key(keys, "pre")) == ("llama", "default")
    assert key(keys, "tokens")[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert key(keys, "token_type")[1:5] == [CONTROL, CONTROL, BYTE, BYTE]
    assert key(keys, "token_type")[-5:] == [CONTROL, CONTROL, USER_DEFINED, CONTROL, UNUSED]
    assert key(keys, "scores")[-1] == -10000
    assert (key(keys, "add_bos_token"), key(keys, "add_space_prefix")) == (True, True)
    assert (key(keys, "bos_token_id"), key(keys, "eos_token_id"), key(keys, "eot_token_id")) == (1, 2, size - 3)
    assert key(keys, "merges") is None


def test_scores_from_merges_are_in_the_order_of_the_models_own(tmp_path: Path) -> None:
    (tmp_path / "pieces").mkdir()
    (tmp_path / "json").mkdir()
    size = write_sentencepiece(tmp_path / "pieces", {})
    write_sentencepiece(tmp_path / "json", {}, model=False)
    own, derived = (key(read_vocabulary(tmp_path / kind, size), "scores") for kind in ("pieces", "json"))
    made = [id_ for id_ in range(259, size) if derived[id_] > -1000]
    assert len(made) > 40
    assert sorted(made, key=own.__getitem__) == sorted(made, key=derived.__getitem__)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizers/mistral-7b-v0.1", "weights/stories260K-hf"])
def test_scores_from_real_merges_are_in_the_order_of_the_models_own(assets: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(assets / name, tmp_path / "model")
    pieces = read_piece_model(folder / "tokenizer.model").pieces
    (folder / "tokenizer.model").chmod(0o600)
    folder.chmod(0o700)
    (folder / "tokenizer.model").unlink()
    derived = key(read_vocabulary(folder, len(pieces)), "scores")
    made = [id_ for id_ in range(len(pieces)) if derived[id_] != -1000]
    assert len(made) > 100
    assert sorted(made, key=lambda id_: (pieces[id_].score, derived[id_])) == sorted(made, key=derived.__getitem__)


@pytest.mark.parametrize("fault", ["apart", "missing"])
def test_merges_that_no_scores_express_are_refused(tmp_path: Path, fault: str) -> None:
    size = write_sentencepiece(tmp_path, {}, model=False)

    def spoil(values: dict[str, Any]) -> None:
        merges = values["model"]["merges"]
        made = ["".join(pair) for pair in merges]
        second = next(at for at in range(1, len(made)) if made[at] == made[at - 1])
        merge = merges.pop(second)
        if fault == "apart":
            merges.insert(0, merge)

    change(tmp_path, spoil)
    with pytest.raises(TokenizerError, match="merges are not those of a SentencePiece model"):
        read_vocabulary(tmp_path, size)


def test_a_vocabulary_without_single_bytes_is_refused(tmp_path: Path) -> None:
    size = write_sentencepiece(tmp_path, {}, model=False)

    def rename(values: dict[str, Any]) -> None:
        vocab = values["model"]["vocab"]
        vocab["<0xZZ>"] = vocab.pop("<0xE9>")

    change(tmp_path, rename)
    with pytest.raises(TokenizerError, match="no tokens for single bytes") as caught:
        read_vocabulary(tmp_path, size)
    assert "byte_fallback" in caught.value.hint


def test_a_token_that_only_the_config_adds_is_found_in_text(byte_level: tuple[Path, int]) -> None:
    folder, size = byte_level
    change(folder, lambda values: values["added_tokens"].pop())
    assert key(read_vocabulary(folder, size), "token_type")[-2:] == [USER_DEFINED, CONTROL]


def test_a_step_that_is_not_sentencepieces_is_refused(tmp_path: Path) -> None:
    size = write_sentencepiece(tmp_path, {}, model=False)
    change(tmp_path, lambda values: values["normalizer"]["normalizers"].append({"type": "NFKC"}))
    with pytest.raises(TokenizerError, match="no step NFKC"):
        read_vocabulary(tmp_path, size)


@pytest.mark.parametrize(("scheme", "answer"), [("always", True), ("first", True), ("never", False)])
def test_the_newer_form_of_the_dummy_space(tmp_path: Path, scheme: str, answer: bool) -> None:
    size = write_sentencepiece(tmp_path, {}, model=False)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    change(tmp_path, lambda values: values.update(normalizer=None, pre_tokenizer=metaspace))
    assert key(read_vocabulary(tmp_path, size), "add_space_prefix") is answer


def test_two_files_of_different_models_are_refused(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, {}, model=True)
    size = write_sentencepiece(tmp_path, {}, model=False)

    def swap(values: dict[str, Any]) -> None:
        vocab = values["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]

    read_vocabulary(tmp_path, size)
    change(tmp_path, swap)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json and tokenizer\.model disagree on token"):
        read_vocabulary(tmp_path, size)
