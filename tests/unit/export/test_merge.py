"""A merged folder computes base + adapter, says so to every reader, and is whole or absent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.dora import matrices_of, with_magnitudes
from edgetune.adapters.lora import LoraAdapter, LoraFactors
from edgetune.adapters.peft import write_peft
from edgetune.architecture.load import load_model
from edgetune.architecture.save import portable
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import logits
from edgetune.architecture.weights import WeightFolder, save_safetensors, stored_as
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row
from edgetune.errors import AdapterError, DiskFull, InputError, ModelError
from edgetune.events import Progress
from edgetune.export import merge as module
from edgetune.export.merge import STORED_AS, Dtype, merge
from tests.parity.gguf_models import write_config, write_weights

QUERY = "model.layers.1.self_attn.q_proj"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_merged_model_computes_what_base_and_adapter_compute(
    tiny_model: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    result = merge(tiny_model, adapter_folder, tmp_path / "merged")
    assert (result.out, result.dtype) == (tmp_path / "merged", "float32")
    adapted, ids = open_adapted(tiny_model, adapter_folder), np.arange(1, 40, dtype=np.int32)
    row, positions = Row(ids, np.full(39, -1, np.int32), ((0, 39),)), np.arange(39)
    expected = logits(NumpyOps(adapted.parameters), adapted.model, row, positions)
    merged = logits(NumpyOps({}), load_model(result.out), row, positions)
    base = logits(NumpyOps({}), load_model(tiny_model), row, positions)
    np.testing.assert_allclose(merged, expected, atol=1e-4)
    assert np.abs(base - expected).max() > 0.1


def test_the_rows_of_dora_have_their_magnitudes(tiny_model: Path, lora: LoraAdapter, tmp_path: Path) -> None:
    """And the merged model computes what the adapted one computes."""
    weights = WeightFolder(tiny_model)
    dora = with_magnitudes(lora, matrices_of(load_model(tiny_model)))
    one = dora.factors[QUERY]
    assert one.magnitude is not None
    dora = replace(dora, factors={**dora.factors, QUERY: one._replace(magnitude=one.magnitude * np.float32(1.5))})
    (tmp_path / "adapter").mkdir()
    write_peft(tmp_path / "adapter", dora)
    out = merge(tiny_model, tmp_path / "adapter", tmp_path / "merged").out
    plain = weights.floats(f"{QUERY}.weight") + np.float32(one.scale) * one.b @ one.a
    np.testing.assert_allclose(WeightFolder(out).floats(f"{QUERY}.weight"), 1.5 * plain, rtol=1e-5, atol=1e-6)
    row, positions = Row(np.arange(1, 40, dtype=np.int32), np.full(39, -1, np.int32), ((0, 39),)), np.arange(39)
    adapted = open_adapted(tiny_model, tmp_path / "adapter")
    expected = logits(NumpyOps(adapted.parameters), adapted.model, row, positions)
    np.testing.assert_allclose(logits(NumpyOps({}), load_model(out), row, positions), expected, atol=1e-4)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("asked", [None, "float32", "bfloat16"])
def test_the_sum_is_made_in_float32_and_cast_once(
    tiny_model: Path, lora: LoraAdapter, adapter_folder: Path, tmp_path: Path, stored: Dtype, asked: Dtype | None
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    write_weights(base, STORED_AS[stored])
    result = merge(base, adapter_folder, tmp_path / "merged", dtype=asked)
    before, after = WeightFolder(base), WeightFolder(result.out)
    dtype = asked or stored
    assert result.dtype == dtype == json.loads((result.out / "config.json").read_text())["dtype"]
    assert list(after.tensors) == list(before.tensors)
    for name in before.tensors:
        expected = before.floats(name)
        if factors := lora.factors.get(name.removesuffix(".weight")):
            update = factors.b @ factors.a
            update *= np.float32(factors.scale)
            expected += update
        np.testing.assert_array_equal(after.raw(name), stored_as(expected, STORED_AS[dtype]), name)


def test_progress_ends_with_all_bytes(tiny_model: Path, adapter_folder: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    merge(tiny_model, adapter_folder, tmp_path / "merged", seen.append)
    done = [event.done for event in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total == WeightFolder(tmp_path / "merged").stored_bytes


def test_shards_become_one_file_and_stay_when_the_model_is_large(
    tiny_model: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "model.safetensors").unlink()
    write_weights(base, "F32", shards=3)
    merge(base, adapter_folder, tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").glob("model*")] == ["model.safetensors"]
    monkeypatch.setattr(module, "SHARDED_ABOVE", 1000)
    merge(base, adapter_folder, tmp_path / "three")
    assert len(list((tmp_path / "three").glob("model-0000?-of-00003.safetensors"))) == 3
    one, three = WeightFolder(tmp_path / "one"), WeightFolder(tmp_path / "three")
    assert one.tensors.keys() == three.tensors.keys()
    for name in one.tensors:
        np.testing.assert_array_equal(one.raw(name), three.raw(name))


def test_what_belongs_to_the_model_comes_along_and_nothing_else(tiny_model: Path, adapter_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    for name in ("modeling.py", "README.md", "optimizer.pt", "notes.txt"):
        (base / name).write_text("x")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("y")
    os.mkfifo(base / "vocab.json")
    merge(base, adapter_folder, tmp_path / "merged")
    own = {"config.json", "model.safetensors", "additional_chat_templates"}
    tokenizer = {"tokenizer.model", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    assert set(left_in(tmp_path / "merged")) == own | tokenizer
    for name in tokenizer:
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()


V4 = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "_name_or_path": "/home/someone/llama"}
OLD = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"}
V5 = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}, "dtype": "bfloat16", "rope_theta": None}


@pytest.mark.parametrize("config", [V4, OLD, V5])
def test_the_rotation_is_said_in_both_forms(config: dict[str, Any], tmp_path: Path) -> None:
    said = portable(config, "float16")
    assert said["rope_theta"] == 5e5
    assert said["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert said["rope_parameters"] == {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    assert said["dtype"] == said["torch_dtype"] == "float16"
    assert "_name_or_path" not in said
    for form, values in enumerate((config, said)):
        (tmp_path / str(form)).mkdir()
        write_config(tmp_path / str(form), "llama", 300, **values)
    assert read_spec(tmp_path / "0").rope == read_spec(tmp_path / "1").rope


def test_a_plain_rotation_has_no_scaling() -> None:
    said = portable({"rope_theta": 1e6}, "float32")
    assert said["rope_scaling"] is None
    assert said["rope_parameters"] == {"rope_theta": 1e6, "rope_type": "default"}


def test_a_folder_that_is_there_is_not_touched(tiny_model: Path, adapter_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(InputError, match="is there already"):
            merge(tiny_model, adapter_folder, place)
    assert left_in(tmp_path / "mine") == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert merge(tiny_model, adapter_folder, tmp_path / "empty").out.is_dir()


def adapter_with(folder: Path, **factors: LoraFactors) -> Path:
    folder.mkdir()
    write_peft(folder, LoraAdapter({path.replace("__", "."): factor for path, factor in factors.items()}, "someone/other"))
    return folder


def factors(outputs: int, inputs: int, value: float = 1.0) -> LoraFactors:
    return LoraFactors(np.full((2, inputs), value, np.float32), np.full((outputs, 2), value, np.float32), 1.0)


@pytest.mark.parametrize(
    ("path", "shape", "words"),
    [
        ("model.layers.1.self_attn.q_proj", (32, 48), "32 x 32 here, 32 x 48 there"),
        ("model.layers.7.self_attn.q_proj", (32, 32), "no module model.layers.7.self_attn.q_proj"),
        ("model.layers.0.mlp.gate_up_proj", (32, 32), "no module model.layers.0.mlp.gate_up_proj"),
        ("lm_head", (32, 32), "no module lm_head"),
    ],
)
def test_an_adapter_of_another_base_is_refused_before_anything_is_written(
    tiny_model: Path, tmp_path: Path, path: str, shape: tuple[int, int], words: str
) -> None:
    adapter = adapter_with(tmp_path / "adapter", **{QUERY.replace(".", "__"): factors(32, 32)})
    weights = adapter / "adapter_model.safetensors"
    prefix = f"base_model.model.{path}"
    arrays = {
        f"{prefix}.lora_A.weight": np.ones((2, shape[1]), np.float32),
        f"{prefix}.lora_B.weight": np.ones((shape[0], 2), np.float32),
    }
    weights.unlink()
    save_safetensors(weights, [(name, "F32", array.shape) for name, array in arrays.items()], arrays.__getitem__)
    with pytest.raises(AdapterError, match=words) as caught:
        merge(tiny_model, adapter, tmp_path / "merged")
    assert "someone/other" in caught.value.hint
    assert left_in(tmp_path) == ["adapter"]


def test_a_merged_value_beyond_float16_is_refused_and_nothing_is_left(tiny_model: Path, tmp_path: Path) -> None:
    adapter = adapter_with(tmp_path / "adapter", **{QUERY.replace(".", "__"): factors(32, 32, 300.0)})
    with pytest.raises(ModelError, match=f"{QUERY}.weight holds 18000., more than F16's 65504"):
        merge(tiny_model, adapter, tmp_path / "merged", dtype="float16")
    assert left_in(tmp_path) == ["adapter"]


@pytest.mark.parametrize("point", ["merge-open", "merge-block", "merge-written", "merge-flushed"])
def test_a_full_disk_leaves_nothing(
    tiny_model: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr("edgetune.faults.passages", {})
    monkeypatch.setenv("EDGETUNE_FAULT", f"{point}:1:enospc")
    with pytest.raises(DiskFull):
        merge(tiny_model, adapter_folder, tmp_path / "merged")
    assert left_in(tmp_path) == []


def test_too_little_disk_is_said_before_anything_is_written(
    tiny_model: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.files.free_space", lambda path: 1000)
    with pytest.raises(DiskFull, match="1 kB free"):
        merge(tiny_model, adapter_folder, tmp_path / "merged")
    assert left_in(tmp_path) == []


def test_a_killed_merge_leaves_no_folder_and_the_next_one_works(tiny_model: Path, adapter_folder: Path, tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from edgetune.export.merge import merge; merge(*map(Path, sys.argv[1:]))"
    command = [sys.executable, "-c", program, tiny_model, adapter_folder, tmp_path / "merged"]
    killed = subprocess.run(command, env={**os.environ, "EDGETUNE_FAULT": "merge-block:9:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "merged").exists()
    merge(tiny_model, adapter_folder, tmp_path / "merged")
    assert load_model(tmp_path / "merged").layers


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.architecture.row_blocks.BLOCK", 1 << 16)
    base, hidden = tmp_path / "base", 20_000
    base.mkdir()
    write_config(base, "llama", 300, intermediate_size=hidden, num_hidden_layers=1)
    write_weights(base, "BF16")
    random = np.random.default_rng(0)
    a, b = (random.normal(0, 0.1, shape).astype(np.float32) for shape in ((2, 64), (hidden, 2)))
    adapter = adapter_with(tmp_path / "adapter", model__layers__0__mlp__up_proj=LoraFactors(a, b, 1.0))
    largest = hidden * 64 * 4
    tracemalloc.start()
    merge(base, adapter, tmp_path / "merged", dtype="float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < largest / 3
