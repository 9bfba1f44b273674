"""Whole tiny models of every switch: their gradients against finite differences in float64.

And packing, recomputing, freezing and sharing out among workers, which must change nothing.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from random_model import linear_shapes, parameters, tokens, uniform, write_model

from edgetune.architecture.load import Source, build_model, load_model, trained_copy
from edgetune.architecture.quantized_base import QuantizedBase
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.transformer import Layer, Model
from edgetune.architecture.weights import WeightFolder
from edgetune.backend import numpy_attention, numpy_linear, numpy_loss, numpy_ops
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.numpy_weights import Quantized
from edgetune.backend.ops import Adapter, Norm, Row
from edgetune.config import QuantizeBase
from edgetune.training.loss import row_loss

pytestmark = pytest.mark.slow  # together

STORED = json.loads((Path(__file__).parent / "fixtures" / "transformers.json").read_text("utf-8"))
CASES = {name: case["v5"] for name, case in STORED["cases"].items() if case["dtype"] == "F32"}
OTHER_FAMILIES = ("caps", "post-norms", "only-post-norms")  # each switch of Gemma by itself, and OLMo 2's
LENGTHS = (13, 1, 21, 6)
RANK = 2
Arrays = dict[str, np.ndarray]


def factors(config: Mapping, dtype: type, layers: Sequence[int] | None = None) -> Arrays:
    """A random adapter on every linear layer, or on those of some blocks."""
    arrays: Arrays = {}
    for path, (outputs, inputs) in linear_shapes(config).items():
        if layers is None or int(path.split(".")[2]) in layers:
            arrays[f"{path}.lora_A"] = uniform(1, f"{path}.lora_A", (RANK, inputs), inputs**-0.5).astype(dtype)
            arrays[f"{path}.lora_B"] = uniform(1, f"{path}.lora_B", (outputs, RANK), 0.3).astype(dtype)
    return arrays


def adapters(arrays: Arrays, dropout: float = 0.0) -> dict[str, Adapter]:
    """Where the model carries them."""
    return {name.removesuffix(".lora_A"): Adapter(1.5, dropout) for name in arrays if name.endswith(".lora_A")}


def spec_of(config: Mapping, folder: Path) -> ModelSpec:
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return read_spec(folder)


def with_switches(model: Model, family: str, dtype: type) -> tuple[Model, Arrays]:
    """A Llama with what other families add, and the weights of the norms that this made."""
    made: Arrays = {}

    def norm(name: str, size: int) -> Norm:
        made[name] = (1 + uniform(1, name, (size,), 0.3)).astype(dtype)
        return Norm(name, made[name], 1e-5)

    def switched(index: int, layer: Layer) -> Layer:
        if family == "caps":
            return layer._replace(attention_cap=1.5, activation="gelu", window=(None, 4)[index % 2])
        layer = layer._replace(attention_post_norm=norm(f"{index}.post", 32), mlp_post_norm=norm(f"{index}.mlp_post", 32))
        if family == "post-norms":
            return layer._replace(activation="gelu")
        return layer._replace(
            query_norm=norm(f"{index}.q", 32), key_norm=norm(f"{index}.k", 16), attention_norm=None, mlp_norm=None
        )

    layers = tuple(switched(index, layer) for index, layer in enumerate(model.layers))
    caps = dict(logit_cap=2.0, embedding_scale=3.0) if family == "caps" else {}
    return model._replace(layers=layers, **caps), made


def make(name: str, method: str, dtype: type, folder: Path) -> tuple[Model, Arrays]:
    """A model and its trained arrays: an adapter's, or every weight, bias and norm."""
    config = CASES["llama" if name in OTHER_FAMILIES else name]
    stored = 1 if config["model_type"].startswith("gemma") else 0  # w for 1 + w
    weights = {
        key: array.astype(dtype) + (stored if key.endswith("norm.weight") else 0)
        for key, array in parameters(config, 1).items()
    }
    arrays = factors(config, dtype) if method == "lora" else {}
    model = build_model(Source(spec_of(config, folder), arrays=weights), adapters(arrays))
    if name in OTHER_FAMILIES:
        model, made = with_switches(model, name, dtype)
        unused = "layernorm.weight" if name == "only-post-norms" else "none"
        weights = {key: array for key, array in weights.items() if not key.endswith(unused)} | made
    return model, arrays or weights


def make_rows(vocab: int, packed: bool) -> list[Row]:
    """Four sequences, in one row or each in its own; every third token is not learned."""
    parts = []
    for index, length in enumerate(LENGTHS):
        targets = tokens(1, f"targets {index}", length, vocab)
        targets[1::3] = -1
        parts.append(Row(tokens(1, f"row {index}", length, vocab), targets, ((0, length),)))
    if not packed:
        return parts
    ends = [int(end) for end in np.cumsum(LENGTHS)]
    spans = tuple((end - length, end) for end, length in zip(ends, LENGTHS, strict=True))
    return [Row(np.concatenate([part.tokens for part in parts]), np.concatenate([part.targets for part in parts]), spans)]


def learn(
    model: Model,
    trained: Arrays,
    rows: list[Row],
    workers: int = 1,
    recompute: bool = False,
    dtype: type = np.float32,
    step: int = 0,
) -> tuple[float, Arrays]:
    """The mean loss and copies of its gradients."""
    runner = NumpyRunner(trained, workers, dtype)
    loss, gradients = runner.loss_and_gradients(row_loss(model, recompute), rows, seed=4, step=step)
    return loss, {name: gradient.copy() for name, gradient in gradients.items()}


def apart(ours: Arrays, others: Arrays) -> float:
    """The greatest difference of an array from its other, as a share of that one's length."""
    return max(float(np.linalg.norm(ours[name] - other) / np.linalg.norm(other)) for name, other in others.items())


def kinds(arrays: Arrays) -> dict[str, list[str]]:
    """Arrays of one kind, over all layers."""
    grouped: dict[str, list[str]] = {}
    for name in arrays:
        grouped.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), []).append(name)
    return grouped


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", [*CASES, *OTHER_FAMILIES])
def test_gradients_are_finite_differences(name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    check_finite_differences(*make(name, method, np.float64, tmp_path))


@pytest.mark.parametrize("precision", ["8bit", "4bit"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_gradients_on_a_quantised_base_are_finite_differences(
    precision: QuantizeBase, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch)
    config = {**CASES["qwen3"], "hidden_size": 64, "intermediate_size": 128}
    write_model(tmp_path, config, 1, dtype)
    weights, arrays = WeightFolder(tmp_path), factors(config, np.float64)
    source = Source(read_spec(tmp_path), weights, packed=QuantizedBase(weights, precision))
    model = build_model(source, adapters(arrays))
    assert isinstance(model.embedding.weight, Quantized)
    assert all(isinstance(part.weight, Quantized) for part in model.layers[0].query_key_value.parts)
    check_finite_differences(model, arrays)


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of several sizes, so that a tiny model has more than one of each."""
    monkeypatch.setattr(numpy_attention, "QUERIES", 8)
    monkeypatch.setattr(numpy_loss, "VOCABULARY", 16)
    for module in (numpy_ops, numpy_linear):
        monkeypatch.setattr(module, "BLOCK", 16)


def check_finite_differences(model: Model, trained: Arrays) -> None:
    """Along a random direction in the space of each kind of array, all layers together."""
    rows = make_rows(61, packed=True)
    _, gradients = learn(model, trained, rows, dtype=np.float64)
    largest = max(float(np.linalg.norm(gradient)) for gradient in gradients.values())
    ops = NumpyOps({}, np.float64)
    ops.parameters, ops.learning = trained, False

    def loss_at(direction: Arrays, distance: float) -> float:
        for key, array in direction.items():
            trained[key] += distance * array
        loss = sum(float(row_loss(model)(ops, row).data) for row in rows) / sum(row.trained_tokens for row in rows)
        for key, array in direction.items():
            trained[key] -= distance * array
        return loss

    for kind, names in kinds(trained).items():
        direction = {key: uniform(2, key, trained[key].shape).astype(np.float64) for key in names}
        length = np.sqrt(sum(np.sum(array**2) for array in direction.values()))
        slope = sum(float(np.vdot(gradients[key], direction[key])) for key in names) / length
        measured = (loss_at(direction, 1e-5 / length) - loss_at(direction, -1e-5 / length)) / 2e-5
        assert slope == pytest.approx(measured, rel=1e-5, abs=1e-8 * max(1, largest)), kind
        assert all(gradients[key].any() for key in names), kind


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", [*CASES, *OTHER_FAMILIES])
def test_packed_rows_learn_what_rows_apart_learn(name: str, method: str, tmp_path: Path) -> None:
    """To 1e-5 as rows are trained, and, without float32's rounding, array by array to 1e-10."""
    for dtype, limit in ((np.float32, 1e-5), (np.float64, 1e-10)):
        model, trained = make(name, method, dtype, tmp_path)
        loss, packed = learn(model, trained, make_rows(61, packed=True), dtype=dtype)
        other_loss, separate = learn(model, trained, make_rows(61, packed=False), workers=2, dtype=dtype)
        assert loss == pytest.approx(other_loss, rel=limit)
        assert apart(as_one(packed), as_one(separate)) < limit
    assert apart(packed, separate) < 1e-10


def as_one(arrays: Arrays) -> Arrays:
    """All arrays in one, to compare them as a whole."""
    return {"all": np.concatenate([array.ravel() for array in arrays.values()])}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen3", "granite", "gemma2", *OTHER_FAMILIES])
def test_recomputing_changes_nothing(name: str, method: str, tmp_path: Path) -> None:
    model, trained = make(name, method, np.float32, tmp_path)
    loss, gradients = learn(model, trained, make_rows(61, packed=True))
    again_loss, again = learn(model, trained, make_rows(61, packed=True), recompute=True)
    assert again_loss == loss
    assert all(np.array_equal(again[key], gradient) for key, gradient in gradients.items())


@pytest.mark.parametrize(
    "name",
    ["llama", "llama-attention-bias", "llama-mlp-bias", "qwen2-window", "qwen3", "granite", "phi3-window", "gemma2", "gemma3"],
)
def test_a_trained_copy_of_a_folder_has_the_same_gradients(name: str, tmp_path: Path) -> None:
    """Its joint weights lie behind each other in memory, which is another way through the ops."""
    write_model(tmp_path, CASES[name], 1)
    spec = read_spec(tmp_path)
    copy = trained_copy(spec, WeightFolder(tmp_path), seed=0)
    loss, gradients = learn(build_model(Source(spec, arrays=copy), {}), copy, make_rows(61, packed=False))
    model, trained = make(name, "full", np.float64, tmp_path)
    expected_loss, expected = learn(model, trained, make_rows(61, packed=False), dtype=np.float64)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    assert apart(gradients, expected) < 1e-4


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", ["llama-tied", "qwen2", "qwen3", "smollm3", "phi3-longrope-partial"])
def test_a_mapped_folder_has_the_same_gradients(name: str, dtype: str, tmp_path: Path) -> None:
    """The frozen weights stay in the file, in its precision."""
    write_model(tmp_path, CASES[name], 1, dtype)
    arrays = factors(CASES[name], np.float32)
    loss, gradients = learn(load_model(tmp_path, adapters(arrays)), arrays, make_rows(61, packed=False))
    folder = WeightFolder(tmp_path)
    weights = {key: folder.floats(key).astype(np.float64) for key in folder.tensors}
    wide = {key: array.astype(np.float64) for key, array in arrays.items()}
    model = build_model(Source(read_spec(tmp_path), arrays=weights), adapters(arrays))
    expected_loss, expected = learn(model, wide, make_rows(61, packed=False), dtype=np.float64)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert apart(gradients, expected) < 1e-4


@pytest.mark.parametrize("name", ["llama", "qwen2-window"])
def test_layers_before_the_first_adapter_are_only_frozen(name: str, tmp_path: Path) -> None:
    """Adapters in the last block alone learn what they learn beside adapters that do nothing."""
    write_model(tmp_path, CASES[name], 1)
    last = factors(CASES[name], np.float32, layers=[2])
    idle = {
        key: np.zeros_like(array) if "lora_B" in key else array
        for key, array in factors(CASES[name], np.float32, [0, 1]).items()
    }
    beside = {**idle, **last}
    model, whole = load_model(tmp_path, adapters(last)), load_model(tmp_path, adapters(beside))
    assert model.frozen_layers == 2 and whole.frozen_layers == 0
    loss, gradients = learn(model, last, make_rows(61, packed=True))
    expected_loss, expected = learn(whole, beside, make_rows(61, packed=True))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert apart(gradients, {key: expected[key] for key in last}) < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_run_of_the_same_step_is_the_same_to_the_bit(dropout: float, tmp_path: Path) -> None:
    """Threads may finish in any order; sums are made in the rows' order. Another number of workers: rounding."""
    write_model(tmp_path, CASES["llama"], 1)
    arrays = factors(CASES["llama"], np.float32)
    model, rows = load_model(tmp_path, adapters(arrays, dropout)), make_rows(61, packed=False) * 3
    first_loss, first = learn(model, arrays, rows, workers=2)
    for _ in range(5):
        loss, gradients = learn(model, arrays, rows, workers=2)
        assert loss == first_loss and all(np.array_equal(gradients[key], array) for key, array in first.items())
    for workers in (1, 3):
        loss, gradients = learn(model, arrays, rows, workers=workers)
        assert loss == pytest.approx(first_loss, rel=1e-6)
        assert apart(gradients, first) < 1e-5
    next_loss, _ = learn(model, arrays, rows, workers=2, step=1)
    assert (next_loss == first_loss) == (dropout == 0)
