"""Both engines answer alike, and a lone GGUF's tokenizer gives the ids that training gives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetune.adapters.attach import open_adapted
from edgetune.chat.conversation import Conversation, Prompts, Turn
from edgetune.chat.engine import LlamaEngine, OwnEngine, Settings
from edgetune.chat.gguf_tokenizer import gguf_tokenizer
from edgetune.errors import TokenizerError
from edgetune.export.gguf_file import write_gguf
from edgetune.llamacpp import LlamaChild
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.tokenizer import Tokenizer, load_tokenizer
from tests.faults.gguf_bytes import decode

GREEDY = Settings(max_tokens=20, temperature=0)
TEXTS = [
    "My sister paints the red garden.",
    " a space before, two  within, and one behind ",
    "\n\nnew lines\tand tabs\r\n",
    "naïve café — 東京 🙂 \u200b\u0301",
    "<|end|> <s> </s> <unk> <|im_start|> <|endoftext|>",
    "def f(x):\n    return x ** 2",
    "1234567890 3.14",
    "▁ ▁▁",
    " ",
    "",
]


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, file, "F32")
    return file


@pytest.fixture(scope="module")
def child(gguf: Path) -> Iterator[LlamaChild]:
    with LlamaChild(gguf, threads=1, cache_type="f32") as child:
        yield child


def test_44_both_engines_give_the_same_greedy_answer(tiny_model: Path, child: LlamaChild):
    tokenizer = load_tokenizer(tiny_model)
    template = load_template(tiny_model, tokenizer)
    prompts = Prompts(tokenizer, template)
    own, llama = OwnEngine(open_adapted(tiny_model), tokenizer), LlamaEngine(child)
    for text in ("Who sees the house?", "Nobody", "naïve"):
        ids = prompts.ids("", [], text)
        answers = ["".join(engine.stream(ids, GREEDY, prompts.end_ids)) for engine in (own, llama)]
        assert answers[0].strip() == answers[1].strip()
        assert own.ending and llama.ending
        assert (own.ending.tokens, own.ending.stopped_by) == (llama.ending.tokens, llama.ending.stopped_by)


def test_44_a_real_model_tells_the_same_story_in_both(assets: Path):
    folder = assets / "weights" / "stories260K-hf"
    tokenizer = load_tokenizer(folder)
    ids = Prompts(tokenizer, None).ids("", [], "Once upon a time")
    own = "".join(OwnEngine(open_adapted(folder), tokenizer).stream(ids, GREEDY, frozenset()))
    with LlamaChild(assets / "weights" / "stories260K-gguf" / "stories260K.gguf", threads=1) as child:
        assert "".join(LlamaEngine(child).stream(ids, GREEDY, frozenset())).strip() == own.strip()


def test_what_was_read_of_a_conversation_is_not_read_again(tiny_model: Path, child: LlamaChild):
    tokenizer = load_tokenizer(tiny_model)
    talk = Conversation(LlamaEngine(child), Prompts(tokenizer, load_template(tiny_model, tokenizer)), system="quiet")
    list(talk.ask("Who sees the house?", GREEDY))
    first = talk.answer
    list(talk.ask("And the bird?", GREEDY))
    assert first and child.generated and child.generated.reused >= first.prompt_tokens


@pytest.mark.parametrize("kind", ["own", "llama"])
def test_both_engines_stop_when_told_and_go_on_after(tiny_model: Path, child: LlamaChild, kind: str):
    tokenizer = load_tokenizer(tiny_model)
    engine = OwnEngine(open_adapted(tiny_model), tokenizer) if kind == "own" else LlamaEngine(child)
    ids, settings = [1, 5, 6], Settings(max_tokens=200, temperature=1.0, top_k=0, top_p=1.0)
    for number, _ in enumerate(engine.stream(ids, settings, frozenset())):
        if number == 2:
            engine.stop()
    assert engine.ending and engine.ending.stopped_by == "user" and engine.ending.tokens < 200
    list(engine.stream(ids, GREEDY, frozenset()))
    assert engine.ending.stopped_by in ("length", "end")


def test_the_context_is_the_models_or_what_is_asked_for(tiny_model: Path):
    tokenizer, opened = load_tokenizer(tiny_model), open_adapted(tiny_model)
    assert OwnEngine(opened, tokenizer).context == 256
    assert OwnEngine(opened, tokenizer, context=100).context == 100
    assert OwnEngine(opened, tokenizer, context=100_000).context == 256


# ---- the tokenizer of a lone GGUF ------------------------------------------------------------------------------------


def compare(lone: Tokenizer, folder: Tokenizer) -> None:
    for text in TEXTS:
        for start in (True, False):
            assert lone.encode(text, start=start) == folder.encode(text, start=start), (text, start)
    assert (lone.bos_id, lone.eos_id) == (folder.bos_id, folder.eos_id)


def test_45_a_lone_gguf_gives_the_ids_of_its_folder(tiny_model: Path, child: LlamaChild, gguf: Path):
    lone, folder = gguf_tokenizer(child, gguf), load_tokenizer(tiny_model)
    compare(lone, folder)
    assert dict(lone.control) == dict(folder.control) and lone.adds_bos is folder.adds_bos is True
    assert folder.end_ids <= lone.end_ids | load_end_ids(tiny_model)


def load_end_ids(folder: Path) -> frozenset[int]:
    template = load_template(folder, load_tokenizer(folder))
    assert template
    return template.end_ids


def test_52_a_lone_gguf_asks_with_the_ids_of_its_folder(tiny_model: Path, child: LlamaChild, gguf: Path):
    tokenizer = load_tokenizer(tiny_model)
    folder = Prompts(tokenizer, load_template(tiny_model, tokenizer))
    lone_tokenizer = gguf_tokenizer(child, gguf)
    assert child.info.template
    lone = Prompts(lone_tokenizer, ChatTemplate(child.info.template, lone_tokenizer))
    for text in TEXTS:
        asked = ("quiet", [Turn("house?", "red."), Turn(text, "no")], text)
        assert lone.ids(*asked) == folder.ids(*asked), text
    assert lone.end_ids >= folder.end_ids


def test_45_a_real_vocabulary_gives_the_ids_of_its_folder(assets: Path):
    file = assets / "tokenizers" / "llama.cpp-vectors" / "ggml-vocab-phi-3.gguf"
    with LlamaChild(file, vocab_only=True) as child:
        compare(gguf_tokenizer(child, file), load_tokenizer(assets / "tokenizers" / "phi-3-mini"))


def test_a_tokenizer_of_another_kind_is_refused(assets: Path, tmp_path: Path):
    model = decode((assets / "weights" / "stories260K-gguf" / "stories260K.gguf").read_bytes())
    model.put_text("tokenizer.ggml.model", "t5")
    file = tmp_path / "t5.gguf"
    file.write_bytes(model.encode())
    with LlamaChild(file, vocab_only=True) as child, pytest.raises(TokenizerError, match="unigram tokenizer"):
        gguf_tokenizer(child, file)
