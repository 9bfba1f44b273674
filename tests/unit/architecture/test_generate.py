"""Generating token by token computes what one forward over all tokens computes, and samples as it is told."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import write_model

from edgetune.adapters.lora import adapted_paths
from edgetune.architecture.generate import Generator, Memory, Sampling, sample
from edgetune.architecture.load import load_model
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import Model, logits
from edgetune.backend import numpy_cache
from edgetune.backend.numpy_cache import CachedOps
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Adapter, Row
from edgetune.config import LINEAR_KINDS
from edgetune.errors import DataError

BASE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama3 rope": {
        "model_type": "llama", "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    },
    "window": {"model_type": "mistral", "sliding_window": 7},
    "window of one": {"model_type": "mistral", "sliding_window": 1},
    "some layers with a window": {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "smollm3": {
        "model_type": "smollm3", "no_rope_layers": [1, 0, 0], "use_sliding_window": True, "sliding_window": 5,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"],
    },
    "granite": {
        "model_type": "granite", "embedding_multiplier": 6.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    "gemma2": {
        "model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5, "tie_word_embeddings": True,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "model_type": "gemma3_text", "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5, "tie_word_embeddings": True,
        "sliding_window_pattern": 2,
    },
    "phi3": {"model_type": "phi3", "sliding_window": 9, "partial_rotary_factor": 0.5},
}  # fmt: skip
LENGTH = 30


def model_of(folder: Path, case: dict[str, Any], adapters: dict[str, Adapter] | None = None) -> Model:
    write_model(folder, {**BASE, **case}, 11)
    return load_model(folder, adapters)


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return model_of(tmp_path, CASES[request.param])


def whole(model: Model, ids: np.ndarray, parameters: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """(time, vocab), without a cache."""
    row = Row(ids, np.full(len(ids), -1, np.int32), ((0, len(ids)),))
    return logits(NumpyOps(parameters or {}), model, row, np.arange(len(ids)))


@pytest.mark.parametrize("first", [1, 9, 20])
def test_the_cache_gives_the_logits_of_the_whole_at_every_position(model: Model, first: int) -> None:
    ids = np.random.default_rng(0).integers(0, 50, LENGTH).astype(np.int32)
    expected, generator, ops = whole(model, ids), Generator(model, {}), CachedOps({})
    np.testing.assert_allclose(generator.next_logits(ops, ids[:first]), expected[first - 1], atol=2e-5)
    for at in range(first, LENGTH):
        np.testing.assert_allclose(generator.next_logits(ops, ids[at : at + 1]), expected[at], atol=2e-5)


def test_blocks_of_queries_continue_a_cache(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt is played in blocks; with the window open across them."""
    monkeypatch.setattr(numpy_cache, "QUERIES", 4)
    ids = np.random.default_rng(1).integers(0, 50, LENGTH).astype(np.int32)
    expected, generator, ops = whole(model, ids), Generator(model, {}), CachedOps({})
    for start, stop in ((0, 11), (11, 24), (24, 30)):
        np.testing.assert_allclose(generator.next_logits(ops, ids[start:stop]), expected[stop - 1], atol=2e-5)


def test_greedy_takes_the_likeliest_each_time_and_is_the_same_each_time(model: Model) -> None:
    ids = [1, 2, 3]
    generator = Generator(model, {})
    answers = [list(generator.stream(ids, max_tokens=12)) for _ in range(2)]
    assert answers[0] == answers[1] and len(answers[0]) == 12
    for token in answers[0]:
        assert token == int(whole(model, np.array(ids, np.int32))[-1].argmax())
        ids = [*ids, token]


def test_a_text_that_outgrows_long_ropes_first_length_is_turned_anew(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0, 1.0], "long_factor": [4.0, 9.0]}
    case = {"model_type": "phi3", "original_max_position_embeddings": 8, "rope_scaling": {"type": "longrope", **factors}}
    model, ids = model_of(tmp_path, case), [1, 2, 3]
    for token in Generator(model, {}).stream(ids, max_tokens=12):
        assert token == int(whole(model, np.array(ids, np.int32))[-1].argmax())
        ids = [*ids, token]
    memory = Memory()
    list(Generator(model, {}).stream(ids, max_tokens=2, memory=memory))  # of a long text, a short one remembers no key
    again = list(Generator(model, {}).stream(ids[:4], max_tokens=6, memory=memory))
    assert again == list(Generator(model, {}).stream(ids[:4], max_tokens=6)) == ids[4:10]


@pytest.fixture
def llama(tmp_path: Path) -> Model:
    return model_of(tmp_path, CASES["llama"])


def test_adapters_are_heard_whether_weights_are_kept_or_not(tmp_path: Path) -> None:
    write_model(tmp_path, {**BASE, "model_type": "llama"}, 11)
    spec, random = read_spec(tmp_path), np.random.default_rng(2)
    paths = adapted_paths(spec, LINEAR_KINDS, "all")
    parameters = {
        f"{path}.{name}": random.normal(0, 0.3, shape).astype(np.float32)
        for path, (outputs, inputs) in paths.items() for name, shape in (("lora_A", (2, inputs)), ("lora_B", (outputs, 2)))
    }  # fmt: skip
    adapted = load_model(tmp_path, {path: Adapter(0.5, dropout=0.3) for path in paths})
    ids = np.arange(10, dtype=np.int32)
    expected = whole(adapted, ids, parameters)  # dropout is of training: below, none happens
    quiet = NumpyOps(parameters)
    quiet.learning = False
    row = Row(ids, np.full(10, -1, np.int32), ((0, 10),))
    expected_without = logits(quiet, adapted, row, np.arange(10))
    assert np.abs(expected - expected_without).max() > 1e-3
    kept, not_kept = Generator(adapted, parameters, FoldedWeights()), Generator(adapted, parameters)
    for generator in (kept, not_kept):
        given = generator.next_logits(CachedOps(parameters, generator.folded), ids)
        np.testing.assert_allclose(given, expected_without[-1], atol=2e-5)
    assert np.abs(whole(load_model(tmp_path), ids)[-1] - expected_without[-1]).max() > 1e-2
    assert list(kept.stream([3], max_tokens=20)) == list(not_kept.stream([3], max_tokens=20))
    assert kept.folded and kept.folded.arrays and not_kept.folded is None


def test_an_end_token_ends_the_stream_and_is_not_given(llama: Model) -> None:
    generator = Generator(llama, {})
    free = list(generator.stream([1, 2], max_tokens=10))
    end = free[4]
    first = free.index(end)
    assert list(generator.stream([1, 2], max_tokens=10, end_ids={end})) == free[:first]
    assert list(generator.stream([1, 2], max_tokens=0)) == []


def test_without_a_token_there_is_nothing_to_continue(llama: Model) -> None:
    with pytest.raises(DataError, match="no token"):
        list(Generator(llama, {}).stream([], max_tokens=3))


def test_a_seed_gives_its_answer(llama: Model) -> None:
    generator = Generator(llama, {})

    def answer(seed: int) -> tuple[int, ...]:
        return tuple(generator.stream([1], max_tokens=10, sampling=Sampling(temperature=2.0, seed=seed)))

    assert answer(1) == answer(1) and len({answer(seed) for seed in range(5)}) == 5


LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32))


def drawn(sampling: Sampling, times: int = 4000) -> Counter[int]:
    random = np.random.default_rng(sampling.seed)
    return Counter(sample(LOGITS, sampling, random) for _ in range(times))


def test_shares_follow_the_probabilities_and_the_temperature() -> None:
    shares = drawn(Sampling(temperature=1.0))
    assert [shares[token] / 4000 for token in range(5)] == pytest.approx([0.1, 0.4, 0.05, 0.25, 0.2], abs=0.03)
    cold = drawn(Sampling(temperature=0.1))
    assert cold[1] > 3900
    p = np.exp(LOGITS / 2.0) / np.exp(LOGITS / 2.0).sum()
    hot = drawn(Sampling(temperature=2.0))
    assert [hot[token] / 4000 for token in range(5)] == pytest.approx(p.tolist(), abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "left"),
    [(Sampling(1.0, top_k=1), {1}), (Sampling(1.0, top_k=3), {1, 3, 4}), (Sampling(1.0, top_k=99), {0, 1, 2, 3, 4}),
     (Sampling(1.0, top_p=0.3), {1}), (Sampling(1.0, top_p=0.6), {1, 3}), (Sampling(1.0, top_p=0.84), {1, 3, 4}),
     (Sampling(1.0, top_p=0.0), {1}), (Sampling(1.0, top_k=3, top_p=0.5), {1, 3}), (Sampling(0.0, top_p=0.9), {1})],
)  # fmt: skip
def test_only_the_likeliest_are_left(sampling: Sampling, left: set[int]) -> None:
    assert set(drawn(sampling)) == left


def test_equal_logits_give_the_first() -> None:
    assert sample(np.zeros(4, np.float32), Sampling(), np.random.default_rng(0)) == 0


def test_what_was_read_is_not_read_again_and_changes_nothing(model: Model) -> None:
    generator, memory, turns = Generator(model, {}), Memory(), [1, 2, 3, 4]
    for said in ([5, 6], [7], []):  # each turn continues the last answer; the last one asks the same again
        turns = [*turns, *said]
        fresh = list(generator.stream(turns, max_tokens=5))
        read: list[int] = []

        def counted(ops: CachedOps, tokens: np.ndarray, read: list[int] = read) -> np.ndarray:
            read.append(len(tokens))
            return Generator.next_logits(generator, ops, tokens)

        remembering = Generator(model, {})
        remembering.next_logits = counted  # pyright: ignore[reportAttributeAccessIssue]
        known = memory.ops.position if memory.ops else 0
        assert list(remembering.stream(turns, max_tokens=5, memory=memory)) == fresh
        assert read[0] == max(1, len(turns) - known)
        turns = [*turns, *fresh] if said else turns


def test_another_conversation_forgets_what_differs(llama: Model) -> None:
    generator, memory = Generator(llama, {}), Memory()
    list(generator.stream([1, 2, 3, 4, 5], max_tokens=4, memory=memory))
    for ids in ([1, 2, 9], [1], [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]):
        assert list(generator.stream(ids, max_tokens=4, memory=memory)) == list(generator.stream(ids, max_tokens=4))
