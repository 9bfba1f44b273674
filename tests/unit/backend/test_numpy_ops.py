"""Dropout follows from its key alone, and positions without a target cost and change nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import write_model

from edgetune.architecture import transformer
from edgetune.architecture.load import load_model
from edgetune.backend import numpy_linear
from edgetune.backend.numpy_attention import mask, rotation, tiles
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_stream import DropoutKey
from edgetune.backend.numpy_tape import Value
from edgetune.backend.numpy_weights import Plain
from edgetune.backend.ops import Adapter, HeadShape, Joint, Linear, Row
from edgetune.backend.rope import Rope

H = np.ones((64, 48), np.float32)


def part(name: str = "model.layers.0.self_attn.q_proj", dropout: float = 0.25) -> Linear:
    return Linear(name, Plain(np.zeros((4, 48), np.float32)), adapter=Adapter(1.0, dropout))


def mask_of(key: DropoutKey, linear: Linear | None = None, h: np.ndarray = H) -> np.ndarray:
    ops = NumpyOps({})
    ops.dropout_key = key
    return ops.dropout_mask(h, linear or part())


KEY = DropoutKey(7, 3, 1)


def test_a_mask_is_a_pure_function_of_seed_step_row_and_name() -> None:
    mask = mask_of(KEY)
    assert np.array_equal(mask, mask_of(DropoutKey(*KEY)))
    others = [mask_of(key) for key in (DropoutKey(8, 3, 1), DropoutKey(7, 4, 1), DropoutKey(7, 3, 2), DropoutKey(7, 1, 3))]
    others += [mask_of(KEY, part("model.layers.0.self_attn.k_proj")), mask_of(KEY, part("model.layers.1.self_attn.q_proj"))]
    for other in others:
        kept_by_both = np.mean((mask > 0) & (other > 0))
        assert kept_by_both == pytest.approx(0.75**2, abs=0.05)  # as of masks that know nothing of each other


def test_large_seeds_and_steps_have_masks() -> None:
    assert not np.array_equal(
        mask_of(DropoutKey(2**63 - 1, 2**31 - 1, 2**31)), mask_of(DropoutKey(2**63 - 2, 2**31 - 1, 2**31))
    )


def test_no_stretch_of_a_mask_comes_again_in_another_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names' checksums can be neighbours; the random numbers that follow from them must not be."""
    monkeypatch.setattr(numpy_linear, "crc32", lambda name: 70 if b"q_proj" in name else 71)
    one, other = (mask_of(KEY, part(f"model.layers.0.self_attn.{kind}")).ravel() > 0 for kind in ("q_proj", "k_proj"))
    for shift in range(-20, 21):
        a, b = (one[shift:], other[: len(other) - shift]) if shift >= 0 else (one[:shift], other[-shift:])
        assert np.mean(a == b) < 0.75


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_the_share_is_right_and_the_rest_is_raised_to_make_up_for_it(dropout: float) -> None:
    values = mask_of(KEY, part(dropout=dropout), np.ones((300, 300), np.float32))
    assert np.mean(values == 0) == pytest.approx(dropout, abs=0.01)
    assert np.unique(values[values > 0]).tolist() == pytest.approx([1 / (1 - dropout)])
    assert values.mean() == pytest.approx(1, abs=0.03)


def test_dropout_takes_from_the_adapter_s_input_alone() -> None:
    random = np.random.default_rng(0)
    linear = part(dropout=0.5)
    weight = random.normal(0, 1, (4, 48)).astype(np.float32)
    linear = linear._replace(weight=Plain(weight))
    parameters = {
        f"{linear.name}.lora_A": random.normal(0, 1, (2, 48)).astype(np.float32),
        f"{linear.name}.lora_B": random.normal(0, 1, (4, 2)).astype(np.float32),
    }
    x = random.normal(0, 1, (9, 48)).astype(np.float32)
    ops = NumpyOps(parameters)
    ops.dropout_key = KEY
    given = ops.project(Value(x), Joint((linear,))).data
    a, b = parameters.values()
    np.testing.assert_allclose(given, x @ weight.T + (x * mask_of(KEY, linear, x)) @ a.T @ b.T, atol=1e-4)
    ops.learning = False
    np.testing.assert_allclose(ops.project(Value(x), Joint((linear,))).data, x @ (weight + b @ a).T, atol=1e-4)


CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("frozen", [0, 3])
def test_only_the_positions_that_are_asked_for_go_on(frozen: int, tmp_path: Path) -> None:
    write_model(tmp_path, CONFIG, 5)
    model = load_model(tmp_path)._replace(frozen_layers=frozen)
    tokens = np.arange(20, dtype=np.int32)
    row = Row(tokens, np.full(20, -1, np.int32), ((0, 12), (12, 20)))
    seen: list[int] = []

    class Counting(NumpyOps):
        def gated(self, gate_up: Value, activation: str) -> Value:
            seen.append(len(gate_up.data))
            return super().gated(gate_up, activation)

    whole = transformer.hidden(Counting({}), model, row, np.arange(20)).data
    kept = np.array([3, 4, 12, 19])
    seen.clear()
    few = transformer.hidden(Counting({}), model, row, kept).data
    np.testing.assert_allclose(few, whole[kept], atol=1e-5)
    assert seen == ([20, 20, 4] if frozen == 0 else [20, 20, 20])


def test_no_block_of_attention_looks_further_than_it_must() -> None:
    for head, queries, keys in tiles(2, ((0, 300), (300, 420)), None):
        start = 0 if queries.start < 300 else 300
        assert head in (0, 1) and keys == slice(start, queries.stop)
    assert all(keys.start >= queries.start + 1 - 50 and keys.start >= 0 for _, queries, keys in tiles(1, ((0, 300),), 50))


def test_a_mask_hides_the_future_and_what_the_window_has_passed() -> None:
    assert (mask(3, 2, None, np.float32)[:, 0] < 0).tolist() == [[False, True, True], [False, False, True], [False] * 3]
    windowed = (mask(2, 3, 3, np.float32)[:, 0] < 0).tolist()
    assert windowed == [[True, False, False, False, True], [True, True, False, False, False]]


def test_positions_begin_anew_in_each_span_and_go_on_from_an_offset() -> None:
    shape = HeadShape(2, 2, 8, 1.0, Rope(8))
    cos, sin = rotation(((0, 5), (5, 8)), shape.rope, np.float32)
    assert np.array_equal(cos[5:8], cos[:3]) and np.array_equal(sin[5:8], sin[:3])
    later, _ = rotation(((0, 2),), shape.rope, np.float32, 3)
    assert np.array_equal(later, cos[3:5])
    ones, zeros = rotation(((0, 4),), None, np.float32)
    assert ones.shape == zeros.shape == (4, 1, 0)
