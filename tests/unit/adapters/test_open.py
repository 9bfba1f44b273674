"""An adapter is told by its files, and computes the same from whichever folder it comes."""

from pathlib import Path

import numpy as np
import pytest

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter, new_lora
from edgetune.adapters.mlx_lm import write_mlx_lm
from edgetune.adapters.open import adapter_folder, open_adapter
from edgetune.adapters.peft import write_peft
from edgetune.architecture.spec import read_spec
from edgetune.config import AdapterConfig
from edgetune.errors import AdapterError, ConfigError


@pytest.fixture
def adapter(tiny_model: Path) -> LoraAdapter:
    lora = new_lora(read_spec(tiny_model), AdapterConfig(rank=2, alpha=6), 1, "someone/tiny")
    random = np.random.default_rng(0)
    return lora.with_arrays(
        {name: random.normal(0, 1, a.shape).astype(np.float32) for name, a in lora.trained_arrays().items()}
    )


@pytest.mark.parametrize("write", [write_peft, write_mlx_lm])
def test_each_format_is_opened_as_it_is(write: object, adapter: LoraAdapter, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    write(tmp_path / "run" / "adapter", adapter)  # pyright: ignore[reportCallIssue]
    (tmp_path / "run" / "run.toml").write_text("")
    for place in (tmp_path / "run", tmp_path / "run" / "adapter"):
        parameters = open_adapted(tiny_model, place).parameters
        assert all(np.array_equal(array, parameters[name]) for name, array in adapter.trained_arrays().items())
        assert {factors.scale for factors in open_adapter(place).factors.values()} == {3.0}


def test_a_folder_with_two_adapters_is_refused(adapter: LoraAdapter, tmp_path: Path) -> None:
    write_mlx_lm(tmp_path, adapter)
    write_peft(tmp_path, adapter)
    with pytest.raises(AdapterError, match="holds both") as caught:
        open_adapter(tmp_path)
    assert "folder of its own" in caught.value.hint


def test_a_run_without_an_adapter_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ConfigError, match="no adapter yet") as caught:
        adapter_folder(tmp_path)
    assert "resume" in caught.value.hint
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        open_adapter(tmp_path / "nowhere")


def test_a_gguf_adapter_says_how_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="in GGUF form") as caught:
        open_adapter(tmp_path / "a.gguf")
    assert "adapter convert" in caught.value.hint and "--model" in caught.value.hint
