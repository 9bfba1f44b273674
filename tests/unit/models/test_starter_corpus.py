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

pytestmark = pytest.mark.slow  # together

STARTER = Path(__file__).parents[3] / "models" / "starter"
DEMO = STARTER / "demo"
TOKENS_A_ROW = 128
LEARNED = ("train", "practice", "drills")
FILES = (*LEARNED, "valid", "drills_valid", "test")


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
    for file in FILES:
        assert (again / f"{file}.jsonl").read_bytes() == (corpus / f"{file}.jsonl").read_bytes()


def test_every_row_is_a_whole_conversation(corpus: Path) -> None:
    for file in FILES:
        for messages in rows(corpus / f"{file}.jsonl"):
            spoken = [message["role"] for message in messages if message["role"] != "system"]
            assert spoken == ["user", "assistant"] * (len(spoken) // 2)
            assert len(messages) - len(spoken) == (messages[0]["role"] == "system")
            assert all(message["content"] == message["content"].strip() != "" for message in messages)


@pytest.mark.parametrize("name", LEARNED)
def test_the_english_has_no_slips_of_the_templates(corpus: Path, name: str) -> None:
    text = (corpus / f"{name}.jsonl").read_text("utf-8")
    assert not re.search(r"\b[Aa] [aeiou]\w*", text)
    assert not re.search(r"\b[Aa]n (?!hour)[^aeiou\W]\w*", text)
    replies = [message["content"] for messages in rows(corpus / f"{name}.jsonl") for message in messages]
    assert not [reply for reply in replies if re.search(r"[{}–_]|  |\.\.", reply)]


@pytest.mark.parametrize("name", LEARNED)
def test_sums_are_right(corpus: Path, name: str) -> None:
    sums = re.findall(r"\b(\d+) ([+-]) (\d+) = (\d+)", (corpus / f"{name}.jsonl").read_text("utf-8"))
    assert len(sums) > 100
    for a, sign, b, result in sums:
        assert int(a) + (int(b) if sign == "+" else -int(b)) == int(result)


def drilled(corpus: Path, skill: str) -> list[tuple[str, str]]:
    """Questions and answers of the drills' first turns."""
    told = [json.loads(line) for line in (corpus / "drills.jsonl").read_text("utf-8").splitlines()]
    return [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in told if row["skill"] == skill]


def test_a_word_sum_ends_with_the_number_that_its_sum_has(corpus: Path) -> None:
    answers = [answer for _, answer in drilled(corpus, "word sums")]
    assert len(answers) > 20
    for answer in answers:
        (result,), said = re.findall(r"= (\d+)\. ", answer), answer.rpartition("= ")[2]
        assert re.findall(r"\d+", said) == [result, result]


def test_letters_are_told_from_the_spelling(corpus: Path) -> None:
    answers = [answer for _, answer in drilled(corpus, "letters")]
    assert len(answers) > 20
    for answer in answers:
        word, spelled = re.findall(r"^(\w+) is spelled ([\w-]+)\.", answer)[0]
        assert spelled.replace("-", "") == word.lower()
        for which, letter in re.findall(r"The (first|last) letter of \w+ is (\w)\.$", answer):
            assert letter == (spelled[0] if which == "first" else spelled[-1])
        for many in re.findall(r"has (\d+) letters\.$", answer):
            assert int(many) == len(word)


def test_the_odd_one_is_the_one_of_another_kind(corpus: Path) -> None:
    answers = [answer for _, answer in drilled(corpus, "odd one out")]
    assert len(answers) > 10
    for answer in answers:
        told, odd = re.findall(r"^(.*)\. (.*) does not belong\.$", answer)[0]
        kinds = dict(pair.split(": ") for pair in told.lower().split(", "))
        others = {kind for name, kind in kinds.items() if name != odd.lower()}
        assert len(others) == 1 and kinds[odd.lower()] not in others


def test_yes_follows_where_the_fact_says_what_was_asked(corpus: Path) -> None:
    answers = [(q, a) for q, a in drilled(corpus, "yes or no") if re.match(r"Is .* (?:made of|used for) ", q)]
    assert len(answers) > 5
    for question, answer in answers:
        asked = re.sub(r"^Is ", "", question.rstrip("?")).split(" ", 2)
        fact, said = re.findall(r"^(.*), so (yes|no)\.$", answer)[0]
        assert (fact.lower().endswith(asked[-1].partition(" ")[2])) == (said == "yes")


def asked_with_context(file: Path) -> set[str]:
    """Every question together with all that stands before it."""
    turns = ((messages[:end], messages[end]) for messages in rows(file) for end in range(len(messages)))
    return {json.dumps([*before, turn]) for before, turn in turns if turn["role"] == "user"}


@pytest.mark.parametrize("name", LEARNED)
def test_no_test_question_is_trained_on(corpus: Path, name: str) -> None:
    tested = asked_with_context(corpus / "test.jsonl")
    assert len(tested) > 100
    assert not tested & asked_with_context(corpus / f"{name}.jsonl")


@pytest.mark.parametrize("names", [("train", "practice", "valid", "test"), ("drills", "drills_valid", "test")])
def test_no_row_is_in_two_files(corpus: Path, names: tuple[str, ...]) -> None:
    lines = [set((corpus / f"{name}.jsonl").read_text("utf-8").splitlines()) for name in names]
    assert len(set().union(*lines)) == sum(map(len, lines))


def sums_in(text: str) -> set[tuple[str, str, str]]:
    """The sums of a text, in whichever of the forms they are asked for or worked out."""
    listed = re.findall(r"^- numbers: (.*)$", (STARTER / "corpus" / "lists.md").read_text("utf-8"), re.M)[0].split(" | ")
    text = re.sub(r"[a-z]+(?:-[a-z]+)?", lambda m: str(listed.index(m[0])) if m[0] in listed else m[0], text.lower())
    added = re.findall(r"(\d+) (?:\+|plus) (\d+)\b", text) + re.findall(r"\badd (\d+) and (\d+)\b", text)
    taken = re.findall(r"(\d+) (?:-|minus) (\d+)\b", text)
    taken += [(a, b) for b, a in re.findall(r"\btake (\d+) from (\d+)\b", text)]
    return {(a, "+", b) for a, b in added} | {(a, "-", b) for a, b in taken}


@pytest.mark.parametrize("name", LEARNED)
def test_a_held_out_sum_is_taught_in_no_form(corpus: Path, name: str) -> None:
    trained = {sum_ for messages in rows(corpus / f"{name}.jsonl") for turn in messages for sum_ in sums_in(turn["content"])}
    tested = {sum_ for m in rows(corpus / "test.jsonl") for sum_ in sums_in(m[-1]["content"])}
    assert len(tested) > 3
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
