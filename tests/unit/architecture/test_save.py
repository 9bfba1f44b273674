"""A model folder that we write is read by every reader alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import write_model
from safetensors.numpy import load_file

from edgetune.architecture.config_forms import both_forms
from edgetune.architecture.load import load_model, parameter_shapes
from edgetune.architecture.save import copy_side_files, roomy, write_arrays
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


FACTORS = {"short_factor": [1.0, 2.0], "long_factor": [2.0, 3.0]}
SMALL = {key: value for key, value in CONFIG.items() if key != "model_type"}
PHI3 = {**SMALL, "model_type": "phi3", "original_max_position_embeddings": 16}
GEMMA3 = {**SMALL, "model_type": "gemma3_text", "head_dim": 4, "num_hidden_layers": 4, "sliding_window": 8}
NESTED = {"full_attention": {**LINEAR, "rope_theta": 5e5}, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
OLDER = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq", "sliding_window_pattern")
NEWER = ("rope_parameters", "layer_types")


@pytest.mark.parametrize(
    "config",
    [
        {**SMALL, "model_type": "smollm3"},
        {**PHI3, "rope_scaling": {"type": "su", **FACTORS}},
        {**PHI3, "rope_parameters": {"rope_type": "longrope", **FACTORS, "rope_theta": 9e3, "partial_rotary_factor": 1.0}},
        {**PHI3, "partial_rotary_factor": 0.5, "rope_theta": 9e3},
        GEMMA3,
        {**GEMMA3, "sliding_window_pattern": 2, "rope_theta": 5e5, "rope_scaling": LINEAR, "rope_local_base_freq": 300.0},
        {**GEMMA3, "layer_types": ["sliding_attention", "full_attention"] * 2, "rope_parameters": NESTED},
    ],
)
def test_every_family_s_forms_say_alone_what_the_original_said(config: dict[str, Any], tmp_path: Path) -> None:
    written = both_forms(config)
    specs: list[Any] = []
    for left_out in ((), OLDER, NEWER):
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in written.items() if k not in left_out}))
        specs.append(read_spec(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert specs == [read_spec(tmp_path)] * 3
    if config["model_type"] == "phi3" and written["rope_scaling"]:  # transformers 4 refuses any other key
        assert set(written["rope_scaling"]) == {"type", *FACTORS}


def test_layers_without_a_distance_are_only_named() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    written = both_forms({**GEMMA3, "layer_types": kinds})
    assert written["layer_types"] == kinds and "sliding_window_pattern" not in written


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
