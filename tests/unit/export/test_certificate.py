"""What a certificate says of models that compute the same, a little less, and something else."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.adapters.attach import open_adapted
from edgetune.errors import VerificationFailed
from edgetune.export import certificate
from edgetune.export.certificate import (
    EXACT,
    QUANTIZED,
    Certificate,
    EndCheck,
    Hop,
    Reference,
    Scores,
    TokenCheck,
    gguf_blocks,
    judged,
    own_blocks,
    reference_of,
)
from edgetune.export.held_out import HeldOut, check_ends, check_tokens
from edgetune.llamacpp.client import LlamaChild
from edgetune.text.examples import Example

VOCAB = 11


def example(length: int, seed: int, vocab: int = VOCAB) -> Example:
    random = np.random.default_rng(seed)
    trained = random.random(length) < 0.7
    trained[:2] = [False, True]
    return Example(random.integers(0, vocab, length).astype(np.int32), trained, "rows.jsonl", seed)


def log_probabilities(rows: int, seed: int, sharpness: float = 1.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, sharpness, (rows, VOCAB))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return Reference([example(9, seed) for seed in range(4)], VOCAB, tmp_path / "values")


def in_blocks(values: np.ndarray, size: int = 3) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def test_a_model_compared_with_itself_loses_nothing(reference: Reference) -> None:
    own = log_probabilities(reference.tokens, 1)
    told = reference.fill(in_blocks(own))
    assert told.loss == pytest.approx(-own[np.arange(len(own)), reference.targets].mean(), rel=1e-6)
    assert reference.compare(in_blocks(own, 5)) == Scores(told.loss, 0.0, 1.0)


def test_another_model_is_compared_by_the_formulas(reference: Reference) -> None:
    own, other = log_probabilities(reference.tokens, 1), log_probabilities(reference.tokens, 2)
    reference.fill(in_blocks(own))
    told = reference.compare(in_blocks(other, 4))
    assert told.loss == pytest.approx(-other[np.arange(len(other)), reference.targets].mean(), rel=1e-6)
    assert told.kl == pytest.approx((np.exp(own) * (own - other)).sum(-1).mean(), rel=1e-5) and told.kl > 0.1
    assert told.top1_agreement == pytest.approx(np.mean(own.argmax(-1) == other.argmax(-1)))
    assert reference.loss_of(in_blocks(other)) == told.loss


def test_numbers_that_are_none_are_not_made_pretty(reference: Reference) -> None:
    own = log_probabilities(reference.tokens, 1)
    reference.fill(in_blocks(own))
    told = reference.compare(in_blocks(np.full_like(own, np.nan)))
    assert math.isnan(told.loss) and math.isnan(told.kl)
    assert judged("x", told, 1.0, 2.0, QUANTIZED).verdict == "refused"


def test_rows_beyond_what_fits_are_left_out_from_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [example(9, seed) for seed in range(6)]
    sizes = [int(one.trained.sum()) for one in examples]
    monkeypatch.setattr(certificate, "REFERENCE_BYTES", 4 * VOCAB * (sum(sizes[:3]) + 1))
    held = Reference(examples, VOCAB, tmp_path / "a")
    assert len(held.rows) == 3 and held.tokens == sum(sizes[:3]) == len(held.targets)
    monkeypatch.setattr(certificate, "REFERENCE_BYTES", 1)
    assert len(Reference(examples, VOCAB, tmp_path / "b").rows) == 1  # never none


def test_the_reference_s_file_is_gone_at_the_end(tmp_path: Path) -> None:
    with reference_of([example(9, 1)], VOCAB, tmp_path) as reference:
        assert list(tmp_path.rglob("reference")) and reference.tokens
    with pytest.raises(OSError, match="boom"), reference_of([example(9, 1)], VOCAB, tmp_path):
        raise OSError("boom")
    assert list(tmp_path.iterdir()) == []


# ---- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "loss", "base", "verdict"),
    [(EXACT, 1.0099, 1.0, "proved"), (EXACT, 1.0101, 1.0, "refused"),  # without a gain: nats alone
     (EXACT, 1.0101, 0.5, "refused"),  # training made it worse: no excuse
     (EXACT, 1.049, 2.0, "proved"), (EXACT, 1.051, 2.0, "refused"),  # 5 % of a gain of 1 nat
     (QUANTIZED, 1.0499, 1.0, "proved"), (QUANTIZED, 1.0501, 1.0, "refused"),
     (QUANTIZED, 1.299, 2.0, "proved"), (QUANTIZED, 1.301, 2.0, "refused"),
     (EXACT, 0.2, 2.0, "proved"),  # better than the reference
     (QUANTIZED, math.inf, 2.0, "refused"), (QUANTIZED, math.nan, 2.0, "refused"), (QUANTIZED, -math.inf, 2.0, "refused")],
)  # fmt: skip
def test_a_hop_may_lose_so_many_nats_or_a_share_of_the_gain(limit: Any, loss: float, base: float, verdict: str) -> None:
    hop = judged("GGUF Q4_K_M", Scores(loss, 0.1, 0.9), 1.0, base, limit)
    assert hop.verdict == verdict and (hop.name, hop.kl, hop.top1_agreement) == ("GGUF Q4_K_M", 0.1, 0.9)
    if math.isfinite(loss):
        assert hop.loss_delta == pytest.approx(loss - 1)


@given(gain=st.floats(-5, 5), loss=st.floats(-1, 10))
def test_what_loses_all_of_the_gain_is_never_proved(gain: float, loss: float) -> None:
    """A model no better than the base, where training gained more than the fixed allowance, does not pass."""
    hop = judged("x", Scores(loss, 0, 1), 1.0, 1.0 + gain, QUANTIZED)
    if gain > 0.05 and loss >= 1.0 + gain:
        assert hop.verdict == "refused"
    if loss <= 1.0:
        assert hop.verdict == "proved"


def test_a_hop_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"abc")
    hop = judged("x", Scores(1, 0, 1), 1.0, 1.0, EXACT, tmp_path / "x.gguf")
    assert (hop.file, hop.bytes) == ("x.gguf", 3) and hop.sha256.startswith("ba7816bf")


def made(**changes: Any) -> Certificate:
    hops = [
        Hop(name="base + adapter", loss=1.0, verdict="reference"),
        Hop(name="GGUF F16", loss=1.0, loss_delta=0.001, verdict="proved"),
    ]
    values: dict[str, Any] = {
        "edgetune": "1",
        "base": "b",
        "held_out": True,
        "rows": 1,
        "tokens": 9,
        "base_loss": 2.0,
        "hops": hops,
    }
    return Certificate(**{**values, **changes})


def test_why_something_is_refused() -> None:
    assert made().refusals == []
    lost = [*made().hops, Hop(name="GGUF Q2_K", loss=1.4, loss_delta=0.4, verdict="refused")]
    assert made(hops=lost).refusals == ["GGUF Q2_K loses +0.400 nats per token"]
    assert "'Hello'" in made(tokenizer=TokenCheck(texts=3, tokens=9, differences=["Hello"])).refusals[0]
    assert made(tokenizer=TokenCheck(texts=3, tokens=9)).refusals == []
    assert made(turn_end=EndCheck(asked=8, reference_ended=5, gguf_ended=3)).refusals == [
        "2 of 5 answers of the GGUF do not end"
    ]
    assert made(turn_end=EndCheck(asked=8, reference_ended=0, gguf_ended=0)).refusals == []


def test_a_certificate_is_json_that_reads_back() -> None:
    certificate = made(tokenizer=TokenCheck(texts=3, tokens=9), turn_end=EndCheck(asked=1, reference_ended=1, gguf_ended=1))
    encoded = msgspec.json.encode(certificate)
    assert msgspec.json.decode(encoded, type=Certificate) == certificate and json.loads(encoded)["format"] == 1


# ---- with llama.cpp ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def child(tiny_gguf: Path) -> Any:
    with LlamaChild(tiny_gguf, context=256, cache_type="f32", gpu_layers=0) as opened:
        yield opened


def test_our_decoder_and_llama_cpp_agree(tiny_model: Path, child: LlamaChild, tmp_path: Path) -> None:
    opened = open_adapted(tiny_model)
    examples = [example(12, seed, opened.spec.vocab) for seed in range(3)]
    with reference_of(examples, opened.spec.vocab, tmp_path) as reference:
        rows: list[int] = []
        own = reference.fill(own_blocks(opened, reference, 2, lambda: rows.append(1)))
        assert np.exp(reference.values).sum(-1) == pytest.approx(np.ones(reference.tokens), abs=1e-4)
        told = reference.compare(gguf_blocks(child, reference, lambda: rows.append(1)))
        assert len(rows) == 6 and abs(told.loss - own.loss) < 0.01 and told.kl < 1e-3 and told.top1_agreement > 0.9


def test_a_gguf_of_another_vocabulary_is_refused(child: LlamaChild, tmp_path: Path) -> None:
    with reference_of([example(9, 1)], VOCAB, tmp_path) as reference:
        with pytest.raises(VerificationFailed, match=f"{child.info.vocab_size} tokens, the model {VOCAB}") as caught:
            list(gguf_blocks(child, reference, lambda: None))
        assert caught.value.exit_code == 5


def held_out(**changes: Any) -> HeldOut:
    values: dict[str, Any] = {"examples": [], "texts": [], "plain": [], "prompts": [], "end_ids": frozenset()}
    return HeldOut(**{**values, **changes})


def test_every_text_s_ids_are_compared(tiny_model: Path, child: LlamaChild) -> None:
    from edgetune.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    texts = ["I see the red house.", "<|user|>Hello<|end|>", "Ångström 日本 👩‍💻"]
    parsed = [(text, tokenizer.encode(text, control=True)) for text in texts]
    plain = [(text, tokenizer.encode(text)) for text in texts]
    assert parsed[1][1] != plain[1][1]
    told = check_tokens(child, held_out(texts=parsed, plain=plain))
    assert told == TokenCheck(texts=6, tokens=sum(len(ids) for _, ids in parsed + plain))
    wrong = [(f"bad {number}\x1b[31m", [1, 2, 3]) for number in range(7)]
    told = check_tokens(child, held_out(texts=parsed, plain=wrong))
    assert told.texts == 10 and len(told.differences) == 5 and told.differences[0] == "bad 0\\x1b[31m"


def test_answers_that_end_must_end_in_the_gguf_too(tiny_model: Path, child: LlamaChild) -> None:
    from edgetune.text.chat_template import load_template
    from edgetune.text.tokenizer import load_tokenizer

    opened, tokenizer = open_adapted(tiny_model), load_tokenizer(tiny_model)
    template = load_template(tiny_model, tokenizer)
    assert template is not None and check_ends(child, opened, held_out()) is None
    prompts = [template.prompt([{"role": "user", "content": f"Who sees {noun}?"}]) for noun in ("it", "me", "you")]
    told = check_ends(child, opened, held_out(prompts=prompts, end_ids=template.end_ids, answer_tokens=12))
    assert told is not None and told.asked == 3 and told.gguf_ended == told.reference_ended
    every = frozenset(range(opened.spec.vocab))  # ends at once here, where llama.cpp knows of no such end
    told = check_ends(child, opened, held_out(prompts=prompts, end_ids=every, answer_tokens=4))
    assert told is not None and told.reference_ended == 3 > told.gguf_ended
