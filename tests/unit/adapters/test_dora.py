"""DoRA begins as the model that it is put on, and survives rows without a direction."""

from dataclasses import replace

import numpy as np

from edgetune.adapters.dora import with_magnitudes
from edgetune.adapters.lora import LoraAdapter, LoraFactors
from edgetune.architecture.weights import to_bfloat16
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_tape import Value
from edgetune.backend.numpy_weights import BFloat16, Plain
from edgetune.backend.ops import Adapter, Joint, Linear


def module(weight: np.ndarray, scale: float = 2.0) -> LoraAdapter:
    random = np.random.default_rng(1)
    a, b = (random.normal(0, 1, shape).astype(np.float32) for shape in ((2, weight.shape[1]), (weight.shape[0], 2)))
    return LoraAdapter({"x": LoraFactors(a, b, scale)})


def play(weight: np.ndarray, adapter: LoraAdapter) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the layer gives for a fixed input, and its gradients."""
    ops, one = NumpyOps(adapter.trained_arrays()), adapter.factors["x"]
    layer = Linear("x", Plain(weight), adapter=Adapter(one.scale, 0.0, one.magnitude is not None))
    x = Value(np.random.default_rng(2).normal(0, 1, (5, weight.shape[1])).astype(np.float32))
    y = ops.project(x, Joint((layer,)))
    ops.backward(y, np.ones_like(y.data))
    return y.data, ops.gradients


def test_magnitudes_begin_as_the_lengths_that_rows_have() -> None:
    """In blocks, from a matrix in half precision, on an adapter that has learned already."""
    weight = np.random.default_rng(0).normal(0, 1, (600, 8)).astype(np.float32)
    lora, half = module(weight), BFloat16(to_bfloat16(weight))
    dora, one = with_magnitudes(lora, {"x": half}), lora.factors["x"]
    expected = np.linalg.norm(half.read(slice(None)) + 2 * one.b @ one.a, axis=1)
    np.testing.assert_allclose(dora.factors["x"].magnitude, expected, rtol=1e-6)
    np.testing.assert_allclose(play(weight, with_magnitudes(lora, {"x": Plain(weight)}))[0], play(weight, lora)[0], atol=1e-4)


def test_a_row_of_zeros_stays_zero_and_nothing_becomes_infinite() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (6, 4)).astype(np.float32)
    weight[2] = 0
    lora = module(weight)
    zero = lora.factors["x"]._replace(b=np.zeros((6, 2), np.float32))
    dora = with_magnitudes(replace(lora, factors={"x": zero}), {"x": Plain(weight)})
    y, gradients = play(weight, dora)
    assert not y[:, 2].any() and np.isfinite(y).all() and all(np.isfinite(array).all() for array in gradients.values())
    assert dora.factors["x"].magnitude is not None and dora.factors["x"].magnitude[2] == 0
    assert gradients["x.lora_magnitude_vector"][2] == 0 and gradients["x.lora_magnitude_vector"][0] != 0
