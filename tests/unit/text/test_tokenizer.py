import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from edgetune.errors import TokenizerError
from edgetune.text.tokenizer import Tokenizer, load_tokenizer
from edgetune.text.tokenizer_files import AddedToken
from edgetune.text.vocabulary import pattern_of
from tests.parity.gguf_models import write_sentencepiece

CONTROL_TEXTS = ["<|im_start|>", "<|im_end|>", "</s>", "<s>", "<|user|>", "<|end|>", "<|endoftext|>", "[INST]"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
chat_texts = st.lists(st.sampled_from([*CONTROL_TEXTS, "\n", " ", "  hello", "user\n", "é🦙", "▁"]), max_size=12).map("".join)


@given(text=st.one_of(texts, chat_texts), control=st.booleans(), start=st.booleans())
def test_a_text_comes_back_as_it_was(
    byte_tokenizer: Tokenizer, piece_tokenizer: Tokenizer, text: str, control: bool, start: bool
) -> None:
    for tokenizer in (byte_tokenizer, piece_tokenizer):
        ids = tokenizer.encode(text, control=control, start=start)
        expected = text.replace("▁", " ") if tokenizer.kind == "sentencepiece" else text
        assert tokenizer.decode(ids, control=True, start=start) == expected


@given(text=st.one_of(texts, chat_texts))
def test_control_tokens_in_a_text_are_text(byte_tokenizer: Tokenizer, piece_tokenizer: Tokenizer, text: str) -> None:
    for tokenizer in (byte_tokenizer, piece_tokenizer):
        assert not tokenizer.control_ids & set(tokenizer.encode(text))


def test_control_tokens_are_parsed_where_that_is_asked_for(byte_tokenizer: Tokenizer, piece_tokenizer: Tokenizer) -> None:
    for tokenizer, token in ((byte_tokenizer, "<|im_end|>"), (piece_tokenizer, "<|end|>")):
        ids = tokenizer.encode(f"one {token} two", control=True)
        assert ids.count(tokenizer.control[token]) == 1
        assert tokenizer.decode(ids) == "one  two"
        assert tokenizer.decode(ids, control=True) == f"one {token} two"


@given(ids=st.lists(st.integers(0, 399), max_size=30), control=st.booleans(), start=st.booleans())
def test_a_stream_gives_whole_characters_and_in_the_end_all_of_them(
    byte_tokenizer: Tokenizer, piece_tokenizer: Tokenizer, ids: list[int], control: bool, start: bool
) -> None:
    for tokenizer in (byte_tokenizer, piece_tokenizer):
        stream = tokenizer.stream(control=control, start=start)
        pieces = [stream.push(token) for token in ids]
        whole = b"".join(tokenizer.piece(token) for token in ids if control or token not in tokenizer.control_ids)
        streamed = "".join(pieces) + stream.end()
        assert streamed == tokenizer.decode(ids, control=control, start=start)
        if tokenizer.kind == "bpe" or not start:
            assert streamed.replace(" ", "") == whole.decode("utf-8", "replace").replace(" ", "")


def test_only_control_tokens_that_nobody_asks_for_may_lie_beyond_the_embedding(tmp_path: Path) -> None:
    size = write_sentencepiece(tmp_path, {"word": False, "<image>": True, "<sound>": True})
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.fits(rows) for rows in (size + 1, size, size - 1, size - 2, size - 3, 1)] == [True] * 4 + [False] * 2
    size = write_sentencepiece(tmp_path, {"<|im_end|>": True, "<image>": True})
    assert [load_tokenizer(tmp_path).fits(rows) for rows in (size, size - 1, size - 2)] == [
        True,
        True,
        False,
    ]  # an end of turns


def test_a_character_of_several_tokens_comes_at_once(byte_tokenizer: Tokenizer) -> None:
    ids = byte_tokenizer.encode("🦙")
    stream = byte_tokenizer.stream()
    assert [stream.push(token) for token in ids] == [""] * (len(ids) - 1) + ["🦙"]
    assert stream.end() == ""
    stream.push(ids[0])
    assert stream.end() == "�"


def test_the_dummy_space_is_put_and_taken_where_a_text_begins(piece_tokenizer: Tokenizer) -> None:
    fresh, continued = piece_tokenizer.encode("house"), piece_tokenizer.encode("house", start=False)
    assert piece_tokenizer.piece(fresh[0]).startswith(b" ") and not piece_tokenizer.piece(continued[0]).startswith(b" ")
    assert piece_tokenizer.decode(fresh) == "house" and piece_tokenizer.decode(fresh, start=False) == " house"
    after = piece_tokenizer.encode("<|end|>house", control=True)
    assert after == [piece_tokenizer.control["<|end|>"], *fresh]


def test_named_tokens_and_ends(byte_tokenizer: Tokenizer, piece_tokenizer: Tokenizer) -> None:
    assert byte_tokenizer.bos_id is None and not byte_tokenizer.adds_bos
    assert byte_tokenizer.eos_id == byte_tokenizer.control["<|im_end|>"]
    assert byte_tokenizer.pad_id == byte_tokenizer.control["<|endoftext|>"]
    assert byte_tokenizer.end_ids == {byte_tokenizer.control[text] for text in ("<|im_end|>", "<|endoftext|>", "</s>")}
    assert (piece_tokenizer.bos_id, piece_tokenizer.eos_id, piece_tokenizer.unk_id, piece_tokenizer.adds_bos) == (1, 2, 0, True)
    assert piece_tokenizer.end_ids == {2, piece_tokenizer.control["<|end|>"]}
    assert byte_tokenizer.vocab_size == len(Library.from_file(str(byte_tokenizer.folder / "tokenizer.json")).get_vocab())


def test_ids_that_no_token_has_add_nothing(byte_tokenizer: Tokenizer, piece_tokenizer: Tokenizer) -> None:
    for tokenizer in (byte_tokenizer, piece_tokenizer):
        assert tokenizer.piece(tokenizer.vocab_size + 5) == b""


def test_the_fingerprint_follows_the_files(byte_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(byte_folder, tmp_path / "copy")
    assert load_tokenizer(copy).fingerprint == load_tokenizer(byte_folder).fingerprint
    (copy / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert load_tokenizer(copy).fingerprint != load_tokenizer(byte_folder).fingerprint


def test_tokenizer_json_comes_before_tokenizer_model(assets: Path, tmp_path: Path) -> None:
    both = assets / "tokenizers" / "mistral-7b-v0.1"
    only_model = tmp_path / "model"
    only_model.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(both / name, only_model)
    one, other = load_tokenizer(both), load_tokenizer(only_model)
    assert type(one.vocabulary).__name__ == "JsonVocabulary" and type(other.vocabulary).__name__ == "PieceVocabulary"
    assert (one.kind, one.vocab_size, one.bos_id, one.eos_id, one.adds_bos) == (other.kind, other.vocab_size, 1, 2, True)


@pytest.mark.parametrize("folder", ["tokenizers/mistral-7b-v0.1", "weights/stories260K-hf"])
def test_both_libraries_read_a_vocabulary_alike(assets: Path, tmp_path: Path, folder: str) -> None:
    shutil.copy(assets / folder / "tokenizer.model", tmp_path)
    shutil.copy(assets / folder / "tokenizer_config.json", tmp_path)
    ours, theirs = load_tokenizer(tmp_path), load_tokenizer(assets / folder)
    strings = json.loads((assets / "datasets/naughty-strings/blns.json").read_text())
    speeches = (assets / "datasets/tinyshakespeare/input.txt").read_text().split("\n\n")[:200]
    for text in [*strings, *speeches, "  two  spaces ", "<s>hi</s>  there<s>"]:
        for control in (True, False):
            for start in (True, False):
                assert ours.encode(text, control=control, start=start) == theirs.encode(text, control=control, start=start), (
                    text
                )
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("name", ["qwen2.5", "phi-3-mini", "mistral-7b-v0.1", "smollm2"])
@given(parts=st.lists(st.one_of(st.sampled_from(CONTROL_TEXTS), st.text(" \nab<|é9", max_size=8)), max_size=10))
def test_control_parsing_equals_the_library(assets: Path, name: str, parts: list[str]) -> None:
    tokenizer, library = cached(assets, name)
    text = unicodedata.normalize("NFC", "".join(parts))
    assert tokenizer.encode(text, control=True) == library.encode(text, add_special_tokens=False).ids


CACHE: dict[str, tuple[Tokenizer, Library]] = {}


def cached(assets: Path, name: str) -> tuple[Tokenizer, Library]:
    if name not in CACHE:
        folder = assets / "tokenizers" / name
        CACHE[name] = load_tokenizer(folder), Library.from_file(str(folder / "tokenizer.json"))
    return CACHE[name]


def test_added_tokens_of_the_small_files_reach_the_vocabulary(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    size = load_tokenizer(folder).vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"<tool>": size, "<|im_end|>": size + 1}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == size + 2
    assert size in tokenizer.encode("a <tool> b"), "an added token that is not special is text with an id of its own"
    assert tokenizer.control["<|im_end|>"] == size + 1 and size + 1 in tokenizer.end_ids
    assert size + 1 not in tokenizer.encode("a <|im_end|> b")
    assert tokenizer.decode(tokenizer.encode("a<tool>b")) == "a<tool>b"


def test_user_defined_pieces_that_are_flagged_special_are_control_tokens(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "text.txt").write_text("some words to learn\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"), model_type="bpe", vocab_size=290,
        byte_fallback=True, user_defined_symbols=["<turn>", "<tool>"], minloglevel=2, num_threads=1, hard_vocab_limit=False,
    )  # fmt: skip
    flags = {"content": "<turn>", "special": True}
    turn = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).piece_to_id("<turn>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {str(turn): flags}}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.control["<turn>"] == turn and "<tool>" not in tokenizer.control
    assert turn not in tokenizer.encode("a<turn>b<tool>c") and turn in tokenizer.encode("a<turn>b", control=True)
    assert tokenizer.vocabulary.id_of("<tool>") in tokenizer.encode("a<turn>b<tool>c")
    assert tokenizer.decode(tokenizer.encode("a<turn>b<tool> c")) == "a<turn>b<tool> c"


def test_the_longest_added_token_wins_and_words_stay_whole() -> None:
    tokens = [AddedToken("<a", 0), AddedToken("<a>", 1), AddedToken("dog", 2, single_word=True)]
    assert [match[0] for match in pattern_of(tokens).finditer("<a><a dogs dog")] == ["<a>", "<a", "dog"]
    assert not pattern_of([]).search("anything")


def test_truncation_and_padding_of_the_file_are_not_used(byte_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(byte_folder, tmp_path / "copy")
    library = Library.from_file(str(folder / "tokenizer.json"))
    library.enable_truncation(3)
    library.enable_padding(length=8)
    library.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder).encode("Hello, how are you? I am fine.") == load_tokenizer(byte_folder).encode(
        "Hello, how are you? I am fine."
    )


def broken(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", "{", "is damaged"),
        ("tokenizer.json", "[]", "is damaged"),
        ("tokenizer.json", b"\xff\xfe", "is damaged"),
        ("tokenizer.json", "[" * 200_000, "is damaged"),
        ("tokenizer.json", '{"model": {"type": "Unigram", "vocab": [["a", 0.1]]}}', "is a Unigram tokenizer"),
        ("tokenizer.json", '{"model": {"type": "WordPiece", "vocab": {"a": 0}}}', "is a WordPiece tokenizer"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}}}', "empty vocabulary"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}', "one id to two tokens"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "neither byte-level"),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "x"]], "byte_fallback": true}}',
            "is damaged",
        ),
        ("tokenizer_config.json", '{"eos_token": 5}', "is damaged"),
        ("tokenizer_config.json", '{"eos_token": "<|nowhere|>"}', "is not in the vocabulary"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "<a>"}}}', "is damaged"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"9000": {"content": "<far>", "special": true}}}',
            "cannot have the id 9000",
        ),
        ("special_tokens_map.json", '{"bos_token": ["<s>"]}', "is damaged"),
        ("added_tokens.json", '["a"]', "is damaged"),
        ("generation_config.json", '{"eos_token_id": "two"}', "is damaged"),
    ],
)
def test_damaged_files_are_named(byte_folder: Path, tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    folder = shutil.copytree(byte_folder, tmp_path / "copy")
    broken(folder, name, content)
    with pytest.raises(TokenizerError, match=said) as caught:
        load_tokenizer(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 10, 1000, 5000])
def test_a_cut_off_sentencepiece_model_is_refused(tiny_model: Path, tmp_path: Path, cut: int) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "copy")
    data = (folder / "tokenizer.model").read_bytes()
    broken(folder, "tokenizer.model", data[:cut])
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        load_tokenizer(folder)


@given(at=st.integers(0, 6000), byte=st.integers(0, 255))
def test_a_changed_byte_never_gives_a_bare_error(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    data = bytearray((tiny_model / "tokenizer.model").read_bytes())
    data[at % len(data)] = byte
    broken(folder, "tokenizer.model", bytes(data))
    try:
        load_tokenizer(folder).encode("The bird sees a house.")
    except TokenizerError as problem:
        assert "tokenizer" in str(problem)


def test_no_tokenizer_and_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json and no tokenizer\.model") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.hint
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(TokenizerError, match="not a regular file"):
        load_tokenizer(tmp_path)


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "text.txt").write_text("some words to learn\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"), model_type="unigram", vocab_size=20,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    with pytest.raises(TokenizerError, match="not a BPE model") as caught:
        load_tokenizer(tmp_path)
    assert "model_type=bpe" in caught.value.hint


def test_minus_one_stands_for_no_token(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"bos_token_id": -1, "eos_token_id": [-1, 2]}')
    tokenizer = load_tokenizer(folder)
    assert -1 not in tokenizer.end_ids and 2 in tokenizer.end_ids
