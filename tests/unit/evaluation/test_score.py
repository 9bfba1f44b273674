"""The log-probability of every trained token, beside the token, and what they add up to."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_model import write_model

from edgetune.adapters.attach import AdaptedModel, open_adapted
from edgetune.architecture.transformer import logits
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row
from edgetune.evaluation.score import Evaluation, RowScore, evaluate
from edgetune.text.examples import Example

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AdaptedModel:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, CONFIG, 5)
    return open_adapted(folder)


def example(ids: list[int], trained: list[int], line: int = 1) -> Example:
    return Example(np.array(ids, np.int32), np.array(trained, np.bool_), "rows.jsonl", line)


def plainly(model: AdaptedModel, ids: np.ndarray) -> list[float]:
    """log p(token i given those before it), by a softmax over all logits."""
    row = Row(ids, np.full(len(ids), -1, np.int32), ((0, len(ids)),))
    table = logits(NumpyOps({}), model.model, row, np.arange(len(ids))).astype(np.float64)
    table -= np.log(np.exp(table - table.max(-1, keepdims=True)).sum(-1, keepdims=True)) + table.max(-1, keepdims=True)
    return [math.nan, *(table[at - 1, ids[at]] for at in range(1, len(ids)))]


@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, 39), st.integers(0, 1)), min_size=2, max_size=12).filter(
            lambda row: any(mask for _, mask in row[1:])
        ), min_size=1, max_size=4,
    ), workers=st.integers(1, 3),
)  # fmt: skip
def test_each_value_stands_beside_its_token(model: AdaptedModel, rows: list[list[tuple[int, int]]], workers: int) -> None:
    examples = [example([token for token, _ in row], [mask for _, mask in row], line) for line, row in enumerate(rows, 1)]
    scored = evaluate(model, examples, workers)
    total = 0.0
    for one, result in zip(examples, scored.rows, strict=True):
        expected = plainly(model, one.ids)
        assert (result.file, result.line) == ("rows.jsonl", one.line) and len(result.logprobs) == len(one.ids)
        for at, value in enumerate(result.logprobs):
            if at == 0 or not one.trained[at]:
                assert value is None
            else:
                assert value == pytest.approx(expected[at], abs=1e-4)
        known = [value for value in result.logprobs if value is not None]
        assert result.loss == pytest.approx(-sum(known) / len(known))
        total -= sum(known)
    assert scored.tokens == sum(int(one.trained[1:].sum()) for one in examples)
    assert scored.loss == pytest.approx(total / scored.tokens, abs=1e-6)
    assert scored.perplexity == pytest.approx(math.exp(scored.loss))


def test_rows_do_not_see_each_other(model: AdaptedModel) -> None:
    one, other = example([1, 2, 3, 4], [0, 1, 1, 1], 1), example([9, 8, 7], [0, 1, 1], 2)
    together = evaluate(model, [one, other], 2)
    assert together.rows == (evaluate(model, [one], 1).rows[0], evaluate(model, [other], 1).rows[0])


def test_the_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert Evaluation(2.0, 1, ()).perplexity == pytest.approx(7.389, abs=1e-3)
    assert Evaluation(1e6, 1, ()).perplexity == math.inf
    assert RowScore("x", 1, (None, -1.0, None, -3.0)).loss == 2
