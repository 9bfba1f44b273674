"""Adapters that mlx-lm and llama.cpp's converter wrote: read exactly, computed alike, and written again as they were.

What they wrote, and what mlx-lm computes, is stored (make_adapter_fixtures.py).
"""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from random_model import tokens, write_model
from safetensors.numpy import load_file

from edgetune.adapters.lora import check_fits
from edgetune.adapters.mlx_lm import write_mlx_lm
from edgetune.adapters.open import open_adapter
from edgetune.adapters.peft import read_peft
from edgetune.architecture.load import load_model
from edgetune.architecture.spec import read_spec
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.export.gguf_adapter import read_gguf_adapter, write_gguf_adapter
from edgetune.training.loss import log_probabilities

FIXTURES = Path(__file__).parent / "fixtures"
ADAPTERS = FIXTURES / "adapters"
STORED = json.loads((ADAPTERS / "mlx-lm.json").read_text("utf-8"))
MODELS = json.loads((FIXTURES / "transformers.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "llama"
    write_model(folder, MODELS["cases"]["llama"]["v4"], MODELS["seed"])
    return folder


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_we_compute_what_mlx_lm_computes(kind: str, base: Path) -> None:
    lora = open_adapter(ADAPTERS / f"mlx-lm-{kind}")
    check_fits(lora, read_spec(base))
    ids = tokens(STORED["seed"], "tokens", STORED["length"], read_spec(base).vocab)
    row = Row(ids, np.append(ids[1:], np.int32(-1)), ((0, len(ids)),))

    def following(adapted: bool) -> np.ndarray:
        runner = NumpyRunner(lora.trained_arrays() if adapted else {}, 1)
        return log_probabilities(runner, load_model(base, lora.places() if adapted else {}), [row])[0]

    assert np.abs(following(True) - STORED["following"][kind]).max() < 1e-4
    assert np.abs(following(True) - following(False)).max() > 0.5, "the adapter would not be missed"


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_mlx_lms_folder_is_written_as_it_was(kind: str, base: Path, tmp_path: Path) -> None:
    """Every tensor to the bit, and every key of the config that we write."""
    theirs = ADAPTERS / f"mlx-lm-{kind}"
    write_mlx_lm(tmp_path, open_adapter(theirs), read_spec(base).layers)
    before, after = (load_file(folder / "adapters.safetensors") for folder in (theirs, tmp_path))
    assert before.keys() == after.keys() and all(array.tobytes() == after[name].tobytes() for name, array in before.items())
    said, ours = (json.loads((folder / "adapter_config.json").read_text("utf-8")) for folder in (theirs, tmp_path))
    said["lora_parameters"]["keys"].sort()
    assert ours == {key: said[key] for key in ours}


def test_llama_cpps_own_file_is_the_adapter_that_it_was_made_of(base: Path) -> None:
    peft, lora = read_peft(FIXTURES / "peft-adapter"), read_gguf_adapter(ADAPTERS / "llama-cpp.gguf", read_spec(base))
    assert {path: one.scale for path, one in peft.factors.items()} == {path: one.scale for path, one in lora.factors.items()}
    arrays = lora.trained_arrays()
    assert all(array.tobytes() == arrays[name].tobytes() for name, array in peft.trained_arrays().items())


def test_our_file_is_the_one_that_llama_cpps_converter_writes(base: Path, tmp_path: Path) -> None:
    """Every tensor to the bit, and every key but its title, which is the folder's name, and a version of what is not used here."""
    write_gguf_adapter(tmp_path / "ours.gguf", read_peft(FIXTURES / "peft-adapter"), read_spec(base))
    theirs, ours = (gguf.GGUFReader(file) for file in (ADAPTERS / "llama-cpp.gguf", tmp_path / "ours.gguf"))

    def tensors(reader: gguf.GGUFReader) -> dict[str, tuple[str, bytes]]:
        return {each.name: (f"{each.tensor_type} {each.shape}", each.data.tobytes()) for each in reader.tensors}

    assert tensors(ours) == tensors(theirs)
    for name in theirs.fields.keys() - {"general.name", "general.quantization_version"}:
        if not name.startswith("GGUF."):
            assert ours.fields[name].contents() == theirs.fields[name].contents(), name
    assert ours.fields.keys() - theirs.fields.keys() == {
        "general.file_type", "general.base_model.count", "general.base_model.0.name"
    }  # fmt: skip
