"""Workers share rows out by rule, add up in one order, and leave nothing behind."""

import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_model import write_model

from edgetune.architecture import transformer
from edgetune.architecture.load import Source, build_model, load_model, trained_copy
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import Model
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_runner import NumpyRunner, shared_out
from edgetune.backend.numpy_tape import Value
from edgetune.backend.ops import Adapter, Row

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
ADAPTED = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj")


def rows_of(lengths: list[int], seed: int = 0) -> list[Row]:
    chance = np.random.default_rng(seed)
    rows: list[Row] = []
    for length in lengths:
        tokens = chance.integers(0, 40, length).astype(np.int32)
        targets = np.where(chance.random(length) < 0.6, chance.integers(0, 40, length), -1).astype(np.int32)
        targets[0] = 3
        rows.append(Row(tokens, targets, ((0, length),)))
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, CONFIG, 5)
    return load_model(folder, {path: Adapter(0.5, 0.25) for path in ADAPTED})


@pytest.fixture
def parameters() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(1)
    shapes = {"q_proj": (16, 16), "down_proj": (16, 24), "up_proj": (24, 16)}
    arrays: dict[str, np.ndarray] = {}
    for path in ADAPTED:
        outputs, inputs = shapes[path.rpartition(".")[2]]
        arrays[f"{path}.lora_A"] = chance.normal(0, 0.3, (3, inputs)).astype(np.float32)
        arrays[f"{path}.lora_B"] = chance.normal(0, 0.3, (outputs, 3)).astype(np.float32)
    return arrays


def loss_of(model: Model) -> Any:
    return lambda ops, row: transformer.loss(ops, model, row)


@given(lengths=st.lists(st.integers(1, 1000), max_size=60), workers=st.integers(1, 9))
def test_every_row_has_one_worker_and_loads_are_even(lengths: list[int], workers: int) -> None:
    shares = shared_out(lengths, workers)
    assert len(shares) == workers and sorted(index for share in shares for index in share) == list(range(len(lengths)))
    assert shares == shared_out(lengths, workers)
    loads = [sum(lengths[index] for index in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)  # the longest-first rule's bound


def test_rows_of_one_length_are_dealt_out_evenly() -> None:
    assert [len(share) for share in shared_out([7] * 12, 4)] == [3, 3, 3, 3]
    assert shared_out([1, 9, 2, 8], 2) == [[1, 0], [3, 2]]


def test_the_same_rows_give_the_same_bits_whatever_the_timing(model: Model, parameters: dict[str, np.ndarray]) -> None:
    rows = rows_of([9, 20, 5, 14, 11, 3])

    def once(delays: random.Random | None) -> bytes:
        runner = NumpyRunner(parameters, 3)

        def slow(ops: NumpyOps, row: Row) -> Value:
            if delays:
                time.sleep(0.02 * delays.random())
            return transformer.loss(ops, model, row)

        loss, gradients = runner.loss_and_gradients(slow, rows, seed=3, step=8)
        return np.float64(loss).tobytes() + b"".join(gradients[name].tobytes() for name in parameters)

    quiet = once(None)
    assert quiet == once(None) and all(once(random.Random(seed)) == quiet for seed in range(4))


def test_a_runner_that_was_used_before_gives_the_same(model: Model, parameters: dict[str, np.ndarray]) -> None:
    """Gradients of an earlier step, or of one that was not a number, are not seen in the next."""
    rows = rows_of([9, 20, 5])
    fresh, used = NumpyRunner(parameters, 2), NumpyRunner(parameters, 2)
    used.loss_and_gradients(loss_of(model), rows_of([30, 7, 2, 2], seed=1))
    for ops in used.workers:
        for gradient in ops.gradients.values():
            gradient.fill(np.nan)
    expected = fresh.loss_and_gradients(loss_of(model), rows, 1, 2)
    given_again = used.loss_and_gradients(loss_of(model), rows, 1, 2)
    assert expected[0] == given_again[0]
    assert all(np.array_equal(expected[1][name], given_again[1][name]) for name in parameters)


def test_the_number_of_workers_does_not_change_what_is_learned(model: Model, parameters: dict[str, np.ndarray]) -> None:
    rows = rows_of([9, 20, 5, 14])
    results = [NumpyRunner(parameters, workers).loss_and_gradients(loss_of(model), rows, 1, 2) for workers in (1, 2, 7)]
    for loss, gradients in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, results[0][1][name], atol=1e-5)


def test_the_loss_is_the_mean_over_trained_tokens_of_all_rows(model: Model, parameters: dict[str, np.ndarray]) -> None:
    rows = rows_of([9, 20, 5])
    runner = NumpyRunner(parameters, 2)
    sums = runner.evaluate(rows, lambda ops, index, row: float(transformer.loss(ops, model, row).data))
    means = runner.evaluate(rows, lambda ops, index, row: row.trained_tokens)
    quiet = load_quiet(model)
    loss, _ = runner.loss_and_gradients(loss_of(quiet), rows)
    assert loss == pytest.approx(sum(sums) / sum(means), rel=1e-6)


def load_quiet(model: Model) -> Model:
    """The same model without dropout."""

    def quiet(joint: Any) -> Any:
        return joint._replace(parts=tuple(p._replace(adapter=p.adapter and Adapter(p.adapter.scale)) for p in joint.parts))

    layers = tuple(
        layer._replace(
            query_key_value=quiet(layer.query_key_value), output=quiet(layer.output), gate_up=quiet(layer.gate_up), down=quiet(layer.down)
        )
        for layer in model.layers
    )  # fmt: skip
    return model._replace(layers=layers)


def test_weights_folded_once_for_all_rows_give_the_same_bits_and_follow_what_is_learned(
    model: Model, parameters: dict[str, np.ndarray]
) -> None:
    rows, learned = rows_of([9, 20, 5, 31]), {name: array.copy() for name, array in parameters.items()}
    each, shared = NumpyRunner(learned, 2), NumpyRunner(learned, 2, share_weights=True)
    for step in range(3):
        expected_loss, expected = each.loss_and_gradients(loss_of(model), rows, 1, step)
        loss, gradients = shared.loss_and_gradients(loss_of(model), rows, 1, step)
        assert loss == expected_loss
        assert all(np.array_equal(gradients[name], gradient) for name, gradient in expected.items())
        for name, array in learned.items():  # in place, as an optimiser does it
            array -= 0.3 * expected[name]
    told = [
        runner.evaluate(rows, lambda ops, index, row: float(transformer.loss(ops, model, row).data))
        for runner in (each, shared)
    ]
    assert told[0] == told[1]


def test_evaluating_leaves_no_gradient_no_tape_and_no_dropout(model: Model, parameters: dict[str, np.ndarray]) -> None:
    runner, rows = NumpyRunner(parameters, 2), rows_of([9, 20, 5])
    runner.loss_and_gradients(loss_of(model), rows)
    before = [{name: gradient.copy() for name, gradient in ops.gradients.items()} for ops in runner.workers]
    losses = runner.evaluate(rows, lambda ops, index, row: float(transformer.loss(ops, model, row).data))
    quiet = runner.evaluate(rows, lambda ops, index, row: float(transformer.loss(ops, load_quiet(model), row).data))
    assert losses == quiet
    for ops, gradients in zip(runner.workers, before, strict=True):
        assert ops.learning and not ops.tape.entries
        assert all(np.array_equal(ops.gradients[name], gradient) for name, gradient in gradients.items())


def test_results_come_in_the_rows_order(model: Model) -> None:
    rows = rows_of([3, 40, 17, 5, 22])
    assert NumpyRunner({}, 3).each(rows, lambda ops, index, row: (index, len(row.tokens))) == list(
        enumerate([3, 40, 17, 5, 22])
    )


def test_a_failing_row_is_told_and_learning_is_on_again() -> None:
    def fails(ops: NumpyOps, index: int, row: Row) -> None:
        raise OSError("gone")

    runner = NumpyRunner({}, 2)
    with pytest.raises(OSError, match="gone"):
        runner.evaluate(rows_of([3, 4]), fails)
    assert all(ops.learning for ops in runner.workers)


def test_a_diverged_training_gives_no_warnings_but_a_loss_that_is_no_number(tmp_path: Path) -> None:
    write_model(tmp_path, CONFIG, 5)
    spec = read_spec(tmp_path)
    weights = trained_copy(spec, WeightFolder(tmp_path), 0)
    for kind in ("gate_proj", "up_proj", "down_proj"):
        weights[f"model.layers.0.mlp.{kind}.weight"] *= np.float32(1e25)
    model = build_model(Source(spec, arrays=weights), {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, _ = NumpyRunner(weights, 2).loss_and_gradients(loss_of(model), rows_of([9, 5]))
    assert not np.isfinite(loss)
