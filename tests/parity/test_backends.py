"""MLX against NumPy: the same models, rows and numbers on both backends, on MLX for a CPU in float32."""

import gc
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from random_model import uniform, write_model
from test_model_gradients import CASES, OTHER_FAMILIES, adapters, apart, as_one, factors, learn, make, make_rows

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")

from edgetune.architecture.load import Source, build_model, load_model
from edgetune.architecture.quantized_base import QuantizedBase
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import Model
from edgetune.architecture.weights import WeightFolder
from edgetune.backend import mlx_ops
from edgetune.backend.mlx_ops import mx
from edgetune.backend.mlx_runner import MlxRunner, padded
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.config import QuantizeBase, TrainingConfig
from edgetune.training.loss import log_probabilities, mean_loss, row_loss, trained_logits
from edgetune.training.optimizer import optimizer_of

pytestmark = pytest.mark.slow  # together

Arrays = Mapping[str, np.ndarray]
QUANTIZED = Path(__file__).parent / "fixtures" / "mlx-quantized"
SWITCHES = ["llama", "mistral-window", "qwen2", "qwen3", "llama-longrope", *OTHER_FAMILIES]


def learn_on_mlx(
    model: Model,
    trained: Arrays,
    rows: list[Row],
    together: int = 1,
    recompute: bool = False,
    compiled: bool = False,
    **key: int,
) -> tuple[float, dict[str, np.ndarray]]:
    runner = MlxRunner(trained, together, compiled=compiled)
    loss, gradients = runner.loss_and_gradients(row_loss(model, recompute), rows, **key)
    return loss, {name: np.array(gradient) for name, gradient in gradients.items()}


def wide(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", [*CASES, *OTHER_FAMILIES])
def test_every_gradient_agrees(name: str, method: str, tmp_path: Path) -> None:
    """Within 1e-5 of float64's; where float32 cannot be that exact, as near to it as NumPy's comes."""
    model, trained = make(name, method, np.float32, tmp_path)
    rows = make_rows(61, packed=True)
    loss, gradients = learn_on_mlx(model, trained, rows)
    expected_loss, expected = learn(model, trained, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    exact_model, exact_trained = make(name, method, np.float64, tmp_path)
    _, exact = learn(exact_model, exact_trained, rows, dtype=np.float64)
    for key in gradients:
        ours, others, right = ({key: arrays[key]} for arrays in (gradients, expected, exact))
        assert apart(ours, right) < max(1e-5, 3 * apart(others, right)), key


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", SWITCHES)
def test_packed_apart_together_recomputed_in_small_tiles(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the rows go through, they learn the same."""
    model, trained = make(name, method, np.float32, tmp_path)
    expected_loss, expected = learn(model, trained, make_rows(61, packed=False))
    for packed, together, recompute in ((False, 1, False), (False, 3, False), (False, 4, True), (True, 1, True)):
        monkeypatch.setattr(mlx_ops, "NARROWEST", 16 if recompute else 1024)
        monkeypatch.setattr(mlx_ops, "TILE_BYTES", 1)
        loss, gradients = learn_on_mlx(model, trained, make_rows(61, packed), together, recompute)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert apart(as_one(gradients), as_one(expected)) < 1e-5, (packed, together, recompute)


@pytest.mark.parametrize("name", [*CASES, *OTHER_FAMILIES])
def test_every_log_probability_agrees(name: str, tmp_path: Path) -> None:
    model, trained = make(name, "lora", np.float32, tmp_path)
    rows = [*make_rows(61, packed=False), *make_rows(61, packed=True)]
    numpy, mlx = NumpyRunner(trained, 1), MlxRunner(trained)
    for ours, others in zip(log_probabilities(mlx, model, rows), log_probabilities(numpy, model, rows), strict=True):
        assert ours.shape == others.shape and float(np.abs(ours - others).max()) < 1e-4
    assert mean_loss(mlx, model, rows)[0] == pytest.approx(mean_loss(numpy, model, rows)[0], rel=1e-6)
    assert trained_logits(mlx, model, rows[0]) == pytest.approx(trained_logits(numpy, model, rows[0]), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_twenty_steps_agree(name: str, method: str, tmp_path: Path) -> None:
    """The same losses on the way, and the same arrays at its end."""
    config, rows = TrainingConfig(rate=1e-3, weight_decay=0.1), make_rows(61, packed=False)
    ends: list[Arrays] = []
    losses: list[list[float]] = []
    for kind in (NumpyRunner, MlxRunner):
        model, trained = make(name, method, np.float32, tmp_path)
        runner = kind(trained, 2)
        optimizer = optimizer_of(runner, config)
        losses.append([])
        for step in range(20):
            loss, gradients = runner.loss_and_gradients(row_loss(model), rows, 1, step)
            optimizer.update(gradients, config.rate, scale=min(1.0, 1 / optimizer.norm(gradients)))
            losses[-1].append(loss)
        ends.append(runner.trained())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[0][-1] < 0.8 * losses[0][0]
    assert apart(as_one(dict(ends[1])), as_one(dict(ends[0]))) < 1e-4


@pytest.mark.slow  # MLX has a C++ compiler make each kernel on a CPU
def test_a_compiled_step_is_the_same_step_and_compiled_once_for_lengths_that_are_near(tmp_path: Path) -> None:
    config = {**CASES["llama"], "num_hidden_layers": 1}
    write_model(tmp_path, config, 1)
    arrays = factors(config, np.float32)
    model, long = load_model(tmp_path, adapters(arrays, 0.2)), make_rows(61, packed=True)[0]
    traced: list[int] = []

    def loss(ops: mlx_ops.MlxOps, row: Row) -> object:
        traced.append(len(row.tokens))
        return row_loss(model)(ops, row)

    runner, plain = MlxRunner(arrays, compiled=True), MlxRunner(arrays)
    optimizer, plainly = optimizer_of(runner, TrainingConfig()), optimizer_of(plain, TrainingConfig())
    for step, length in enumerate((23, 21, 22)):
        rows = [Row(long.tokens[:length], long.targets[:length], ((0, length),))]
        given, gradients = runner.loss_and_gradients(loss, rows, 1, step)
        expected, others = plain.loss_and_gradients(row_loss(model), rows, 1, step)
        assert given == pytest.approx(expected, rel=1e-6)
        assert optimizer.norm(gradients) == pytest.approx(plainly.norm(others), rel=1e-5)
        optimizer.update(gradients, 1e-2)
        plainly.update(others, 1e-2)
        now, plain_now = ({name: np.array(array) for name, array in each.parameters.items()} for each in (runner, plain))
        assert apart(as_one(now), as_one(plain_now)) < 1e-5
    assert traced == [24]


# ---- dropout -----------------------------------------------------------------------------------------------------------


def with_dropout(tmp_path: Path, share: float, dora: bool = False) -> tuple[Model, dict[str, np.ndarray]]:
    write_model(tmp_path, CASES["qwen2"], 1)
    arrays = factors(CASES["qwen2"], np.float32)
    places = {path: adapter._replace(dora=dora) for path, adapter in adapters(arrays, share).items()}
    for path in places if dora else ():
        name = f"{path}.lora_magnitude_vector"
        arrays[name] = 1 + uniform(1, name, arrays[f"{path}.lora_B"].shape[:1], 0.2)
    return load_model(tmp_path, places), arrays


def test_dropout_follows_from_seed_step_row_and_layer_alone(tmp_path: Path) -> None:
    model, trained = with_dropout(tmp_path, 0.3)
    rows = make_rows(61, packed=False)

    def loss(seed: int, step: int, together: int = 1, recompute: bool = False) -> float:
        return learn_on_mlx(model, trained, rows, together, recompute, seed=seed, step=step)[0]

    assert loss(1, 2) == loss(1, 2) != loss(1, 3) != loss(2, 2)
    assert loss(1, 2) == pytest.approx(loss(1, 2, recompute=True), rel=1e-6)
    assert learn_on_mlx(model, trained, [rows[0], rows[0]], seed=1)[0] != learn_on_mlx(model, trained, rows[:1], seed=1)[0]
    without, _ = with_dropout(tmp_path, 0.0)
    runner = MlxRunner(trained)
    assert mean_loss(runner, model, rows) == mean_loss(runner, without, rows)  # a validation leaves nothing out


@pytest.mark.parametrize(("dora", "recompute"), [(False, False), (False, True), (True, False), (True, True)])
def test_dropout_learns_what_numpy_learns_with_the_same_mask(
    dora: bool, recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trained = with_dropout(tmp_path, 0.3, dora)
    row = make_rows(61, packed=False)[2]
    row = row._replace(tokens=row.tokens[:20], targets=np.maximum(row.targets[:20], 0), spans=((0, 20),))  # no padding
    masks: dict[str, np.ndarray] = {}
    dropped = mlx_ops.MlxOps.dropped

    def recorded(ops: mlx_ops.MlxOps, h: object, part: object) -> object:
        masks[part.name] = np.array(dropped(ops, mx.ones(h.shape), part))  # type: ignore[attr-defined]
        return dropped(ops, h, part)

    monkeypatch.setattr(mlx_ops.MlxOps, "dropped", recorded)
    monkeypatch.setattr(NumpyOps, "dropout_mask", lambda ops, h, part: masks[part.name])
    loss, gradients = learn_on_mlx(model, trained, [row], recompute=recompute)
    expected_loss, expected = learn(model, trained, [row])
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert apart(as_one(gradients), as_one(expected)) < 1e-5
    kept = np.concatenate([mask.ravel() for mask in masks.values()])
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.7)}
    assert 0.27 < float((kept == 0).mean()) < 0.33 and not np.array_equal(*list(masks.values())[:2])


@pytest.mark.parametrize("recompute", [False, True])
def test_dora_learns_what_numpy_learns(recompute: bool, tmp_path: Path) -> None:
    model, trained = with_dropout(tmp_path, 0.0, dora=True)
    rows = make_rows(61, packed=True)
    loss, gradients = learn_on_mlx(model, trained, rows, recompute=recompute)
    expected_loss, expected = learn(model, trained, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert apart(gradients, expected) < 2e-5
    assert mean_loss(MlxRunner(trained), model, rows)[0] == pytest.approx(expected_loss, rel=1e-5)


def test_a_higher_rate_of_b_is_the_same_on_both(tmp_path: Path) -> None:
    """LoRA+, and DoRA's magnitudes, which learn at that rate too and do not decay."""
    config, ends = TrainingConfig(weight_decay=0.5), list[Arrays]()
    for kind in (NumpyRunner, MlxRunner):
        model, trained = with_dropout(tmp_path, 0.0, dora=True)
        runner = kind(trained, 2)
        optimizer = optimizer_of(runner, config, rate_ratio=8)
        for step in range(4):
            _, gradients = runner.loss_and_gradients(row_loss(model), make_rows(61, packed=True), 1, step)
            optimizer.update(gradients, 1e-3)
        ends.append(runner.trained())
    assert apart(dict(ends[1]), dict(ends[0])) < 1e-4


# ---- quantised weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted(path.name for path in QUANTIZED.iterdir()))
def test_checkpoints_that_mlx_quantised_compute_the_same(folder: str) -> None:
    """They stay packed: MLX multiplies with them as they are, in bfloat16, in which their scales are stored."""
    trained = factors(json.loads((QUANTIZED / folder / "config.json").read_text()), np.float32)
    model, rows = load_model(QUANTIZED / folder, adapters(trained)), make_rows(61, packed=True)
    runner = MlxRunner(trained)
    loss, gradients = runner.loss_and_gradients(row_loss(model), rows)
    expected_loss, expected = learn(model, trained, rows)
    assert loss == pytest.approx(expected_loss, rel=3e-2)
    assert apart(as_one({name: np.array(array) for name, array in gradients.items()}), as_one(expected)) < 0.2
    assert sum(isinstance(made, mlx_ops.Packed) for _, made in runner.constants.made.values()) >= 3 * len(model.layers)


@pytest.mark.parametrize("precision", ["8bit", "4bit"])
def test_a_base_that_is_packed_on_load_learns_the_same(precision: QuantizeBase, tmp_path: Path) -> None:
    config = {**CASES["qwen3"], "hidden_size": 64, "intermediate_size": 128}
    write_model(tmp_path, config, 1)
    weights, trained = WeightFolder(tmp_path), factors(config, np.float32)
    source = Source(read_spec(tmp_path), weights, packed=QuantizedBase(weights, precision))
    model, rows = build_model(source, adapters(trained)), make_rows(61, packed=True)
    loss, gradients = learn_on_mlx(model, trained, rows)
    expected_loss, expected = learn(model, trained, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert apart(as_one(gradients), as_one(expected)) < 1e-5


# ---- weights in half precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [("F16", 1e-5), ("BF16", 0.2)])
def test_half_precision_weights_stay_as_they_are_stored(dtype: str, limit: float, tmp_path: Path) -> None:
    """float16's products are float32's. bfloat16's are rounded to three digits, which this model, made to be touchy, shows."""
    write_model(tmp_path, CASES["qwen3"], 1, dtype)
    arrays = factors(CASES["qwen3"], np.float32)
    model, rows = load_model(tmp_path, adapters(arrays)), make_rows(61, packed=False)
    runner = MlxRunner(arrays)
    loss, gradients = runner.loss_and_gradients(row_loss(model), rows)
    expected_loss, expected = learn(model, arrays, rows)
    assert loss == pytest.approx(expected_loss, rel=limit)
    assert apart(as_one({name: np.array(array) for name, array in gradients.items()}), as_one(expected)) < limit
    made = [made.weight for _, made in runner.constants.made.values() if isinstance(made, mlx_ops.Dense)]
    assert {str(array.dtype) for array in made} == {{"F16": "mlx.core.float16", "BF16": "mlx.core.bfloat16"}[dtype]}
    assert all(array.dtype == mx.float32 for array in gradients.values())


# ---- memory ------------------------------------------------------------------------------------------------------------


def test_logits_exist_only_as_tiles(tmp_path: Path) -> None:
    """300 positions over a vocabulary of 60,000 are 72 MB of logits: no step needs the half of that."""
    config = {**CASES["llama-tied"], "vocab_size": 60_000, "num_hidden_layers": 1}
    arrays = factors(config, np.float32)
    write_model(tmp_path, config, 1)
    ids = np.arange(300, dtype=np.int32)
    row = Row(ids, ids + 1, ((0, 300),))
    model = load_model(tmp_path, adapters(arrays))
    runner = MlxRunner(arrays)
    runner.loss_and_gradients(row_loss(model), [row._replace(targets=np.where(ids < 3, ids, -1))])  # the weights are there
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    patch = pytest.MonkeyPatch()
    patch.setattr(mlx_ops, "TILE_BYTES", 1 << 21)
    runner.loss_and_gradients(row_loss(model), [row])
    patch.undo()
    assert runner.peak_memory() - before < 36e6


def test_no_step_leaves_anything_behind(tmp_path: Path) -> None:
    model, trained = make("llama", "lora", np.float32, tmp_path)
    runner, rows = MlxRunner(trained, 2), make_rows(61, packed=False)
    optimizer = optimizer_of(runner, TrainingConfig())
    held: list[int] = []
    gc.collect()
    for step in range(12):
        _, gradients = runner.loss_and_gradients(row_loss(model), rows, 1, step)
        optimizer.update(gradients, 1e-3)
        del gradients
        held.append(mx.get_active_memory())
    assert held[-1] <= held[3]


def test_padded_lengths_are_few_and_near() -> None:
    lengths = [padded(length) for length in range(1, 4097)]
    assert all(length <= given <= length * 1.125 + 4 for length, given in enumerate(lengths, 1))
    assert len(set(lengths)) <= 16 + 8 * 6


# ---- the trained arrays ------------------------------------------------------------------------------------------------


def test_arrays_go_to_numpy_and_back(tmp_path: Path) -> None:
    """A checkpoint of the one backend is one of the other: names, shapes, moments."""
    config = TrainingConfig()
    model, trained = make("llama", "lora", np.float32, tmp_path)
    before = {name: array.copy() for name, array in trained.items()}
    runner = MlxRunner(trained)
    optimizer = optimizer_of(runner, config)
    _, gradients = runner.loss_and_gradients(row_loss(model), make_rows(61, packed=True))
    optimizer.update(gradients, 1e-2)
    assert all(np.array_equal(trained[name], array) for name, array in before.items())
    assert runner.trained() is trained
    assert not any(np.array_equal(trained[name], array) for name, array in before.items())
    other = optimizer_of(NumpyRunner(trained, 1), config)
    other.restore(optimizer.arrays(), optimizer.updates)
    again = optimizer_of(runner, config)
    again.restore(other.arrays(), other.updates)
    assert all(np.array_equal(again.arrays()[name], array) for name, array in optimizer.arrays().items())
    with pytest.raises(ValueError, match="is only in one of them"):
        again.restore({}, 1)
    for name, array in before.items():
        trained[name][...] = array
    runner.reload()
    assert all(np.array_equal(np.array(runner.parameters[name]), array) for name, array in before.items())


def test_the_length_of_a_gradient_beyond_float32s_squares() -> None:
    norm = optimizer_of(MlxRunner({"a": np.zeros(4, np.float32)}), TrainingConfig()).norm
    assert norm({"a": mx.full((10_000,), 1e20), "b": mx.array([3.0])}) == pytest.approx(1e22)
    assert norm({"a": mx.array([3.0]), "b": mx.array([[0.0, 4.0]])}) == pytest.approx(5)
    assert norm({"a": mx.zeros((3,))}) < 1e-20
    assert np.isnan(norm({"a": mx.array([np.nan]), "b": mx.array([1.0])}))
    assert np.isinf(norm({"a": mx.array([np.inf])})) or np.isnan(norm({"a": mx.array([np.inf])}))
