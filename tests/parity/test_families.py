"""What every family must get through besides its forward: adapters, merging, full training's folder; nothing may be lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import linear_shapes, save, tokens, uniform, write_model

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter, LoraFactors, new_lora
from edgetune.adapters.peft import write_peft
from edgetune.architecture.load import as_stored, load_model, parameter_shapes, trained_copy
from edgetune.architecture.save import copy_side_files, write_arrays
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import Model, logits
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row
from edgetune.config import AdapterConfig
from edgetune.errors import ModelError
from edgetune.export.merge import merge
from edgetune.planner.facts import shape_of
from edgetune.planner.trained import trained_parameters

STORED = json.loads((Path(__file__).parent / "fixtures" / "transformers.json").read_text("utf-8"))["cases"]
FAMILIES = {name: STORED[name]["v4"] for name in ("smollm3", "granite", "phi3-longrope-partial", "gemma2", "gemma3-pattern")}


def table(model: Model, parameters: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """(time, vocab) logits of a text that is longer than every window."""
    ops = NumpyOps({})
    ops.parameters = parameters or {}
    ids = tokens(3, "ids", 30, 61)
    return logits(ops, model, Row(ids, np.full(30, -1, np.int32), ((0, 30),)), np.arange(30))


def write_adapter(folder: Path, config: dict[str, Any]) -> None:
    """An adapter that changes every linear layer much."""
    factors = {
        path: LoraFactors(uniform(5, f"{path}.A", (2, inputs), inputs**-0.5), uniform(5, f"{path}.B", (outputs, 2)), 0.5)
        for path, (outputs, inputs) in linear_shapes(config).items()
    }
    folder.mkdir()
    write_peft(folder, LoraAdapter(factors))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_folder_computes_what_base_and_adapter_compute(name: str, tmp_path: Path) -> None:
    write_model(tmp_path / "base", FAMILIES[name], 3)
    write_adapter(tmp_path / "adapter", FAMILIES[name])
    adapted = open_adapted(tmp_path / "base", tmp_path / "adapter")
    expected = table(adapted.model, adapted.parameters)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    np.testing.assert_allclose(table(load_model(tmp_path / "merged")), expected, atol=1e-4)
    assert np.abs(table(load_model(tmp_path / "base")) - expected).max() > 0.1
    assert read_spec(tmp_path / "merged") == read_spec(tmp_path / "base")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_full_training_writes_is_what_it_read(name: str, tmp_path: Path) -> None:
    write_model(tmp_path / "base", FAMILIES[name], 3)
    spec, weights = read_spec(tmp_path / "base"), WeightFolder(tmp_path / "base")
    copy = trained_copy(spec, weights, seed=0)
    (tmp_path / "out").mkdir()
    copy_side_files(tmp_path / "base", tmp_path / "out", "F32")
    shapes = parameter_shapes(spec).items()
    write_arrays(tmp_path / "out", shapes, lambda key: as_stored(spec, key, copy[key]), "F32")
    again = WeightFolder(tmp_path / "out")
    for key in weights.tensors:
        np.testing.assert_allclose(again.floats(key), weights.floats(key), atol=2e-7)
    np.testing.assert_allclose(table(load_model(tmp_path / "out")), table(load_model(tmp_path / "base")), atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_new_weights_have_norms_that_change_nothing(name: str, tmp_path: Path) -> None:
    write_model(tmp_path, FAMILIES[name], 3)
    spec = read_spec(tmp_path)
    drawn = trained_copy(spec, None, seed=1)
    for key in (key for key in drawn if key.endswith("norm.weight")):
        assert np.all(drawn[key] == 1) and np.all(as_stored(spec, key, drawn[key]) == 1 - spec.norm_offset)
    assert trained_parameters(shape_of(spec), AdapterConfig(method="full")) == sum(array.size for array in drawn.values())


def test_targets_that_are_parts_of_a_fused_layer_stand_for_the_whole(tmp_path: Path) -> None:
    write_model(tmp_path, FAMILIES["phi3-longrope-partial"], 3)
    spec = read_spec(tmp_path)
    few = new_lora(spec, AdapterConfig(rank=2, targets=["k_proj", "up_proj"], layers=1), 1, "phi")
    assert list(few.factors) == ["model.layers.2.self_attn.qkv_proj", "model.layers.2.mlp.gate_up_proj"]
    every = AdapterConfig(rank=2)
    assert set(new_lora(spec, every, 1, "phi").factors) == set(linear_shapes(FAMILIES["phi3-longrope-partial"]))
    assert trained_parameters(shape_of(spec), every) == new_lora(spec, every, 1, "phi").parameters
    write_adapter(tmp_path / "adapter", FAMILIES["phi3-longrope-partial"])
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert said["target_modules"] == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]


def test_a_multimodal_folder_of_another_family_is_named_as_such(tmp_path: Path) -> None:
    text = FAMILIES["gemma3-pattern"]
    write_model(tmp_path, text, 3)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma9", "text_config": text, "vision_config": {}}))
    weights = WeightFolder(tmp_path)
    save(tmp_path / "model.safetensors", {f"language_model.{name}": weights.floats(name) for name in weights.tensors})
    with pytest.raises(ModelError, match="language_model"):
        load_model(tmp_path)
