"""Talking to llama.cpp: what a caller of LlamaChild can rely on, on the real stories260K."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from edgetune.errors import ChildFailed
from edgetune.llamacpp import LlamaChild, process, protocol
from edgetune.llamacpp.batches import BATCH, OUTPUTS, parts
from edgetune.llamacpp.process import environment

pytestmark = pytest.mark.slow  # together

STORY = "Once upon a time, there was a little girl named Lily."


@pytest.fixture(scope="module")
def gguf(assets: Path) -> Path:
    return assets / "weights" / "stories260K-gguf" / "stories260K.gguf"


@pytest.fixture(scope="module")
def child(gguf: Path) -> Iterator[LlamaChild]:
    with LlamaChild(gguf, context=1024, threads=1) as child:
        yield child


@pytest.fixture(scope="module")
def pieces(assets: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(assets / "weights" / "stories260K-hf" / "tokenizer.model"))


def ids_of(child: LlamaChild, text: str) -> list[int]:
    return child.tokenize(text, add_special=True, parse_special=False)


def greedy(child: LlamaChild, ids: Sequence[int], tokens: int) -> list[int]:
    return [token.id for token in child.generate(ids, max_tokens=tokens, temperature=0)]


def test_the_model_tells_what_it_is(child: LlamaChild):
    info = child.info
    assert (info.architecture, info.tokenizer, info.vocab_size) == ("llama", "sentencepiece", 512)
    assert (info.context, info.trained_context, info.bos_id, info.eos_id) == (1024, 2048, 1, 2)
    assert info.adds_bos and info.adds_space and info.template is None and info.tensor_bytes == 4 * info.parameters


def test_without_a_wish_the_context_is_the_models_own(gguf: Path):
    with LlamaChild(gguf, threads=1) as child:
        assert child.info.context == 2048


def test_words_are_the_control_tokens_and_the_ends(child: LlamaChild):
    words = child.words()
    assert {text: word.id for text, word in words.control.items()} == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert words.end_ids == [2]


@pytest.mark.parametrize("text", ["Hello", STORY, "naïve café — 東京 🙂", "tab\tand\nnew line", ""])
def test_tokens_are_those_of_sentencepiece(child: LlamaChild, pieces: sentencepiece.SentencePieceProcessor, text: str):
    assert child.tokenize(text, add_special=False, parse_special=False) == pieces.encode(text)
    assert child.tokenize(text, add_special=True, parse_special=False) == [1, *pieces.encode(text)]


def test_control_tokens_in_a_text_are_text_unless_asked_for(child: LlamaChild):
    assert 2 not in child.tokenize("the end</s>", add_special=False, parse_special=False)
    assert child.tokenize("the end</s>", add_special=False, parse_special=True)[-1] == 2


def test_detokenize_gives_the_text_back(child: LlamaChild):
    ids = child.tokenize("naïve 🙂", add_special=True, parse_special=False)
    assert child.detokenize(ids) == " naïve 🙂"
    assert child.detokenize(ids, special=True) == "<s> naïve 🙂"


def test_a_vocabulary_alone_tokenises_and_does_not_generate(gguf: Path):
    with LlamaChild(gguf, vocab_only=True) as child:
        assert ids_of(child, "Once") == [1, 403]
        with pytest.raises(ChildFailed, match="only its vocabulary"):
            list(child.generate([1]))


def test_greedy_is_the_same_in_a_fresh_process(gguf: Path, child: LlamaChild):
    ids = ids_of(child, STORY)
    with LlamaChild(gguf, context=1024, threads=1) as other:
        assert greedy(child, ids, 200) == greedy(other, ids, 200)


def test_a_seed_gives_the_same_answer_and_another_seed_another(child: LlamaChild):
    ids = ids_of(child, STORY)

    def answer(seed: int) -> str:
        return "".join(token.text for token in child.generate(ids, max_tokens=60, temperature=1.0, seed=seed))

    assert answer(7) == answer(7)
    assert answer(7) != answer(8)


def test_the_likeliest_of_one_is_greedy(child: LlamaChild):
    ids = ids_of(child, STORY)
    narrow = [token.id for token in child.generate(ids, max_tokens=30, temperature=2.0, top_k=1, seed=3)]
    assert narrow == greedy(child, ids, 30)


def test_a_penalty_keeps_the_answer_from_repeating_itself(child: LlamaChild):
    ids = ids_of(child, STORY)
    plain = greedy(child, ids, 200)
    varied = [token.id for token in child.generate(ids, max_tokens=200, temperature=0, repeat_penalty=1.5)]
    assert len(set(varied)) > len(set(plain))


def test_an_answer_is_as_long_as_asked(child: LlamaChild):
    assert len(greedy(child, ids_of(child, STORY), 17)) == 17
    assert child.generated and (child.generated.tokens, child.generated.stopped_by) == (17, "length")


def test_an_answer_ends_where_the_context_does(gguf: Path):
    with LlamaChild(gguf, context=256, threads=1) as child:
        ids = ids_of(child, STORY)
        assert len(greedy(child, ids, 1000)) == child.info.context - len(ids) + 1
        assert child.generated and child.generated.stopped_by == "context"


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it(child: LlamaChild):
    ids = ids_of(child, STORY)
    plain = greedy(child, ids, 20)
    cut = [token.id for token in child.generate(ids, max_tokens=20, temperature=0, stop_ids=[plain[5]])]
    assert cut == plain[: plain.index(plain[5])]
    assert child.generated and (child.generated.stopped_by, child.generated.end_id) == ("end", plain[5])


def test_text_comes_in_whole_characters(child: LlamaChild):
    tokens = list(child.generate([1], max_tokens=400, temperature=100.0, top_k=0, top_p=1.0, min_p=0.0, seed=1))
    texts = [token.text for token in tokens]
    assert any(token.text == "" for token in tokens), "nothing was held back: the test is blind"
    assert child.detokenize([token.id for token in tokens]).startswith("".join(texts))


def test_stop_ends_the_answer_at_once_and_the_next_is_as_ever(child: LlamaChild):
    ids = ids_of(child, STORY)
    plain = greedy(child, ids, 50)
    for number, _ in enumerate(child.generate(ids, max_tokens=1000, temperature=0)):
        if number == 3:
            child.stop()
    assert child.generated and child.generated.stopped_by == "user" and child.generated.tokens < 900
    child.stop()
    assert greedy(child, ids, 50) == plain


def test_an_iteration_that_is_left_early_leaves_nothing_behind(child: LlamaChild):
    ids = ids_of(child, STORY)
    plain = greedy(child, ids, 50)
    for _ in child.generate(ids, max_tokens=1000, temperature=0):
        break
    assert child.tokenize("Once", add_special=False, parse_special=False) == [403]
    assert greedy(child, ids, 50) == plain


def test_a_longer_conversation_is_not_read_twice(child: LlamaChild):
    ids = ids_of(child, STORY)
    answer = greedy(child, ids, 20)
    longer = [*ids, *answer, *child.tokenize("She", add_special=False, parse_special=False)]
    list(child.generate(longer, max_tokens=1, temperature=0))
    assert child.generated and child.generated.reused == len(ids) + len(answer) - 1
    with_cache = greedy(child, longer, 30)
    greedy(child, ids_of(child, "Something else entirely"), 5)
    assert greedy(child, longer, 30) == with_cache


def test_scores_are_log_probabilities_that_agree_with_reading_token_by_token(child: LlamaChild):
    ids = ids_of(child, STORY)
    scores = child.score(ids, range(len(ids)))
    assert scores.shape == (len(ids), 512) and scores.dtype == np.float32
    assert np.exp(scores.astype(np.float64)).sum(1) == pytest.approx(1, abs=1e-5)
    one_by_one = np.concatenate([child.score(ids[: i + 1], [i]) for i in range(len(ids))])
    assert np.abs(scores - one_by_one).max() < 1e-2
    assert scores[-1].argmax() == greedy(child, ids, 1)[0]


def test_scores_of_a_long_text_do_not_depend_on_how_it_is_cut(gguf: Path):
    with LlamaChild(gguf, context=1024, threads=1, cache_type="f32") as child:
        ids = (ids_of(child, STORY) * 100)[:1000]
        every = child.score(ids, range(1000))
        some = [0, 3, 500, BATCH - 1, BATCH, 999]
        assert np.abs(child.score(ids, some) - every[some]).max() < 1e-3
        assert child.score(ids, []).shape == (0, 512)


def test_parts_cover_every_position_once_within_the_limits():
    positions = [*range(0, 200), 600, 1800, 1801]
    covered = list[int]()
    end = 0
    for start, stop, asked in parts(positions):
        assert start == end and 0 < stop - start <= BATCH and len(asked) <= OUTPUTS
        assert all(0 <= i < stop - start for i in asked)
        covered += [start + i for i in asked]
        end = stop
    assert covered == positions


@pytest.mark.parametrize(
    ("ids", "positions", "message"),
    [
        ([], [], "no tokens"),
        ([1, 512], [0], "not in the model's vocabulary"),
        ([1, -1], [0], "not in the model's vocabulary"),
        ([1] * 1025, [0], "1025 tokens do not fit into a context of 1024"),
        ([1, 2], [2], "outside the sequence"),
        ([1, 2], [1, 0], "must rise"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_the_child_lives(
    child: LlamaChild, ids: list[int], positions: list[int], message: str
):
    with pytest.raises(ChildFailed, match=message):
        child.score(ids, positions)
    assert ids_of(child, "Once") == [1, 403]


def test_settings_out_of_bounds_are_refused_and_the_child_lives(child: LlamaChild):
    with pytest.raises(ChildFailed, match="temperature"):
        list(child.generate([1], temperature=-1))
    with pytest.raises(ChildFailed, match="not in the model's vocabulary"):
        list(child.generate([9999]))
    assert ids_of(child, "Once") == [1, 403]


def test_a_closed_child_says_so(gguf: Path):
    child = LlamaChild(gguf, threads=1)
    child.close()
    child.close()
    with pytest.raises(ChildFailed, match="has ended"):
        child.words()


def test_a_full_precision_cache_changes_little(gguf: Path, child: LlamaChild):
    ids = ids_of(child, STORY)
    with LlamaChild(gguf, threads=1, cache_type="f32") as exact:
        difference = np.abs(exact.score(ids, range(len(ids))) - child.score(ids, range(len(ids)))).max()
    assert 0 < difference < 0.02


# ---- inside the child ------------------------------------------------------------------------------------------------

ABORT = """
import sys, threading
from edgetune.llamacpp.context import Context
from edgetune.llamacpp.log import Log
from edgetune.llamacpp.model import Model
from edgetune.llamacpp.protocol import Load

class After(threading.Event):
    asked, limit = 0, 0
    def is_set(self):
        self.asked += 1
        return self.asked > self.limit

load, log = Load(gguf=sys.argv[1].encode(), context=1024), Log()
context = Context(Model(load, log, lambda share: None), load, log)
prompt, stop = [1, *range(3, 503), *range(3, 403)], After()
stop.limit = 30
stopped = context.read_prompt(prompt, stop)
held, asked = len(context.cached), stop.asked
stop.limit = 10**9
print(stopped, held, asked, context.read_prompt(prompt, stop), len(context.cached) == len(prompt))
"""


def test_stop_ends_even_the_reading_of_a_prompt_between_two_operations(gguf: Path):
    done = subprocess.run(
        [sys.executable, "-c", ABORT, str(gguf)], capture_output=True, text=True, env=environment(), check=True
    )
    stopped, held, asked, reused, whole = done.stdout.split()
    assert stopped == "None" and int(asked) < 40, "it was not asked while the first batch was being read"
    assert held == "0" and reused == "0" and whole == "True"


def test_a_long_answer_comes_with_signs_of_life(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    quick = "import edgetune.llamacpp.service as s; s.BEAT_SECONDS = 0.01; import edgetune.llamacpp.child as c; c.main()"
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-P", "-c", quick))
    with LlamaChild(gguf, context=512, threads=1) as child:
        replies = list[protocol.AnyReply]()
        decode = child.process.reply

        def noted(line: bytes) -> protocol.AnyReply:
            replies.append(decode(line))
            return replies[-1]

        monkeypatch.setattr(child.process, "reply", noted)
        greedy(child, [1], 400)
    assert any(isinstance(reply, protocol.Alive) for reply in replies)


def test_a_context_beyond_all_memory_is_refused(gguf: Path):
    with pytest.raises(ChildFailed, match="2,147,483,648 tokens is more") as caught:
        LlamaChild(gguf, context=1 << 31, threads=1)
    assert "2,048" in caught.value.hint
