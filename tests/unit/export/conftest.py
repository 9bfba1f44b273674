"""What the tests of exporting share: a GGUF file of the tiny model, and an adapter for it."""

from pathlib import Path

import numpy as np
import pytest

from edgetune.adapters.lora import LoraAdapter, new_lora
from edgetune.adapters.peft import write_peft
from edgetune.architecture.spec import read_spec
from edgetune.config import AdapterConfig
from edgetune.export.gguf_file import write_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as GGUF, in float16. Not to be changed: copy it."""
    return write_gguf(tiny_model, tmp_path_factory.mktemp("gguf") / "tiny-F16.gguf", "F16").path


@pytest.fixture(scope="session")
def lora(tiny_model: Path) -> LoraAdapter:
    """An adapter on every linear layer of the tiny model that changes it."""
    adapter = new_lora(read_spec(tiny_model), AdapterConfig(rank=4, alpha=8), 3, "someone/tiny")
    random = np.random.default_rng(5)
    arrays = {name: random.normal(0, 0.3, array.shape).astype(np.float32) for name, array in adapter.trained_arrays().items()}
    return adapter.with_arrays(arrays)


@pytest.fixture(scope="session")
def adapter_folder(lora: LoraAdapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a PEFT folder."""
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    folder.mkdir()
    write_peft(folder, lora)
    return folder
