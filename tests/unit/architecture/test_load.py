"""A folder becomes a model only if its tensors are those of its config; new weights follow from the seed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import save, write_model
from safetensors.numpy import load_file, save_file

from edgetune.architecture.load import Source, build_model, load_model, parameter_shapes, trained_copy
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import logits
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Adapter, Row
from edgetune.errors import ModelError

BASE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "head_dim": 6,
}  # fmt: skip
SWITCHES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama with every bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
}


def write(folder: Path, switches: dict[str, Any], dtype: str = "F32") -> Path:
    write_model(folder, {**BASE, **switches}, 3, dtype)
    return folder


def changed(folder: Path, change: dict[str, np.ndarray | None]) -> Path:
    """The folder with some tensors replaced, added, or left out (None)."""
    tensors = load_file(folder / "model.safetensors") | change
    save_file({name: array for name, array in tensors.items() if array is not None}, folder / "model.safetensors")
    return folder


def all_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    row = Row(ids, np.full(len(ids), -1, np.int32), ((0, len(ids)),))
    return logits(NumpyOps({}), model, row, np.arange(len(ids)))


@pytest.mark.parametrize("name", SWITCHES)
def test_the_spec_names_just_the_tensors_that_the_family_has(name: str, tmp_path: Path) -> None:
    """`random_model` is a second source of the names and shapes."""
    folder = write(tmp_path, SWITCHES[name])
    stored = {tensor: info.shape for tensor, info in WeightFolder(folder).tensors.items()}
    assert parameter_shapes(read_spec(folder)) == stored
    assert np.isfinite(all_logits(load_model(folder), np.arange(12, dtype=np.int32))).all()


def test_37_vocabulary_and_embedding_that_disagree_are_named_with_both_numbers(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    changed(folder, {"model.embed_tokens.weight": np.zeros((397, 32), np.float32)})
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    vocab = read_spec(folder).vocab
    assert f"{vocab} tokens" in str(caught.value) and "(397, 32)" in str(caught.value) and caught.value.hint
    untied = write(tmp_path / "untied", SWITCHES["llama"])
    with pytest.raises(ModelError, match=r"40 tokens of 16, lm_head\.weight is \(41, 16\)"):
        load_model(changed(untied, {"lm_head.weight": np.zeros((41, 16), np.float32)}))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"model.norm.weight": None}, r"no tensor model\.norm\.weight"),
     ({"model.layers.2.self_attn.k_proj.bias": None}, r"no tensor model\.layers\.2\.self_attn\.k_proj\.bias"),
     ({"model.layers.1.mlp.up_proj.weight": np.zeros((16, 24), np.float32)}, r"layers\.1\.mlp\.up_proj\.weight is \(16, 24\)"),
     ({"model.layers.0.input_layernorm.weight": np.ones((16, 1), np.float32)}, r"\(16, 1\), config\.json says \(16,\)"),
     ({"model.layers.3.mlp.up_proj.weight": np.ones(1, np.float32)}, r"holds model\.layers\.3\.mlp\.up_proj\.weight"),
     ({"model.layers.1.self_attn.o_proj.bias": np.ones(16, np.float32)}, r"holds .*o_proj\.bias"),
     ({"model.layers.1.self_attn.q_norm.weight": np.ones(6, np.float32)}, r"holds .*q_norm\.weight")],
)  # fmt: skip
def test_a_missing_a_misshapen_and_an_unknown_tensor_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    """What a layer holds beyond its config would be left out without a word: another model."""
    with pytest.raises(ModelError, match=said) as caught:
        load_model(changed(write(tmp_path, SWITCHES["qwen2"]), change))
    assert caught.value.hint


def test_what_follows_from_the_config_may_lie_beside_the_weights(tmp_path: Path) -> None:
    ids = np.arange(9, dtype=np.int32)
    plain = all_logits(load_model(write(tmp_path / "a", SWITCHES["tied"])), ids)
    embedding = load_file(tmp_path / "a" / "model.safetensors")["model.embed_tokens.weight"]
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32), "lm_head.weight": embedding}
    assert np.array_equal(all_logits(load_model(changed(write(tmp_path / "b", SWITCHES["tied"]), extra)), ids), plain)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_stays_half_in_memory_and_means_the_same(dtype: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "half", SWITCHES["llama"], dtype)
    model = load_model(folder)
    assert {type(part.weight).__name__ for part in model.layers[0].query_key_value.parts} == {
        "BFloat16" if dtype == "BF16" else "Plain"
    }
    weights = WeightFolder(folder)
    wide = tmp_path / "wide"
    write(wide, SWITCHES["llama"])
    save(wide / "model.safetensors", {name: weights.floats(name) for name in weights.tensors})
    ids = np.arange(20, dtype=np.int32)
    np.testing.assert_allclose(all_logits(model, ids), all_logits(load_model(wide), ids), atol=1e-6)


def test_a_full_copy_is_the_model_and_may_be_changed(tmp_path: Path) -> None:
    folder = write(tmp_path, SWITCHES["qwen3"], "BF16")
    spec, weights, ids = read_spec(folder), WeightFolder(folder), np.arange(20, dtype=np.int32)
    copied = trained_copy(spec, weights, 0)
    assert list(copied) == list(parameter_shapes(spec)) and all(array.dtype == np.float32 for array in copied.values())
    model = build_model(Source(spec, arrays=copied), {})
    np.testing.assert_allclose(all_logits(model, ids), all_logits(load_model(folder), ids), atol=1e-6)
    for layer in model.layers:  # joint layers lie behind each other: no copy is made for their product
        for joint in (layer.query_key_value, layer.output, layer.gate_up, layer.down):
            assert joint.stacked is not None
    before = all_logits(model, ids)
    for name in ("model.layers.1.self_attn.v_proj.weight", "model.layers.2.mlp.up_proj.weight", "model.norm.weight"):
        copied[name] *= 1.5
        after = all_logits(model, ids)
        assert np.abs(after - before).max() > 1e-4
        before = after


def test_drawn_weights_follow_from_the_seed_and_their_place(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, SWITCHES["llama with every bias"]))
    first, again, other = (trained_copy(spec, None, seed) for seed in (5, 5, 6))
    assert first.keys() == parameter_shapes(spec).keys()
    for name, array in first.items():
        assert np.array_equal(array, again[name])
        if name.endswith(".bias"):
            assert not array.any()
        elif array.ndim == 1:
            assert (array == 1).all()
        else:
            assert not np.array_equal(array, other[name])
            deviation = 0.02 / (np.sqrt(6) if name.endswith(("o_proj.weight", "down_proj.weight")) else 1)
            assert array.std() == pytest.approx(deviation, rel=0.15) and abs(array.mean()) < deviation / 4
    matrices = [array.tobytes()[:64] for array in first.values() if array.ndim == 2]
    assert len(set(matrices)) == len(matrices)  # no two are drawn alike
    deeper = read_spec(write(tmp_path / "deeper", {**SWITCHES["llama with every bias"], "num_hidden_layers": 4}))
    assert np.array_equal(
        trained_copy(deeper, None, 5)["model.layers.2.mlp.up_proj.weight"], first["model.layers.2.mlp.up_proj.weight"]
    )


def test_layers_before_the_first_adapter_are_frozen(tmp_path: Path) -> None:
    folder = write(tmp_path, SWITCHES["llama"])
    source = Source(read_spec(folder), WeightFolder(folder))
    assert build_model(source, {}).frozen_layers == 0
    assert build_model(source, {"model.layers.2.mlp.up_proj": Adapter(1.0)}).frozen_layers == 2


def test_a_config_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BASE, "model_type": "llama"}))
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load_model(tmp_path)
