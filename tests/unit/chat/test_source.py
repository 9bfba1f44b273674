"""What a name stands for, and how it is opened."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from edgetune.chat.conversation import Conversation
from edgetune.chat.engine import LlamaEngine, OwnEngine, Settings
from edgetune.chat.source import find_source, open_conversation
from edgetune.config import AdapterConfig, DataConfig, RunConfig, to_toml
from edgetune.errors import ChildFailed, ConfigError, ModelError, TemplateError
from edgetune.export.gguf_file import write_gguf
from tests.faults.gguf_bytes import decode, write_lora

pytestmark = pytest.mark.slow  # together

GREEDY = Settings(max_tokens=5, temperature=0)


@pytest.fixture
def gguf(tiny_model: Path, tmp_path: Path) -> Path:
    write_gguf(tiny_model, tmp_path / "tiny.gguf", "F32")
    return tmp_path / "tiny.gguf"


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Path:
    """A run that has an adapter's folder, and nothing in it."""
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "exports").mkdir()
    (folder / "run.toml").write_text(to_toml(RunConfig(model=str(tiny_model), data=DataConfig(train=["rows.jsonl"]))))
    return folder


def answer(conversation: Conversation) -> str:
    try:
        return "".join(conversation.ask("Who sees the house?", GREEDY))
    finally:
        conversation.engine.close()


def test_a_lone_gguf_brings_its_own_tokenizer_and_template(gguf: Path):
    source = find_source(str(gguf), None)
    assert (source.gguf, source.folder, source.adapter) == (gguf, None, None)
    conversation = open_conversation(source, system="quiet")
    assert isinstance(conversation.engine, LlamaEngine) and not conversation.continues
    assert conversation.prompts.end_ids
    answer(conversation)


def test_a_model_folder_is_answered_by_our_own_decoder_and_alike(tiny_model: Path, gguf: Path):
    own = open_conversation(find_source(str(tiny_model), None))
    assert isinstance(own.engine, OwnEngine)
    assert answer(own) == answer(open_conversation(find_source(str(gguf), None)))


def test_a_gguf_without_a_template_continues_texts(gguf: Path):
    model = decode(gguf.read_bytes())
    del model.keys["tokenizer.chat_template"]
    gguf.write_bytes(model.encode())
    conversation = open_conversation(find_source(str(gguf), None))
    assert conversation.continues
    answer(conversation)


def test_51_a_template_that_does_harm_or_nothing_is_refused(gguf: Path):
    for bad in (
        "{% for",
        "{{ ''.__class__.__mro__ }}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{% include 'x' %}",
        "x" * 300_000,
    ):
        model = decode(gguf.read_bytes())
        model.put_text("tokenizer.chat_template", bad)
        gguf.with_name("bad.gguf").write_bytes(model.encode())
        with pytest.raises(TemplateError):
            answer(open_conversation(find_source(str(gguf.with_name("bad.gguf")), None)))


def test_a_run_is_its_newest_export_where_that_is_newer_than_what_was_trained(run: Path, gguf: Path, tiny_model: Path):
    for name, age in (("tiny-F16.gguf", 20), ("tiny-Q8_0.gguf", 10), ("tiny-adapter.gguf", 5)):  # the last is no model
        shutil.copy(gguf, run / "exports" / name)
        os.utime(run / "exports" / name, (2e9 - age, 2e9 - age))
    os.utime(run / "adapter", (1e9, 1e9))
    source = find_source(str(run), None)
    assert (source.gguf, source.folder) == (run / "exports" / "tiny-Q8_0.gguf", tiny_model)
    assert "tiny-Q8_0.gguf" in source.note
    opened = open_conversation(source)
    assert isinstance(opened.engine, LlamaEngine)
    opened.engine.close()
    os.utime(run / "adapter", (2.1e9, 2.1e9))
    source = find_source(str(run), None)
    assert (source.gguf, source.folder, source.adapter) == (None, tiny_model, run / "adapter")
    assert "edgetune export" in source.note


def test_a_run_that_trained_a_whole_model_is_that_model(run: Path, tiny_model: Path):
    config = RunConfig(model="x", data=DataConfig(train=["rows.jsonl"]), adapter=AdapterConfig(method="full"))
    (run / "run.toml").write_text(to_toml(msgspec.structs.replace(config, model=str(tiny_model))))
    with pytest.raises(ConfigError, match="nothing to talk with yet"):
        find_source(str(run), None)
    shutil.copytree(tiny_model, run / "model")
    source = find_source(str(run), None)
    assert (source.gguf, source.folder, source.adapter) == (None, run / "model", None)


def test_a_run_without_a_result_says_how_to_get_one(run: Path):
    (run / "adapter").rmdir()
    with pytest.raises(ConfigError, match="nothing to talk with yet") as caught:
        find_source(str(run), None)
    assert f"edgetune resume {run}" in caught.value.hint


def test_an_export_whose_base_is_gone_needs_it_no_more(run: Path, gguf: Path):
    shutil.copy(gguf, run / "exports" / "tiny.gguf")
    (run / "run.toml").write_text(to_toml(RunConfig(model="/nowhere", data=DataConfig(train=["rows.jsonl"]))))
    source = find_source(str(run / "exports" / "tiny.gguf"), None)
    assert source.folder is None
    answer(open_conversation(source))


def test_adapters_that_do_not_go_with_the_source_are_refused(run: Path, gguf: Path, tiny_model: Path):
    with pytest.raises(ConfigError, match="only an adapter in GGUF form"):
        find_source(str(gguf), run / "adapter")
    with pytest.raises(ConfigError, match="an adapter of its own"):
        find_source(str(run), run / "adapter")
    with pytest.raises(ConfigError, match="takes an adapter folder"):
        find_source(str(tiny_model), Path("adapter.gguf"))
    assert find_source(str(tiny_model), run).adapter == run / "adapter"


def test_a_gguf_takes_an_adapter_in_gguf_form(gguf: Path, tmp_path: Path):
    lora = write_lora(tmp_path / "lora.gguf", 1, inputs=32, outputs=16)
    adapted, plain = (open_conversation(find_source(str(gguf), adapter)) for adapter in (lora, None))
    assert answer(adapted) != answer(plain)


def test_an_adapter_that_cannot_be_opened_leaves_no_child_behind(gguf: Path):
    with pytest.raises(ChildFailed, match="cannot open the adapter"):
        open_conversation(find_source(str(gguf), gguf))


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match="no such file"):
        open_conversation(find_source(str(tmp_path / "absent.gguf"), None))
    (tmp_path / "notes.txt").write_text("notes, and no model at all")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        open_conversation(find_source(str(tmp_path / "notes.txt"), None))
    with pytest.raises(ModelError, match="no model is called"):
        find_source("absent", None)
