"""AdamW against the paper's formulas in float64, written out for one array at a time."""

import math
from typing import Any

import numpy as np
import pytest

from edgetune.config import TrainingConfig
from edgetune.training.optimizer import AdamW, global_norm

SHAPES: dict[str, tuple[int, ...]] = {"matrix": (5, 4), "norm": (6,), "other": (3, 2)}


def textbook(start: np.ndarray, gradients: list[np.ndarray], rates: list[float], config: TrainingConfig) -> np.ndarray:
    """Algorithm 2 of arXiv:1711.05101 with the schedule's rate as PyTorch applies it; vectors do not decay."""
    x, m, v = start.astype(np.float64), np.zeros(start.shape), np.zeros(start.shape)
    first, second = config.betas
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        x = x - (rate * config.weight_decay * x if x.ndim > 1 else 0)
        m = first * m + (1 - first) * g
        v = second * v + (1 - second) * g**2
        x = x - rate * (m / (1 - first**t)) / (np.sqrt(v / (1 - second**t)) + config.eps)
    return x


@pytest.mark.parametrize(
    "settings",
    [{}, {"weight_decay": 0.0}, {"weight_decay": 0.3}, {"betas": (0.8, 0.95)}, {"betas": (0.0, 0.0)}, {"eps": 1e-3}],
)
def test_updates_are_those_of_the_paper(settings: dict[str, Any]) -> None:
    config, random = TrainingConfig(**settings), np.random.default_rng(0)
    start = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}
    steps = [{name: random.normal(0, 0.1, shape) for name, shape in SHAPES.items()} for _ in range(12)]
    rates = [1e-2 / (step + 1) for step in range(12)]
    parameters = {name: array.copy() for name, array in start.items()}
    optimizer = AdamW(parameters, config)
    for gradients, rate in zip(steps, rates, strict=True):
        optimizer.update({name: array.astype(np.float32) for name, array in gradients.items()}, rate)
    for name, array in parameters.items():
        expected = textbook(start[name], [gradients[name] for gradients in steps], rates, config)
        np.testing.assert_allclose(array, expected, rtol=2e-5, atol=2e-6)
    assert optimizer.updates == 12


def test_lora_plus_is_another_rate_for_b_and_for_vectors() -> None:
    """As if B and the magnitude were trained at four times the rate; decay goes with the rate."""
    random, config = np.random.default_rng(3), TrainingConfig(weight_decay=0.1)
    shapes = {"x.lora_A": (2, 5), "x.lora_B": (4, 2), "x.lora_magnitude_vector": (4,)}
    start = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    steps = [{name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(3)]
    made: dict[tuple[float, float], dict[str, np.ndarray]] = {}
    for ratio, rate in ((4.0, 1e-2), (1.0, 1e-2), (1.0, 4e-2)):
        made[ratio, rate] = {name: array.copy() for name, array in start.items()}
        optimizer = AdamW(made[ratio, rate], config, ratio)
        for gradients in steps:
            optimizer.update({name: array.copy() for name, array in gradients.items()}, rate)
    for name, array in made[4.0, 1e-2].items():
        np.testing.assert_array_equal(array, made[1.0, 1e-2 if name == "x.lora_A" else 4e-2][name])


def test_the_scale_of_clipping_scales_the_gradients() -> None:
    random = np.random.default_rng(1)
    gradient = random.normal(0, 1, (4, 4)).astype(np.float32)
    plain, scaled = {"x": np.ones((4, 4), np.float32)}, {"x": np.ones((4, 4), np.float32)}
    one, other = AdamW(plain, TrainingConfig()), AdamW(scaled, TrainingConfig())
    one.update({"x": gradient * np.float32(0.25)}, 1e-2)
    other.update({"x": gradient.copy()}, 1e-2, scale=0.25)
    assert np.array_equal(one.mean["x"], other.mean["x"]) and np.array_equal(plain["x"], scaled["x"])


def test_a_gradient_of_zero_only_decays() -> None:
    parameters = {"matrix": np.ones((2, 2), np.float32), "vector": np.ones(2, np.float32)}
    AdamW(parameters, TrainingConfig(weight_decay=0.5)).update({name: np.zeros_like(a) for name, a in parameters.items()}, 0.1)
    assert np.allclose(parameters["matrix"], 0.95) and (parameters["vector"] == 1).all()


def test_moments_that_are_put_back_go_on_bit_for_bit() -> None:
    random = np.random.default_rng(2)
    steps = [{name: random.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(6)]
    whole = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    optimizer = AdamW(whole, TrainingConfig())
    for number, gradients in enumerate(steps):
        if number == 3:
            saved = {name: array.copy() for name, array in optimizer.arrays().items()}
            parted = {name: array.copy() for name, array in whole.items()}
        optimizer.update({name: array.copy() for name, array in gradients.items()}, 0.01)
    assert set(saved) == {f"{moment}.{name}" for moment in ("mean", "square") for name in SHAPES}
    resumed = AdamW(parted, TrainingConfig())
    resumed.restore(saved, 3)
    for gradients in steps[3:]:
        resumed.update({name: array.copy() for name, array in gradients.items()}, 0.01)
    assert all(np.array_equal(whole[name], parted[name]) for name in SHAPES)


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_13_moments_of_other_parameters_are_refused(damage: str) -> None:
    parameters = {"a": np.zeros((4, 2), np.float32), "b": np.zeros((4, 2), np.float32)}
    optimizer = AdamW(parameters, TrainingConfig())
    arrays = {name: np.ones_like(array) for name, array in optimizer.arrays().items()}
    if damage == "missing":
        del arrays["square.b"]
    elif damage == "extra":
        arrays["mean.c"] = np.ones((4, 2), np.float32)
    else:
        arrays["mean.b"] = np.ones((1, 2), np.float32)  # would broadcast
    with pytest.raises(ValueError, match=r"square\.b|mean\.c|mean\.b"):
        optimizer.restore(arrays, 5)
    assert optimizer.updates == 0 and not any(array.any() for array in optimizer.arrays().values())


def test_the_norm_is_of_all_gradients_as_one_vector() -> None:
    assert global_norm({"a": np.array([3.0], np.float32), "b": np.array([[0.0, 4.0]], np.float32)}) == 5
    assert global_norm({"a": np.full(10_000, 1e20, np.float32)}) == pytest.approx(1e22)
    assert math.isnan(global_norm({"a": np.array([np.nan], np.float32)}))
    assert math.isinf(global_norm({"a": np.array([np.inf], np.float32)}))
