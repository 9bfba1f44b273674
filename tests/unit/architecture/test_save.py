"""A model folder that we write is read by every reader alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import write_model
from safetensors.numpy import load_file

from edgetune.architecture.load import load_model, parameter_shapes
from edgetune.architecture.save import both_forms, copy_side_files, roomy, write_arrays
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0}
FORMS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_theta": 5e5, "rope_scaling": LINEAR},
    {"rope_parameters": {"rope_theta": 5e5, **LINEAR}},
    {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    {"rope_parameters": LINEAR, "rope_theta": 5e5},
]


@pytest.mark.parametrize("form", FORMS)
def test_either_form_alone_says_what_the_original_said(form: dict[str, Any], tmp_path: Path) -> None:
    written = both_forms({**CONFIG, **form})
    older = {key: value for key, value in written.items() if key != "rope_parameters"}
    newer = {key: value for key, value in written.items() if key not in ("rope_theta", "rope_scaling")}
    specs: list[Any] = []
    for values in ({**CONFIG, **form}, written, older, newer):
        (tmp_path / "config.json").write_text(json.dumps(values))
        specs.append(read_spec(tmp_path))
    assert specs[0] == specs[1] == specs[2] == specs[3]
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"]


def test_no_path_of_somebody_s_machine_is_passed_on() -> None:
    assert "_name_or_path" not in both_forms({**CONFIG, "_name_or_path": "/home/alice/secret-project"})


@pytest.mark.parametrize(("stored", "name"), [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")])
def test_a_written_model_loads_in_the_type_it_says(stored: str, name: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_model(source, CONFIG, 4)
    (source / "tokenizer.json").write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    out.mkdir()
    weights, spec = WeightFolder(source), read_spec(source)
    copy_side_files(source, out, stored)
    write_arrays(out, parameter_shapes(spec).items(), weights.floats, stored)
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert read_spec(out).dtype == name == json.loads((out / "config.json").read_text())["torch_dtype"]
    assert {info.dtype for info in WeightFolder(out).tensors.values()} == {stored}
    load_model(out)
    if stored == "F32":
        ours = load_file(out / "model.safetensors")
        assert all(np.array_equal(ours[tensor], weights.floats(tensor)) for tensor in weights.tensors)


@pytest.mark.parametrize(
    ("asked", "largest", "stored"), [("F16", 65504.0, "F16"), ("F16", 65505.0, "F32"), ("BF16", 1e9, "BF16")]
)
def test_a_trained_number_beyond_float16_is_kept_and_not_made_infinite(asked: str, largest: float, stored: str) -> None:
    assert roomy(asked, {"small": np.zeros(3, np.float32), "large": np.array([1.0, -largest], np.float32)}) == stored
