"""A new adapter changes nothing, follows from its seed, and fits only the base that it was made for."""

from pathlib import Path

import numpy as np
import pytest

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter, LoraFactors, adapted_paths, check_fits, new_lora, scale_of
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.transformer import logits
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row
from edgetune.config import LINEAR_KINDS, AdapterConfig
from edgetune.errors import AdapterError, ModelError


@pytest.fixture
def spec(tiny_model: Path) -> ModelSpec:
    return read_spec(tiny_model)


def logits_of(folder: Path, adapter: LoraAdapter | Path | None) -> np.ndarray:
    opened = open_adapted(folder, adapter)
    ids = np.arange(3, 20, dtype=np.int32)
    row = Row(ids, np.full(17, -1, np.int32), ((0, 17),))
    return logits(NumpyOps(opened.parameters), opened.model, row, np.arange(17))


def test_a_new_adapter_changes_nothing_yet(tiny_model: Path, spec: ModelSpec) -> None:
    adapter = new_lora(spec, AdapterConfig(rank=4), 7, "someone/tiny")
    np.testing.assert_allclose(logits_of(tiny_model, adapter), logits_of(tiny_model, None), atol=1e-6)
    assert adapter.parameters == sum(4 * (a + b) for a, b in adapted_paths(spec, LINEAR_KINDS, "all").values())
    for factors in adapter.factors.values():
        bound = factors.a.shape[1] ** -0.5
        assert not factors.b.any() and 0.9 * bound < np.abs(factors.a).max() <= bound
        assert factors.a.dtype == factors.b.dtype == np.float32


def test_a_seed_gives_its_adapter(spec: ModelSpec) -> None:
    def a_of(seed: int, **settings: object) -> np.ndarray:
        adapter = new_lora(spec, AdapterConfig(rank=4, **settings), seed, "")  # pyright: ignore[reportArgumentType]
        return np.concatenate([factors.a.ravel() for factors in adapter.factors.values()])

    assert np.array_equal(a_of(1), a_of(1)) and not np.array_equal(a_of(1), a_of(2))
    assert np.array_equal(a_of(2**63 - 1), a_of(2**63 - 1))
    drawn = [factors.a.tobytes() for factors in new_lora(spec, AdapterConfig(rank=4), 1, "").factors.values()]
    assert len(set(drawn)) == len(drawn)


def test_kinds_and_the_last_layers(spec: ModelSpec) -> None:
    assert list(adapted_paths(spec, ["v_proj", "q_proj"], 1)) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    assert adapted_paths(spec, ["down_proj"], "all") == {f"model.layers.{n}.mlp.down_proj": (32, 64) for n in range(2)}
    assert len(adapted_paths(spec, LINEAR_KINDS, 2)) == len(adapted_paths(spec, LINEAR_KINDS, "all")) == 14
    with pytest.raises(AdapterError, match=r"adapter\.layers is 3, the model has 2") as caught:
        new_lora(spec, AdapterConfig(layers=3), 1, "")
    assert "1 to 2" in caught.value.hint


def test_scales() -> None:
    assert (scale_of(32, 16, False), scale_of(32, 16, True), scale_of(8, 64, False)) == (2, 8, 0.125)


def test_other_numbers_in_the_same_adapter(spec: ModelSpec) -> None:
    adapter = new_lora(spec, AdapterConfig(rank=2, rslora=True, dropout=0.25), 1, "base")
    doubled = adapter.with_arrays({name: array + 1 for name, array in adapter.trained_arrays().items()})
    assert (doubled.base_model, doubled.dropout, doubled.rslora) == ("base", 0.25, True)
    path = next(iter(adapter.factors))
    assert np.array_equal(doubled.factors[path].b, adapter.factors[path].b + 1) and doubled.factors[path].scale == 32 / 2**0.5
    assert {place.dropout for place in adapter.places(0.25).values()} == {0.25}
    assert {place.dropout for place in adapter.places().values()} == {0.0}  # outside of training nothing is left out


def test_39_an_adapter_of_another_base_is_refused_by_the_module(spec: ModelSpec) -> None:
    good = LoraFactors(np.zeros((2, 32), np.float32), np.zeros((32, 2), np.float32), 1.0)
    for path, factors, said in (
        ("model.layers.2.self_attn.q_proj", good, "no module model.layers.2.self_attn.q_proj"),
        ("model.layers.0.self_attn.qkv_proj", good, "no module"),
        ("model.layers.1.self_attn.k_proj", good, "model.layers.1.self_attn.k_proj is 16 x 32 here, 32 x 32 there"),
        ("model.layers.0.mlp.down_proj", good, "is 32 x 64 here, 32 x 32 there"),
    ):
        for base, hint in (("meta-llama/Llama-9", "meta-llama/Llama-9"), ("", "the base that it was trained on")):
            with pytest.raises(AdapterError) as caught:
                check_fits(
                    LoraAdapter(
                        {
                            "model.layers.1.mlp.up_proj": LoraFactors(
                                np.zeros((2, 32), np.float32), np.zeros((64, 2), np.float32), 1
                            ),
                            path: factors,
                        },
                        base,
                    ),
                    spec,
                )
            assert said in str(caught.value) and hint in caught.value.hint


def test_opening_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        open_adapted(tmp_path / "absent")
