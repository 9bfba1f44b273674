"""Metrics count what they say, and the model is asked as it was trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgetune.adapters.attach import AdaptedModel, open_adapted
from edgetune.architecture.generate import Generator
from edgetune.errors import ConfigError, DataError
from edgetune.evaluation import tasks
from edgetune.evaluation.tasks import Question, answer_all, exact, label, overlap, prompt_ids, readable, task
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.tokenizer import Tokenizer, load_tokenizer


def test_exact_forgives_spaces_and_unicode_forms_and_nothing_else() -> None:
    pairs = [("a  b\n", "a b"), ("caf\u00e9", "cafe\u0301"), ("", ""), ("Yes", "yes"), ("yes.", "yes"), ("a b", "ab")]
    assert [exact([reply], [reference])["accuracy"] for reply, reference in pairs] == [1, 1, 1, 0, 0, 0]
    assert exact(["a", "b", "c", "d"], ["a", "x", "c", "x"]) == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="argument"):
        exact(["a"], ["a", "b"])


def test_label_also_forgives_capitals_and_an_end_mark() -> None:
    pairs = [
        ("Positive.", "positive"),
        (" NEGATIVE !", "negative"),
        ("Stra\u00dfe", "STRASSE"),
        ("positive", "negative"),
        ("a.b", "ab"),
    ]
    assert [label([reply], [reference])["accuracy"] for reply, reference in pairs] == [1, 1, 1, 0, 0]


def test_overlap_is_sacrebleu_s() -> None:
    same = overlap(["the quick brown fox jumps"], ["the quick brown fox jumps"])
    assert same["chrf"] == pytest.approx(100) and same["bleu"] == pytest.approx(100)
    other = overlap(["the quick brown dog sleeps", "yes it is"], ["the quick brown fox jumps", "no it was"])
    assert 10 < other["chrf"] < 80 and 0 < other["bleu"] < 60
    assert overlap(["abc def"], ["xyz uvw"])["chrf"] == 0


def test_a_task_that_is_not_there_is_told_with_those_that_are() -> None:
    assert task("exact") is exact and set(tasks.TASKS) == {"exact", "label", "overlap"}
    with pytest.raises(ConfigError, match="nonsense") as caught:
        task("nonsense")
    assert "exact, label, overlap" in caught.value.hint


# ---- asking ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tiny_model: Path) -> tuple[AdaptedModel, Tokenizer, ChatTemplate]:
    tokenizer = load_tokenizer(tiny_model)
    template = load_template(tiny_model, tokenizer)
    assert template is not None
    return open_adapted(tiny_model), tokenizer, template


Opened = tuple[AdaptedModel, Tokenizer, ChatTemplate]
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who sees the red house?"}]


def test_a_chat_is_asked_through_the_template_with_its_tools(opened: Opened) -> None:
    _, tokenizer, template = opened
    assert prompt_ids(Question(ASK, "I"), tokenizer, template) == template.prompt(ASK)
    assert prompt_ids(Question("Hello", "x"), tokenizer, template) == template.prompt([{"role": "user", "content": "Hello"}])
    told: list[Any] = []

    class Listening:
        def prompt(self, messages: Any, *, tools: Any = None) -> list[int]:
            told.append(tools)
            return [1]

    prompt_ids(Question(ASK, "I", [{"name": "look"}]), tokenizer, Listening())  # pyright: ignore[reportArgumentType]
    assert told == [[{"name": "look"}]]


def test_without_a_template_text_continues_and_chats_are_refused(opened: Opened) -> None:
    _, tokenizer, _ = opened
    assert prompt_ids(Question("I see", "x"), tokenizer, None) == [tokenizer.bos_id, *tokenizer.encode("I see")]
    with pytest.raises(DataError, match="chat template") as caught:
        prompt_ids(Question(ASK, "x"), tokenizer, None)
    assert caught.value.hint
    with pytest.raises(DataError, match="no row has an answer"):
        answer_all(opened[0], tokenizer, None, [], workers=1)


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_are_the_greedy_ones_in_order(workers: int, opened: Opened) -> None:
    model, tokenizer, template = opened
    questions = [
        Question([{"role": "user", "content": f"Who sees the {noun}?"}], noun) for noun in ("house", "bird", "garden", "sea")
    ]
    done: list[int] = []
    answers = answer_all(model, tokenizer, template, questions, workers=workers, max_tokens=8, on_answer=done.append)
    assert done == [1, 2, 3, 4] and [answer.reference for answer in answers] == ["house", "bird", "garden", "sea"]
    for question, answer in zip(questions, answers, strict=True):
        ids = template.prompt(list(question.messages))  # pyright: ignore[reportArgumentType]
        own = Generator(model.model, model.parameters).stream(ids, max_tokens=8, end_ids=template.end_ids)
        assert answer.reply == tokenizer.decode(list(own)) and answer.prompt == question.messages[-1]["content"]  # pyright: ignore
    assert len({answer.reply for answer in answers}) > 1


def test_an_answer_ends_where_the_template_ends_a_turn(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokenizers name no turn end: only the template shows it."""
    model, tokenizer, template = opened
    question = Question([{"role": "user", "content": "Who sees the house?"}], "x")
    ids = template.prompt([{"role": "user", "content": "Who sees the house?"}])
    free = list(Generator(model.model, model.parameters).stream(ids, max_tokens=8))
    monkeypatch.setattr(template, "end_ids", frozenset({free[3]}))
    (answer,) = answer_all(model, tokenizer, template, [question], workers=1, max_tokens=8)
    assert answer.reply == tokenizer.decode(free[: free.index(free[3])])


def test_what_a_person_reads_of_a_question() -> None:
    assert readable(Question("Hello", "x")) == "Hello" and readable(Question(ASK, "x")) == "Who sees the red house?"
    assert json.dumps(readable(Question([{"role": "user"}], "x"))) == '""'
