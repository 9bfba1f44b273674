"""mlx-lm's folder: a real one comes back bit for bit, what its form cannot hold is folded or refused, nothing is guessed."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edgetune.adapters.lora import LoraAdapter, LoraFactors
from edgetune.adapters.mlx_lm import read_mlx_lm, write_mlx_lm
from edgetune.adapters.peft import read_peft, write_peft
from edgetune.errors import AdapterError

QUERY, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
SETTINGS: dict[str, Any] = {"rank": 2, "scale": 3.0, "dropout": 0.0}
CONFIG: dict[str, Any] = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": SETTINGS}


def factors(rank: int = 2, scale: float = 2.0, inputs: int = 32, outputs: int = 32, dora: bool = False) -> LoraFactors:
    random = np.random.default_rng(rank)
    a, b = random.normal(0, 1, (rank, inputs)), random.normal(0, 1, (outputs, rank))
    magnitude = random.uniform(0.5, 2, outputs).astype(np.float32) if dora else None
    return LoraFactors(a.astype(np.float32), b.astype(np.float32), scale, magnitude)


def tensors_of(*paths: str, **more: np.ndarray) -> dict[str, np.ndarray]:
    """A file's tensors as mlx-lm names them."""
    made: dict[str, np.ndarray] = {}
    for path in paths:
        one = factors()
        made |= {f"{path}.lora_a": np.ascontiguousarray(one.a.T), f"{path}.lora_b": np.ascontiguousarray(one.b.T)}
    return made | more


def folder_of(folder: Path, config: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """An mlx-lm folder as somebody else may have written it."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    save_file(tensors_of(QUERY, UP) if tensors is None else tensors, folder / "adapters.safetensors")
    return folder


def settings(**changes: Any) -> dict[str, Any]:
    return {"lora_parameters": {**SETTINGS, **changes}}


def refused(folder: Path) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        read_mlx_lm(folder)
    assert caught.value.hint and str(folder) in str(caught.value) and len(str(caught.value)) < 700
    assert str(caught.value).isprintable()
    return caught.value


def written(folder: Path, adapter: LoraAdapter, layers: int | None = None) -> tuple[dict[str, Any], LoraAdapter]:
    folder.mkdir()
    write_mlx_lm(folder, adapter, layers)
    return json.loads((folder / "adapter_config.json").read_text()), read_mlx_lm(folder)


# ---- the real thing ----------------------------------------------------------------------------------------------------


def test_a_real_adapter_goes_to_peft_and_back_bit_for_bit(assets: Path, tmp_path: Path) -> None:
    folder = assets / "weights" / "mlx-lora-adapter-qwen2.5-0.5b"
    real = read_mlx_lm(folder)
    assert (len(real.factors), real.rank, real.dropout, real.is_dora) == (8, 8, 0.0, False)
    assert {one.scale for one in real.factors.values()} == {10.0}
    (tmp_path / "peft").mkdir()
    write_peft(tmp_path / "peft", real)
    config, back = written(tmp_path / "mlx", read_peft(tmp_path / "peft"), layers=24)
    theirs, ours = (load_file(place / "adapters.safetensors") for place in (folder, tmp_path / "mlx"))
    assert theirs.keys() == ours.keys() and len(ours) == 16
    assert all(array.tobytes() == ours[name].tobytes() and array.dtype == ours[name].dtype for name, array in theirs.items())
    assert (config["fine_tune_type"], config["num_layers"]) == ("lora", 4)
    assert config["lora_parameters"] == {
        "rank": 8,
        "scale": 10.0,
        "dropout": 0.0,
        "keys": ["self_attn.q_proj", "self_attn.v_proj"],
    }
    assert {one.scale for one in back.factors.values()} == {10.0}
    assert "/Users" in real.base_model and config["model"] == "Qwen2.5-0.5B-Instruct"


# ---- round trips -------------------------------------------------------------------------------------------------------


@given(rank=st.integers(1, 6), scale=st.floats(1e-3, 1e3), dora=st.booleans(), dropout=st.sampled_from([0.0, 0.25]))
def test_one_rank_and_scale_come_back_bit_for_bit(
    rank: int, scale: float, dora: bool, dropout: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    adapter = LoraAdapter({QUERY: factors(rank, scale, dora=dora), UP: factors(rank, scale, 32, 64, dora)}, "a/b", dropout)
    _, back = written(tmp_path_factory.mktemp("mlx") / "adapter", adapter)
    assert (back.base_model, back.dropout, back.factors.keys()) == ("a/b", dropout, adapter.factors.keys())
    assert all(back.factors[path].scale == scale for path in adapter.factors)
    arrays = back.trained_arrays()
    assert arrays.keys() == adapter.trained_arrays().keys()
    assert all(np.array_equal(array, arrays[name]) for name, array in adapter.trained_arrays().items())


def test_powers_of_two_are_folded_exactly_and_ranks_are_filled_up(tmp_path: Path) -> None:
    adapter = LoraAdapter({QUERY: factors(2, 4.0), UP: factors(5, 0.5, 32, 64)})
    config, back = written(tmp_path / "mlx", adapter)
    assert (config["lora_parameters"]["rank"], config["lora_parameters"]["scale"]) == (5, 1.0)
    for path, one in adapter.factors.items():
        rank, other = len(one.a), back.factors[path]
        assert np.array_equal(other.a[:rank], one.a) and not other.a[rank:].any()
        assert np.array_equal(other.b[:, :rank], one.b * np.float32(one.scale)) and not other.b[:, rank:].any()


def test_other_scales_cost_half_a_last_bit(tmp_path: Path) -> None:
    adapter = LoraAdapter({QUERY: factors(2, 1 / 3), UP: factors(2, 1.1, 32, 64)})
    _, back = written(tmp_path / "mlx", adapter)
    for path, one in adapter.factors.items():
        exact, got = one.b.astype(np.float64) * one.scale, back.factors[path].b
        assert (np.abs(got - exact) <= np.spacing(np.abs(got)) / 2).all() and back.factors[path].scale == 1.0


@pytest.mark.parametrize(("scale", "number"), [(1e8, 1e35), (1e-8, 1e-38)])
def test_a_scale_that_float32_cannot_take_is_refused(scale: float, number: float, tmp_path: Path) -> None:
    b = np.full((32, 2), number, np.float32)
    adapter = LoraAdapter({QUERY: factors()._replace(b=b, scale=scale), UP: factors(2, 1.0)})
    with pytest.raises(AdapterError, match="beyond what float32 holds") as caught:
        write_mlx_lm(tmp_path, adapter)
    assert "merge" in caught.value.hint


def test_magnitudes_in_some_modules_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="some modules only"):
        write_mlx_lm(tmp_path, LoraAdapter({QUERY: factors(dora=True), UP: factors()}))


@pytest.mark.parametrize(("layers", "said"), [(None, -1), (2, 1), (5, 4)])
def test_only_layers_from_the_first_adapted_one_are_wrapped(layers: int | None, said: int, tmp_path: Path) -> None:
    config, _ = written(tmp_path / "mlx", LoraAdapter({UP: factors()}), layers)
    assert config["num_layers"] == said and config["lora_parameters"]["keys"] == ["mlp.up_proj"]


def test_a_module_in_no_layer_goes_to_peft_and_back(tmp_path: Path) -> None:
    adapter = LoraAdapter({UP: factors(), "lm_head": factors(2, 2.0, 32, 40)})
    config, back = written(tmp_path / "mlx", adapter, 3)
    assert config["lora_parameters"]["keys"] == ["lm_head", "mlp.up_proj"] and config["num_layers"] == 2
    (tmp_path / "peft").mkdir()
    write_peft(tmp_path / "peft", back)
    said = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (said["target_modules"], said["layers_to_transform"]) == (["lm_head", "up_proj"], None)
    assert read_peft(tmp_path / "peft").factors.keys() == adapter.factors.keys()


def test_no_local_path_is_written_down(tmp_path: Path) -> None:
    written(tmp_path / "mlx", LoraAdapter({UP: factors()}, "/home/alice/base"))
    assert "alice" not in (tmp_path / "mlx" / "adapter_config.json").read_text()


# ---- what is refused ---------------------------------------------------------------------------------------------------


def test_a_full_fine_tune_is_refused_with_what_to_do(tmp_path: Path) -> None:
    error = refused(folder_of(tmp_path, {"fine_tune_type": "full"}))
    assert "full fine-tune" in str(error) and "fuse" in error.hint


@pytest.mark.parametrize(
    ("config", "said"),
    [({"fine_tune_type": "prefix"}, "prefix"), ({"lora_parameters": None}, "no lora_parameters"),
     ({"lora_parameters": {"rank": 2, "alpha": 4}}, "scale is None"), (settings(scale=0), "scale is 0"),
     (settings(scale=-1.0), "scale is -1"), (settings(scale=math.inf), "scale is inf"), (settings(scale=True), "scale is True"),
     (settings(rank=3), "rank 3, tensor of rank 2"), (settings(rank="2"), "rank 2"), (settings(dropout=2), "dropout is 2"),
     (settings(keys="q_proj"), "keys q_proj"), (settings(keys=["self_attn.q_proj"]), "mlp.up_proj"), ({"num_layers": 1}, "layers 0 to 1"),
     ({"num_layers": None}, "num_layers is None"), ({"fine_tune_type": "dora"}, "m of model.layers.0.self_attn.q_proj is absent")],
)  # fmt: skip
def test_a_config_that_does_not_belong(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in str(refused(folder_of(tmp_path, config)))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [({}, "no adapter"), (tensors_of(QUERY, **{f"{UP}.lora_a": np.zeros((4, 2), np.float32)}), UP),
     (tensors_of(QUERY, **{f"{UP}.lora_b": np.zeros((2, 4), np.float32)}), "half"), (tensors_of("model.embed_tokens"), "embed_tokens"),
     (tensors_of(QUERY, **{f"{UP}.weight": np.zeros((2, 4), np.float32)}), f"{UP}.weight"),
     (tensors_of(QUERY, **{f"{QUERY}.m": np.zeros(32, np.float32)}), "fine_tune_type is lora"),
     ({f"{UP}.lora_a": np.zeros((4, 8, 2), np.float32), f"{UP}.lora_b": np.zeros((4, 2, 8), np.float32)}, "(4, 8, 2)"),
     ({f"{UP}.lora_a": np.zeros((8, 2), np.float32), f"{UP}.lora_b": np.zeros((3, 8), np.float32)}, UP),
     ({f"{UP}.lora_a": np.full((8, 2), np.nan, np.float32), f"{UP}.lora_b": np.zeros((2, 8), np.float32)}, "not finite"),
     ({f"{'a.' * 40}b.lora_a": np.zeros((8, 2), np.float32)}, "a.a.a"), ({"lora_a": np.zeros((8, 2), np.float32)}, "lora_a")],
)  # fmt: skip
def test_tensors_that_are_none_of_an_adapter(tensors: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    assert said in str(refused(folder_of(tmp_path, tensors=tensors)))


def test_truncated_damaged_and_absent_files(tmp_path: Path) -> None:
    assert "no adapter_config.json" in str(refused(tmp_path / "absent"))
    folder = folder_of(tmp_path)
    weights = folder / "adapters.safetensors"
    content = weights.read_bytes()
    for damaged in (b"", content[:50], content[:-1], content + b"x", struct.pack("<Q", 2**60) + content[8:]):
        weights.write_bytes(damaged)
        refused(folder)
    weights.unlink()
    assert "no adapters.safetensors" in str(refused(folder))
    for text in ("", "[]", "3", '{"num_layers": ', '{"a":' * 10**5, "\x00"):
        (folder / "adapter_config.json").write_text(text)
        refused(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SETTINGS, "keys", "x"]), inner, max_size=3),
    max_leaves=6,
)


@given(changed=st.dictionaries(st.sampled_from([*CONFIG, "model"]), JSON, max_size=3))
def test_any_config_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]) -> None:
    folder = folder_of(tmp_path_factory.getbasetemp() / "fuzzed-mlx", changed)
    try:
        adapter = read_mlx_lm(folder)
    except AdapterError as error:
        assert str(error).encode()
    else:
        assert all(0 < one.scale < math.inf for one in adapter.factors.values())
