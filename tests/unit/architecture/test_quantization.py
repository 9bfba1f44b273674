"""MLX-quantised checkpoints: config.json and tensors must say the same, and whatever they say is read or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edgetune.architecture.config_json import Config
from edgetune.architecture.load import load_model, trained_copy
from edgetune.architecture.quantization import read_quantization
from edgetune.architecture.row_blocks import row_blocks
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.quantized import Packing
from edgetune.errors import ModelError

FIXTURES = Path(__file__).parents[2] / "parity" / "fixtures" / "mlx-quantized"
UP = "model.layers.0.mlp.up_proj"
Tensors = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of mlx-lm in 8 bits and groups of 32: all of its types are known to NumPy."""
    return shutil.copytree(FIXTURES / "affine-8-untied", tmp_path / "model")


def say(folder: Path, **changes: Any) -> None:
    """Changes what config.json says of the quantisation; None takes a key away."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {key: value for key, value in (config["quantization"] | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def change(folder: Path, edit: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def read(**table: Any) -> Any:
    return read_quantization(Config({"quantization": table}, Path("config.json")))


def test_what_a_config_says_module_by_module() -> None:
    said = read(group_size=32, bits=6, mode="affine", first=False, second={"bits": 8}, third=True, fourth={"mode": "nvfp4"})
    assert said.of("anything") == said.of("third") == Packing("affine", 6, 32)
    assert said.of("first") is None
    assert said.of("second") == Packing("affine", 8, 64)
    assert said.of("fourth") == Packing("nvfp4", 4, 16)
    assert read_quantization(Config({"quantization": {}, "quantization_config": None}, Path("config.json"))) is None


@pytest.mark.parametrize(
    ("table", "said"),
    [({"bits": 4}, "group_size is missing"), ({"group_size": 64}, "bits is missing"),
     ({"bits": 7, "group_size": 64}, "7 bits"), ({"bits": 4, "group_size": 48}, "groups of 48"),
     ({"bits": "4", "group_size": 64}, "'4' bits"), ({"bits": True, "group_size": 64}, "True bits"),
     ({"bits": 4.0, "group_size": 64}, "4.0 bits"), ({"bits": -4, "group_size": 64}, "-4 bits"),
     ({"bits": 10**400, "group_size": 64}, "bits in groups"), ({"bits": [4], "group_size": {}}, "bits in groups"),
     ({"bits": 4, "group_size": 64, "mode": "mxfp4"}, "not mxfp4's"), ({"bits": 4, "group_size": 16, "mode": "nf4"}, "'nf4'"),
     ({"bits": 4, "group_size": 64, "mode": ["affine"]}, "mode is"), ({"bits": 4, "group_size": 64, "mode": {}}, "mode is"),
     ({"bits": 4, "group_size": 64, "a\x1b[2J": {"bits": 9}}, r"a\\x1b\[2J is 9 bits")],
)  # fmt: skip
def test_wrong_numbers_are_refused_with_their_key(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        read(**table)
    assert "quantization" in caught.value.message and caught.value.hint and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("table", ["4bit", 4, True, ["bits", 4]])
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(ModelError, match="not a table"):
        read_quantization(Config({"quantization": table}, Path("config.json")))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["affine", "mxfp8", "bits"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bits", "group_size", "mode"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["bits", "group_size", "mode", "lm_head", "quant_method"]), JUNK))
def test_any_config_is_read_or_refused(table: dict[str, Any]) -> None:
    for key in ("quantization", "quantization_config"):
        try:
            read_quantization(Config({key: table}, Path("config.json")))
        except ModelError as error:
            assert len(error.message) < 500


# ---- tensors -----------------------------------------------------------------------------------------------------------


def cut(name: str, axis: int) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: np.delete(tensors[name], -1, axis).copy()})


@pytest.mark.parametrize(
    ("edit", "said"),
    [(lambda t: t.pop(f"{UP}.biases"), "biases"),
     (lambda t: t.update({f"{UP}.biases": t[f"{UP}.biases"].astype(np.float16)}), "biases"),
     (cut(f"{UP}.biases", 1), "biases"),
     (lambda t: t.pop(f"{UP}.scales"), r"up_proj\.(biases|weight)"),
     (lambda t: t.pop(f"{UP}.weight"), "no codes"),
     (cut(f"{UP}.scales", 1), "not 8 bits in groups of 32"),
     (cut(f"{UP}.scales", 0), "not 8 bits in groups of 32"),
     (cut(f"{UP}.weight", 0), "not 8 bits in groups of 32"),
     (cut(f"{UP}.weight", 1), "not 8 bits in groups of 32"),
     (lambda t: t.update({f"{UP}.scales": t[f"{UP}.scales"].astype(np.uint8)}), "scales of U8"),
     (lambda t: t.update({f"{UP}.weight": t[f"{UP}.weight"].view(np.uint8)}), r"no codes \(U32"),
     (lambda t: t.update({f"{UP}.weight": t[f"{UP}.weight"].ravel()}), "two axes"),
     (lambda t: t.update({f"{UP}.weight": np.ones((64, 32), np.float32)}), "no codes"),
     (lambda t: t.update({f"{UP}.global_scale": np.ones(1, np.float32)}), "global scale"),
     (lambda t: t.update({"model.norm.weight": np.ones(32, np.uint32)}), r"model\.norm\.weight has no scales"),
     (lambda t: t.update({"extra": np.ones(32, np.uint8)}), "extra has no scales"),
     (lambda t: t.update({"extra.scales": np.ones(32, np.float32)}), "extra has scales, but no codes")],
)  # fmt: skip
def test_tensors_that_contradict_the_config_are_refused(folder: Path, edit: Callable[[Tensors], Any], said: str) -> None:
    change(folder, edit)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(folder)
    assert caught.value.hint and str(folder) in caught.value.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"bits": 4}, "not 4 bits in groups of 32"), ({"group_size": 64}, "not 8 bits in groups of 64"),
     ({"mode": "mxfp8"}, "scales of F32"), ({UP: False}, "up_proj has scales, and config.json says that it is not"),
     ({UP: {"bits": 6, "group_size": 32}}, "up_proj .* is not 6 bits"),
     ({"model.norm": {"bits": 8, "group_size": 32}}, r"model\.norm\.weight has no scales")],
)  # fmt: skip
def test_a_config_that_contradicts_the_tensors_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    say(folder, **changes)
    with pytest.raises(ModelError, match=said):
        load_model(folder)


def test_a_matrix_of_another_shape_than_the_config_s_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 60}))
    with pytest.raises(ModelError, match=r"60 tokens of 32, .*weight is \(61, 32\)"):
        load_model(folder)


def test_codes_without_a_word_in_the_config_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if "quant" not in key}))
    with pytest.raises(ModelError, match=r"U32.*reads F32, F16 and BF16"):
        load_model(folder)


def test_a_module_left_in_floats_is_read_as_floats(folder: Path) -> None:
    floats = WeightFolder(folder).floats(f"{UP}.weight")

    def edit(tensors: Tensors) -> None:
        tensors[f"{UP}.weight"] = floats
        del tensors[f"{UP}.scales"], tensors[f"{UP}.biases"]

    change(folder, edit)
    for said in (False, None):
        say(folder, **{UP: said})
        weights = WeightFolder(folder)
        assert weights.tensors[f"{UP}.weight"].packed is None and weights.tensors["lm_head.weight"].packed
        np.testing.assert_array_equal(weights.floats(f"{UP}.weight"), floats)


# ---- every way to read one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["affine-8-untied", "affine-4-mixed", "mxfp8", "nvfp4"])
def test_rows_blocks_copies_and_matrices_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.architecture.row_blocks.BLOCK", 1000)
    weights, spec = WeightFolder(FIXTURES / name), read_spec(FIXTURES / name)
    copied = trained_copy(spec, weights, 0)
    for tensor, info in weights.tensors.items():
        floats = weights.floats(tensor)
        assert floats.dtype == np.float32 and floats.shape == info.shape
        np.testing.assert_array_equal(copied[tensor], floats)
        np.testing.assert_array_equal(weights.floats(tensor, slice(3, 5)), floats[3:5])
        if info.packed:
            blocks = list(row_blocks(info, 4))
            assert len(blocks) > 1 and blocks[0].shape[0] % 4 == 0
            np.testing.assert_array_equal(np.concatenate(blocks), floats)
            np.testing.assert_array_equal(weights.matrix(tensor).read(np.array([2, 0])), floats[[2, 0]])


def test_a_quantised_model_in_shards_is_the_model(folder: Path) -> None:
    """Codes and scales may lie in different files."""
    whole = {name: WeightFolder(folder).floats(name) for name in WeightFolder(folder).tensors}
    size = WeightFolder(folder).stored_bytes
    fingerprint = WeightFolder(folder).fingerprint
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for number in (1, 2, 3):
        file = f"model-0000{number}-of-00003.safetensors"
        part = {name: tensor for index, (name, tensor) in enumerate(tensors.items()) if index % 3 == number - 1}
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    weights = WeightFolder(folder)
    assert weights.tensors.keys() == whole.keys() and weights.stored_bytes == size
    for name, floats in whole.items():
        np.testing.assert_array_equal(weights.floats(name), floats)
    before = weights.fingerprint
    scales = load_file(folder / places["model.embed_tokens.scales"])
    scales["model.embed_tokens.scales"] *= 2
    save_file(scales, folder / places["model.embed_tokens.scales"])
    assert len({before, WeightFolder(folder).fingerprint, fingerprint}) == 3
