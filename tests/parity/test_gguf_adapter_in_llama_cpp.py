"""A base GGUF with an adapter GGUF computes in llama.cpp what our own decoder computes with base and adapter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf_models import CASES, build

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter, new_lora
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import logits
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row
from edgetune.config import AdapterConfig
from edgetune.export.gguf_adapter import write_gguf_adapter
from edgetune.export.gguf_file import write_gguf
from edgetune.llamacpp import LlamaChild

IDS = np.random.default_rng(1).integers(3, 300, 30).astype(np.int32)
FIRST_OF_EACH_FAMILY = list({case.family: name for name, case in reversed(CASES.items()) if not case.asset}.values())
pytestmark = pytest.mark.slow


def random_adapter(folder: Path, scales: list[float]) -> LoraAdapter:
    """An adapter on every linear layer, with those scales by turns."""
    empty = new_lora(read_spec(folder), AdapterConfig(rank=4), 3, "")
    random = np.random.default_rng(5)
    arrays = {name: random.normal(0, 0.3, array.shape).astype(np.float32) for name, array in empty.trained_arrays().items()}
    factors = empty.with_arrays(arrays).factors
    scaled = {path: one._replace(scale=scales[at % len(scales)]) for at, (path, one) in enumerate(factors.items())}
    return replace(empty, factors=scaled)


def ours(folder: Path, adapter: LoraAdapter | None) -> np.ndarray:
    opened = open_adapted(folder, adapter)
    row = Row(IDS, np.full(len(IDS), -1, np.int32), ((0, len(IDS)),))
    table = logits(NumpyOps(opened.parameters), opened.model, row, np.arange(len(IDS))).astype(np.float64)
    return table - np.log(np.exp(table).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", FIRST_OF_EACH_FAMILY)
@pytest.mark.parametrize("scales", [[1.0], [0.3, 1.2, 0.8]])
def test_llama_cpp_adds_what_was_trained(name: str, scales: list[float], tmp_path: Path) -> None:
    """With one scale for all modules, and with scales that go into B. llama.cpp looks Gemma's GELU up in a table of float16."""
    limit = 5e-3 if name.startswith("gemma") else 1e-4
    folder = tmp_path / "model"
    build(name, folder, None)
    adapter = random_adapter(folder, scales)
    base = write_gguf(folder, tmp_path / "base.gguf", "F32").path
    write_gguf_adapter(tmp_path / "adapter.gguf", adapter, read_spec(folder))
    expected, plain = ours(folder, adapter), ours(folder, None)
    with LlamaChild(base, context=128, threads=1, gpu_layers=0, cache_type="f32") as child:
        child.adapt([(tmp_path / "adapter.gguf", 1.0)])
        found = child.score(IDS.tolist(), range(len(IDS)))
        assert np.abs(found - expected).max() < limit
        child.adapt([])
        assert np.abs(child.score(IDS.tolist(), range(len(IDS))) - plain).max() < limit
    assert np.abs(expected - plain).max() > 0.1, "the adapter would not be missed"
