"""What becomes of a run or a model: where its adapter lies, how it scores, which rows prove its export."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetune.config import convert
from edgetune.errors import ConfigError, DataError, ModelError
from edgetune.events import Event, Progress, RowsLeftOut
from edgetune.export.held_out import PLAIN_TEXTS
from edgetune.text.tokenizer import load_tokenizer
from edgetune.training import session
from edgetune.training.session import Resources
from edgetune.workspace.outcomes import adapter_folder, evaluate_rows, model_folder, questions_of, source_of


def ignored(event: Event) -> None:
    """Nobody listens."""


def trained(model: Path, rows: Path, folder: Path, **changes: Any) -> Path:
    """A short run on that model."""
    values: dict[str, Any] = {
        "model": str(model),
        "data": {"train": [str(rows)], "valid": 0.25, "max_tokens": 64},
        "adapter": {"rank": 2},
        "training": {"steps": 2, "batch": 4, "accumulate": 1, "rate": 1e-2},
    }
    for section, settings in changes.items():
        values[section] = values.get(section, {}) | settings
    prepared = session.prepare(convert(values), model)
    session.train(prepared, folder, Resources(2), ignored, lambda: False)
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "chats.jsonl"
    nouns = ("house", "bird", "garden", "question")
    talks = [(f"Who {verb} the {noun}?", noun) for verb in ("sees", "likes", "paints") for noun in nouns]
    file.write_text("".join(json.dumps({"prompt": ask, "completion": answer}) + "\n" for ask, answer in talks))
    return file


@pytest.fixture(scope="module")
def run(tiny_model: Path, chats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny_model, chats, tmp_path_factory.mktemp("runs") / "run")


# ---- where things lie --------------------------------------------------------------------------------------------------


def test_a_run_s_adapter_and_a_plain_one(run: Path, tmp_path: Path) -> None:
    assert adapter_folder(run) == run / "adapter" and adapter_folder(run / "adapter") == run / "adapter"
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ConfigError, match="no adapter yet") as caught:
        adapter_folder(tmp_path)
    assert str(tmp_path) in caught.value.hint


def test_a_model_is_a_folder_or_a_run_that_trained_one(tiny_model: Path, tmp_path: Path) -> None:
    assert model_folder(str(tiny_model), ignored) == tiny_model
    (tmp_path / "run.toml").write_text("")
    (tmp_path / "model").mkdir()
    assert model_folder(str(tmp_path), ignored) == tmp_path / "model"


# ---- scores ------------------------------------------------------------------------------------------------------------


def test_rows_are_scored_with_and_without_the_adapter(tiny_model: Path, run: Path, chats: Path) -> None:
    base = evaluate_rows(str(tiny_model), None, [chats], "", 64, ignored)
    tuned = evaluate_rows(str(tiny_model), run, [chats], "", 64, ignored)
    assert len(base.scores.rows) == 12 and base.metrics == {} and base.answers == []
    assert tuned.scores.loss < base.scores.loss and tuned.scores.tokens == base.scores.tokens
    assert evaluate_rows(str(tiny_model), run / "adapter", [chats], "", 64, ignored) == tuned


def test_a_task_asks_every_question_and_tells_how_far_it_is(tiny_model: Path, chats: Path) -> None:
    events: list[Event] = []
    result = evaluate_rows(str(tiny_model), None, [chats], "overlap", 64, events.append)
    assert set(result.metrics) == {"chrf", "bleu"} and [answer.reference for answer in result.answers][:2] == ["house", "bird"]
    done = [event.done for event in events if isinstance(event, Progress) and event.stage == "answering"]
    assert done == list(range(1, 13))


def test_rows_that_are_too_long_are_told(tiny_model: Path, chats: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(chats.read_text() + json.dumps({"prompt": "who " * 80, "completion": "me"}) + "\n")
    events: list[Event] = []
    assert len(evaluate_rows(str(tiny_model), None, [rows], "", 64, events.append).scores.rows) == 12
    (left,) = [event for event in events if isinstance(event, RowsLeftOut)]
    assert (left.line, left.kind) == (13, "dropped")


def test_what_cannot_be_scored(tiny_model: Path, chats: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--task nonsense"):
        evaluate_rows(str(tmp_path / "no model is even looked for"), None, [chats], "nonsense", 64, ignored)
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "I see the red house."}) + "\n")
    with pytest.raises(DataError, match="no row has an answer"):
        evaluate_rows(str(tiny_model), None, [text], "exact", 64, ignored)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_model / name).read_bytes())
    tokens = tmp_path / "tokens.jsonl"
    tokens.write_text(json.dumps({"input_ids": [1, 5, 6], "loss_mask": [0, 1, 1]}) + "\n")
    assert evaluate_rows(str(bare), None, [tokens], "", 64, ignored).scores.tokens == 2
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        evaluate_rows(str(bare), None, [tokens], "exact", 64, ignored)


def test_questions_are_the_rows_that_end_with_an_answer_in_words(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    user = {"role": "user", "content": "a"}
    rows: list[dict[str, Any]] = [
        {"messages": [user, {"role": "assistant", "content": "b"}], "tools": [tool]},
        {
            "messages": [
                user,
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
            ]
        },
        {"messages": [user, {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}]},
        {"messages": [{"role": "assistant", "content": "alone"}]},
        {"messages": [user, {"role": "assistant", "content": "b"}, {"role": "user", "content": "and then?"}]},
        {"instruction": "i", "output": "o"},
        {"text": "plain"},
        {"input_ids": [1, 2], "loss_mask": [0, 1]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    questions = questions_of([file])
    assert [question.reference for question in questions] == ["b", "d", "o"]
    assert [len(question.messages) for question in questions] == [1, 3, 1] and questions[0].tools == [tool]
    assert questions[1].tools is None and questions[1].messages[-1] == {"role": "user", "content": "c"}


# ---- what proves an export ---------------------------------------------------------------------------------------------


def test_a_run_is_proved_on_its_validation_rows(tiny_model: Path, run: Path) -> None:
    source = source_of(str(run), None, [], ignored)
    assert (source.model, source.adapter, source.name) == (tiny_model, run / "adapter", "tiny")
    held = source.held_out
    assert held.is_held_out and len(held.examples) == 3 == len(held.texts) == len(held.prompts)
    for (text, ids), prompt, example in zip(held.texts, held.prompts, held.examples, strict=True):
        assert text.startswith("<s><|user|>Who ") and ids == example.ids.tolist() and ids[: len(prompt)] == prompt
    assert [text for text, _ in held.plain] == list(PLAIN_TEXTS)
    assert load_tokenizer(tiny_model).end_ids <= held.end_ids


def test_a_run_s_export_knows_that_its_base_was_packed(wide_model: Path, chats: Path, tmp_path: Path) -> None:
    run = trained(wide_model, chats, tmp_path / "run", training={"quantize_base": "4bit"})
    for rows in ([], [chats]):
        source = source_of(str(run), None, rows, ignored)
        assert (source.model, source.adapter, source.quantize_base) == (wide_model, run / "adapter", "4bit")


def test_without_validation_rows_those_that_were_trained_on_serve_and_it_is_said(
    tiny_model: Path, chats: Path, tmp_path: Path
) -> None:
    held = source_of(str(trained(tiny_model, chats, tmp_path / "run", data={"valid": 0.0})), None, [], ignored).held_out
    assert not held.is_held_out and len(held.examples) == 12 and len(held.prompts) == 8


def test_rows_of_a_person_s_own(tiny_model: Path, run: Path, rows: Path) -> None:
    for name in (str(run), str(tiny_model)):
        held = source_of(name, None, [rows], ignored).held_out
        assert held.is_held_out and {Path(example.file).name for example in held.examples} == {"rows.jsonl"}


def test_many_rows_are_thinned_evenly(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Who {n}?", "completion": "I"}) + "\n" for n in range(200)))
    held = source_of(str(tiny_model), None, [file], ignored).held_out
    lines = [example.line for example in held.examples]
    assert len(lines) == 64 and lines == sorted(lines) and lines[-1] > 150 and set(np.diff(lines)) == {3}
    assert len(held.texts) == 64 and len(held.prompts) == 8


def test_a_model_without_rows_is_proved_on_plain_texts(tiny_model: Path, run: Path) -> None:
    source = source_of(str(tiny_model), run, [], ignored)
    assert source.adapter == run / "adapter"
    tokenizer = load_tokenizer(tiny_model)
    assert len(source.held_out.examples) == len(PLAIN_TEXTS) and source.held_out.prompts == [] and source.held_out.texts == []
    for example, text in zip(source.held_out.examples, PLAIN_TEXTS, strict=True):
        assert example.ids.tolist() == [tokenizer.bos_id, *tokenizer.encode(text)]
        assert example.trained.tolist() == [False] + [True] * (len(example.ids) - 1)


def test_rows_of_plain_text_have_no_prompts(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"text": "I see the red house."}) + "\n")
    held = source_of(str(tiny_model), None, [file], ignored).held_out
    assert len(held.examples) == 1 and held.texts == [] and held.prompts == []


def test_a_run_that_trained_a_whole_model_is_that_model(tiny_model: Path, chats: Path, tmp_path: Path) -> None:
    run = trained(tiny_model, chats, tmp_path / "run", adapter={"method": "full"})
    for data in ([], [chats]):
        source = source_of(str(run), None, data, ignored)
        assert (source.model, source.adapter) == (run / "model", None)
    assert evaluate_rows(str(run), None, [chats], "", 64, ignored).scores.tokens > 0


def test_what_cannot_be_exported(tiny_model: Path, run: Path, chats: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an adapter of its own"):
        source_of(str(run), run / "adapter", [], ignored)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    text = (run / "run.toml").read_text()
    (unfinished / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match="no adapter yet"):
        source_of(str(unfinished), None, [], ignored)
    (unfinished / "run.toml").write_text(text.replace('method = "lora"', 'method = "full"'))
    with pytest.raises(ConfigError, match="no model yet"):
        source_of(str(unfinished), None, [], ignored)
    with pytest.raises(ModelError):
        source_of(str(tmp_path / "absent"), None, [], ignored)
    with pytest.raises(DataError, match="absent"):
        source_of(str(tiny_model), None, [tmp_path / "absent.jsonl"], ignored)


def test_a_template_that_prints_the_date_holds_out_the_rows_that_were_held_out(
    tiny_model: Path, chats: Path, tmp_path: Path
) -> None:
    """Which rows are held out follows from what they hold: on another day that would be others, which were trained on."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        template.replace("<|{{ message['role'] }}|>", "<|{{ message['role'] }}|>{{ strftime_now('%H %M %S') }} ")
    )
    values = {"model": str(model), "data": {"train": [str(chats)], "valid": 0.25, "max_tokens": 96}, "training": {"steps": 1}}
    prepared = session.prepare(convert(values), model, "2025-01-02T03:04:05")
    session.train(prepared, tmp_path / "run", Resources(1), ignored, lambda: False)
    held = source_of(str(tmp_path / "run"), None, [], ignored).held_out
    assert [example.ids.tolist() for example in held.examples] == [example.ids.tolist() for example in prepared.valid]
