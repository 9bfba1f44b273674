"""Casts round to the nearest, and refuse what a type cannot hold."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgetune.architecture.weights import from_bfloat16, to_bfloat16
from edgetune.errors import ModelError
from edgetune.export.tensor_blocks import bfloat16_to_float16, encode

FINITE = st.floats(-60_000, 60_000, width=32)


def test_every_bfloat16_becomes_the_nearest_float16() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = from_bfloat16(bits).astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(bfloat16_to_float16(bits), expected)


@given(arrays.arrays(np.float32, (3, 32), elements=FINITE))
def test_float32_is_rounded_once(values: np.ndarray) -> None:
    np.testing.assert_array_equal(encode(values, "F32", "F16", "w"), values.astype(np.float16))
    np.testing.assert_array_equal(encode(values, "F32", "BF16", "w"), to_bfloat16(values))
    assert encode(values, "F32", "F32", "w") is values
    halves = values.astype(np.float16)
    np.testing.assert_array_equal(encode(halves, "F16", "F32", "w"), halves.astype(np.float32))


def test_q8_0_of_a_block_is_that_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(0, 1, (64, 96)).astype(np.float32)
    whole = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    parts = [encode(values[at : at + 8], "F32", "Q8_0", "w") for at in range(0, 64, 8)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    restored = gguf.quants.dequantize(whole, gguf.GGMLQuantizationType.Q8_0)
    assert np.abs(restored - values).max() < np.abs(values).max() / 127


@pytest.mark.parametrize(
    ("value", "target", "words"),
    [
        (70_000, "F16", "70000, more than F16's 65504"),
        (-1e6, "F16", r"1e\+06, more than F16"),
        (1e9, "Q8_0", "more than Q8_0"),
        (3.4e38, "BF16", "more than BF16"),
    ],
)
def test_a_value_beyond_the_range_is_refused_with_its_name_and_size(value: float, target: str, words: str) -> None:
    values = np.full((1, 32), value, np.float32)
    with pytest.raises(ModelError, match=f"model.norm holds .*{words}") as caught:
        encode(values, "F32", target, "model.norm")
    assert "F32" in caught.value.hint


@pytest.mark.parametrize("target", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bad: float, target: str) -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, 5] = bad
    with pytest.raises(ModelError, match="w holds a value that is not a number"):
        encode(values, "F32", target, "w")
    with pytest.raises(ModelError, match="w holds a value that is not a number"):
        encode(to_bfloat16(values), "BF16", target, "w")


def test_the_largest_float16_is_kept() -> None:
    assert encode(np.full((1, 1), 65504, np.float32), "F32", "F16", "w")[0, 0] == 65504
