"""Rows of single tokens, trained: against finite differences, against a copy that is trained whole, backend against backend."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import uniform, write_model
from test_model_gradients import CASES, apart, as_one, check_finite_differences, factors, learn, make_rows, small_tiles

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter, LoraFactors, TokenRows
from edgetune.adapters.peft import write_peft
from edgetune.architecture.load import Source, build_model, load_model
from edgetune.architecture.quantized_base import QuantizedBase
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.export.merge import merge
from edgetune.training.loss import log_probabilities, mean_loss, trained_logits

# llama: an untied head; llama-tied; gemma2: tied, a scaled embedding and bent logits; granite: scaled everywhere.
FAMILIES = ["llama", "llama-tied", "gemma2", "granite"]
IDS = (60, 3, 17, 41, 0)


def adapter_of(config: dict[str, Any], folder: Path, dtype: type = np.float32, dora: bool = False) -> LoraAdapter:
    """A random adapter on every linear layer, and rows near to those of the model in `folder`."""
    arrays, weights = factors(config, dtype), WeightFolder(folder)
    paths = [name.removesuffix(".lora_A") for name in arrays if name.endswith(".lora_A")]
    modules = {path: LoraFactors(arrays[f"{path}.lora_A"], arrays[f"{path}.lora_B"], 1.5) for path in paths}
    if dora:
        modules = {
            path: each._replace(magnitude=1 + uniform(1, f"{path}.m", each.b.shape[:1], 0.2)) for path, each in modules.items()
        }
    heads = ("model.embed_tokens",) if config["tie_word_embeddings"] else ("model.embed_tokens", "lm_head")
    tokens = {
        path: TokenRows(IDS, (weights.floats(f"{path}.weight", np.array(IDS)) + uniform(2, path, (5, 32), 0.2)).astype(dtype))
        for path in heads
    }
    return LoraAdapter(modules, tokens=tokens)


def made(name: str, tmp_path: Path, **changes: Any) -> LoraAdapter:
    config = {**CASES[name], **changes}
    write_model(tmp_path / "base", config, 1)
    return adapter_of(config, tmp_path / "base")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_finite_differences(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    write_model(tmp_path, CASES[name], 1)
    lora, folder = adapter_of(CASES[name], tmp_path, np.float64), WeightFolder(tmp_path)
    wide = {key: folder.floats(key).astype(np.float64) for key in folder.tensors}
    check_finite_differences(build_model(Source(read_spec(tmp_path), arrays=wide), lora.places()), lora.trained_arrays())


@pytest.mark.parametrize("name", FAMILIES)
def test_they_learn_what_the_same_rows_of_a_whole_matrix_learn(name: str, tmp_path: Path) -> None:
    """The gradient of an embedding that is trained whole, at those rows, is theirs."""
    lora = made(name, tmp_path)
    spec, folder, own = read_spec(tmp_path / "base"), WeightFolder(tmp_path / "base"), lora.trained_arrays()
    loss, gradients = learn(load_model(tmp_path / "base", lora.places()), own, make_rows(61, packed=True))
    whole = {f"{path}.weight": folder.floats(f"{path}.weight") for path in lora.tokens}
    for path, rows in lora.tokens.items():
        whole[f"{path}.weight"][list(IDS)] = rows.values
    modules = LoraAdapter(lora.factors)
    model = build_model(Source(spec, folder, arrays=whole), modules.places())
    expected_loss, expected = learn(model, {**modules.trained_arrays(), **whole}, make_rows(61, packed=True))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for path in lora.tokens:
        theirs = expected.pop(f"{path}.weight")[list(IDS)]
        assert apart({"rows": gradients.pop(f"{path}.trainable_tokens_delta")}, {"rows": theirs}) < 1e-5
    assert apart(as_one(gradients), as_one(expected)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_apart_together_and_recomputed_they_learn_the_same(name: str, tmp_path: Path) -> None:
    lora = made(name, tmp_path)
    model, own = load_model(tmp_path / "base", lora.places()), lora.trained_arrays()
    loss, gradients = learn(model, own, make_rows(61, packed=True))
    other_loss, others = learn(model, own, make_rows(61, packed=False), workers=2)
    again_loss, again = learn(model, own, make_rows(61, packed=True), recompute=True)
    assert loss == again_loss == pytest.approx(other_loss, rel=1e-5)
    assert apart(gradients, others) < 1e-4 and apart(gradients, again) == 0


def test_no_layer_is_frozen_above_an_embedding_that_learns(tmp_path: Path) -> None:
    lora = made("llama", tmp_path)
    last = LoraAdapter({path: each for path, each in lora.factors.items() if ".2." in path})
    both = LoraAdapter(last.factors, tokens=lora.tokens)
    assert load_model(tmp_path / "base", last.places()).frozen_layers == 2
    model = load_model(tmp_path / "base", both.places())
    assert model.frozen_layers == 0
    _, gradients = learn(model, both.trained_arrays(), make_rows(61, packed=True))
    assert all(gradients[f"{path}.trainable_tokens_delta"].any() for path in lora.tokens)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma2"])
def test_the_merged_model_computes_the_same(name: str, dtype: str, dora: bool, tmp_path: Path) -> None:
    """Those rows are the adapter's, and of the others not a bit has changed."""
    base = tmp_path / "base"
    write_model(base, CASES[name], 1, dtype)
    lora = adapter_of(CASES[name], base, dora=dora)
    (tmp_path / "adapter").mkdir()
    write_peft(tmp_path / "adapter", lora)
    merge(base, tmp_path / "adapter", tmp_path / "merged", dtype="float32")
    ours, whole = open_adapted(base, tmp_path / "adapter"), open_adapted(tmp_path / "merged")
    for row in make_rows(61, packed=False)[:1]:
        apart_by = trained_logits(NumpyRunner(ours.parameters, 1), ours.model, row) - trained_logits(
            NumpyRunner({}, 1), whole.model, row
        )
        assert np.abs(apart_by).max() < 1e-4
    before, after = WeightFolder(base), WeightFolder(tmp_path / "merged")
    for path, rows in lora.tokens.items():
        now, others = after.floats(f"{path}.weight"), np.setdiff1d(np.arange(61), IDS)
        assert np.array_equal(now[list(IDS)], rows.values)
        assert np.array_equal(now[others], before.floats(f"{path}.weight")[others])


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_mlx_learns_what_numpy_learns(name: str, recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")
    from edgetune.backend import mlx_ops
    from edgetune.backend.mlx_runner import MlxRunner
    from edgetune.training.loss import row_loss

    lora = made(name, tmp_path)
    model, own, rows = load_model(tmp_path / "base", lora.places()), lora.trained_arrays(), make_rows(61, packed=recompute)
    monkeypatch.setattr(mlx_ops, "NARROWEST", 16)
    monkeypatch.setattr(mlx_ops, "TILE_BYTES", 1)
    runner, numpy = MlxRunner(own, 2), NumpyRunner(own, 1)
    loss, gradients = runner.loss_and_gradients(row_loss(model, recompute), rows)
    expected_loss, expected = learn(model, own, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert apart({key: np.array(gradient) for key, gradient in gradients.items()}, expected) < 2e-5
    assert mean_loss(runner, model, rows)[0] == pytest.approx(expected_loss, rel=1e-5)
    for ours, others in zip(log_probabilities(runner, model, rows), log_probabilities(numpy, model, rows), strict=True):
        assert np.abs(ours - others).max() < 1e-4
    assert np.abs(trained_logits(runner, model, rows[0]) - trained_logits(numpy, model, rows[0])).max() < 1e-4


@pytest.mark.parametrize("backend", ["numpy", pytest.param("mlx", marks=pytest.mark.slow)])
def test_on_a_packed_base_they_stay_floats(backend: str, tmp_path: Path) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")
    from edgetune.backend.choice import choose_backend

    config = {**CASES["qwen3"], "hidden_size": 64, "intermediate_size": 128}
    write_model(tmp_path, config, 1)
    weights = WeightFolder(tmp_path)
    source = Source(read_spec(tmp_path), weights, packed=QuantizedBase(weights, "4bit"))
    values = weights.floats("model.embed_tokens.weight", np.array(IDS)) + 1
    lora = LoraAdapter({}, tokens={"model.embed_tokens": TokenRows(IDS, values)})
    row = make_rows(61, packed=False)[0]
    row = row._replace(tokens=np.resize(np.array(IDS, np.int32), row.tokens.shape))
    model, own = build_model(source, lora.places()), lora.trained_arrays()
    logits = trained_logits(choose_backend(backend).runner(own, 1), model, row)
    floats = weights.floats("model.embed_tokens.weight")
    floats[list(IDS)] = values
    mixed = build_model(Source(read_spec(tmp_path), weights, {"model.embed_tokens.weight": floats}, source.packed), {})
    expected = trained_logits(NumpyRunner({}, 1), mixed, row)
    assert np.abs(logits[:, list(IDS)] - expected[:, list(IDS)]).max() < 1e-3 * np.abs(expected).max()
