"""The text part of a Gemma 3 that also sees computes what transformers computes with it, and goes out as a text model.

What transformers computed is stored (make_multimodal_fixtures.py); the weights are drawn anew.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from random_model import parameters, save, tokens

from edgetune.adapters.lora import new_lora
from edgetune.adapters.peft import write_peft
from edgetune.architecture.load import load_model
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.config import AdapterConfig
from edgetune.errors import ModelError
from edgetune.export.merge import merge
from edgetune.training.loss import log_probabilities

STORED = json.loads((Path(__file__).parent / "fixtures" / "multimodal.json").read_text("utf-8"))
NAMES = ("language_model.model.", "model.language_model.")


def write(folder: Path, form: str, prefix: str, **text: object) -> Path:
    """A checkpoint with that config, its text part under that prefix, and something of the other parts."""
    folder.mkdir()
    config = {**STORED[form], "text_config": {**STORED[form]["text_config"], **text}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    drawn = parameters({**STORED["v4"]["text_config"], "tie_word_embeddings": True}, STORED["seed"])
    arrays = {f"{prefix}{name.removeprefix('model.')}": array for name, array in drawn.items()}
    outer = "model." if prefix.startswith("model.") else ""
    save(folder / "model.safetensors", arrays | {f"{outer}{name}": np.ones(4, np.float32) for name in STORED["others"]})
    return folder


def following(folder: Path, ids: np.ndarray) -> np.ndarray:
    row = Row(ids, np.append(ids[1:], -1).astype(np.int32), ((0, len(ids)),))
    return log_probabilities(NumpyRunner({}, 1), load_model(folder), [row])[0]


@pytest.mark.parametrize("prefix", NAMES)
@pytest.mark.parametrize("form", ["v4", "v5"])
def test_log_probabilities_are_those_of_transformers(form: str, prefix: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", form, prefix)
    for stored in STORED["sequences"]:
        ids = tokens(STORED["seed"], "tokens", stored["length"], 61)
        assert np.abs(following(folder, ids) - stored["following"]).max() < 1e-4


@pytest.mark.parametrize("form", ["v4", "v5"])
def test_what_is_merged_is_a_text_model(form: str, tmp_path: Path) -> None:
    """An adapter that changes nothing: the same numbers, under a text model's names and config."""
    folder = write(tmp_path / "model", form, NAMES[0])
    (tmp_path / "adapter").mkdir()
    write_peft(tmp_path / "adapter", new_lora(read_spec(folder), AdapterConfig(rank=2), 1, "gemma"))
    merge(folder, tmp_path / "adapter", tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])
    assert config["eos_token_id"] == [1, 58] and not config.keys() & {"text_config", "vision_config", "mm_tokens_per_image"}
    assert all(name.startswith("model.") and "language_model" not in name for name in WeightFolder(tmp_path / "merged").tensors)
    assert read_spec(tmp_path / "merged") == read_spec(folder)
    ours, theirs = WeightFolder(tmp_path / "merged"), WeightFolder(folder)
    assert all(np.array_equal(ours.raw(name), theirs.raw(name)) for name in theirs.tensors)


def test_a_bent_head_is_refused_as_its_readers_differ(tmp_path: Path) -> None:
    """transformers bends the logits of the text model alone, and not those of the whole."""
    with pytest.raises(ModelError, match="final_logit_softcapping is set in a model that also sees"):
        read_spec(write(tmp_path / "model", "v5", NAMES[0], final_logit_softcapping=30.0))
