"""The starter's corpus and tokenizer, and the demo's rows: true, well-formed, and tested on what was not taught."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import sentencepiece

from edgetune.text.chat_template import load_template
from edgetune.text.tokenizer import load_tokenizer

STARTER = Path(__file__).parents[3] / "models" / "starter"
DEMO = STARTER / "demo"
TOKENS_A_ROW = 128


def rows(file: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]


def generate(out: Path) -> Path:
    subprocess.run([sys.executable, STARTER / "make_corpus.py", "--out", out, "--rows", "3000"], check=True)
    return out


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tokenizer() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(STARTER / "tokenizer.model"))


def test_the_same_seed_writes_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    again = generate(tmp_path)
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl"):
        assert (again / name).read_bytes() == (corpus / name).read_bytes()


def test_every_row_is_a_whole_conversation(corpus: Path) -> None:
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl"):
        for messages in rows(corpus / name):
            spoken = [message["role"] for message in messages if message["role"] != "system"]
            assert spoken == ["user", "assistant"] * (len(spoken) // 2)
            assert len(messages) - len(spoken) == (messages[0]["role"] == "system")
            assert all(message["content"] == message["content"].strip() != "" for message in messages)


def test_the_english_has_no_slips_of_the_templates(corpus: Path) -> None:
    text = (corpus / "train.jsonl").read_text("utf-8")
    assert not re.search(r"\b[Aa] [aeiou]\w*", text)
    assert not re.search(r"\b[Aa]n (?!hour)[^aeiou\W]\w*", text)
    replies = [message["content"] for messages in rows(corpus / "train.jsonl") for message in messages]
    assert not [reply for reply in replies if re.search(r"[{}–_]|  |\.\.", reply)]


def test_sums_are_right(corpus: Path) -> None:
    sums = re.findall(r"\b(\d+) ([+-]) (\d+) = (\d+)", (corpus / "train.jsonl").read_text("utf-8"))
    assert len(sums) > 100
    for a, sign, b, result in sums:
        assert int(a) + (int(b) if sign == "+" else -int(b)) == int(result)


def asked_with_context(file: Path) -> set[str]:
    """Every question together with all that stands before it."""
    turns = ((messages[:end], messages[end]) for messages in rows(file) for end in range(len(messages)))
    return {json.dumps([*before, turn]) for before, turn in turns if turn["role"] == "user"}


def test_no_test_question_is_trained_on_and_no_row_is_in_two_files(corpus: Path) -> None:
    tested = asked_with_context(corpus / "test.jsonl")
    assert len(tested) > 100
    assert not tested & asked_with_context(corpus / "train.jsonl")
    texts = ((corpus / f"{name}.jsonl").read_text("utf-8") for name in ("train", "valid", "test"))
    lines = [line for text in texts for line in text.splitlines()]
    assert len(set(lines)) == len(lines)


def test_a_held_out_sum_is_taught_in_no_form(corpus: Path) -> None:
    told = r"(?:What is|How much is|Add|out)? ?(\d+) (?:\+|plus|and) (\d+)\b"
    trained = {sum_ for messages in rows(corpus / "train.jsonl") for sum_ in re.findall(told, messages[0]["content"])}
    questions = [m[-2]["content"] for m in rows(corpus / "test.jsonl") if re.search(r"\d+ = \d+\.$", m[-1]["content"])]
    tested = {sum_ for question in questions for sum_ in re.findall(told, question)}
    assert tested
    assert not trained & tested


def test_the_tokenizer_has_the_places_that_config_and_template_name(
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> None:
    config = json.loads((STARTER / "config.json").read_text("utf-8"))
    generation = json.loads((STARTER / "generation_config.json").read_text("utf-8"))
    assert tokenizer.vocab_size() == config["vocab_size"]
    assert [tokenizer.piece_to_id(text) for text in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    assert generation["eos_token_id"] == [2, tokenizer.piece_to_id("<|end|>")]
    for role in ("system", "user", "assistant"):
        assert tokenizer.is_control(tokenizer.piece_to_id(f"<|{role}|>"))


@pytest.mark.parametrize("text", ["Hello, World! 1 + 2 = 3", "Zwölf Boxkämpfer 🦊", "tabs\tand\nlines", "<|end|> is text"])
def test_the_tokenizer_keeps_every_byte(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not any(tokenizer.is_control(token) or tokenizer.is_unknown(token) for token in ids)


def test_the_template_trains_replies_and_their_ends_alone() -> None:
    tokenizer = load_tokenizer(STARTER)
    template = load_template(STARTER, tokenizer)
    assert template
    told = [
        ("system", "You are Pip."),
        ("user", "Hi!"),
        ("assistant", "Hello."),
        ("user", "Bye!"),
        ("assistant", "Bye."),
    ]
    rendered = template.encode([{"role": role, "content": text} for role, text in told])
    assert rendered.ids[0] == tokenizer.bos_id
    trained = [int(token) for token in rendered.ids[rendered.trained]]
    assert trained == [*tokenizer.encode("Hello."), 6, *tokenizer.encode("Bye."), 6]


def words(question: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", question.lower()))


def test_the_demo_files_are_what_their_script_writes() -> None:
    script = load(DEMO / "make_rows.py")
    asked = script.read_desk(DEMO / "desk.md")
    for sign, name in script.FILES.items():
        written = [script.row(question, answer) for mark, question, answer in asked if mark == sign]
        assert (DEMO / name).read_text("utf-8").splitlines() == written


def test_the_demo_asks_what_it_taught_in_other_words() -> None:
    learned, chosen, tested = (rows(DEMO / f"{name}.jsonl") for name in ("train", "valid", "test"))
    assert 300 <= len(learned) <= 500
    assert len(tested) >= 60
    answers = {answer["content"] for _, answer in learned}
    seen = [words(question["content"]) for question, _ in learned + chosen]
    for question, answer in tested:
        assert answer["content"] in answers
        asked = words(question["content"])
        near = [other for other in seen if len(asked & other) / len(asked | other) >= 0.75]
        assert not near, f"{question['content']} is nearly {near}"


def test_no_demo_question_has_two_answers() -> None:
    everything = [row for name in ("train", "valid", "test") for row in rows(DEMO / f"{name}.jsonl")]
    questions = [words(question["content"]) | {question["content"][-1]} for question, _ in everything]
    told = dict(zip(questions, (answer["content"] for _, answer in everything), strict=True))
    assert all(told[key] == answer["content"] for key, (_, answer) in zip(questions, everything, strict=True))


def test_every_demo_row_is_short_and_well_formed(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    for name in ("train", "valid", "test"):
        for messages in rows(DEMO / f"{name}.jsonl"):
            assert [message["role"] for message in messages] == ["user", "assistant"]
            assert sum(2 + len(tokenizer.encode(message["content"])) for message in messages) < TOKENS_A_ROW
