"""A GGUF file is whole or absent, says nothing of this machine, and holds what the model folder holds."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import get_args

import gguf
import numpy as np
import pytest

from edgetune.architecture.weights import WeightFolder, read_header, to_bfloat16
from edgetune.errors import DiskFull, InputError, ModelError, TokenizerError, UnsupportedFamily
from edgetune.events import Progress
from edgetune.export.gguf_file import Kind, write_gguf
from edgetune.export.gguf_header import check_gguf, read_gguf_header
from tests.parity.gguf_models import write_config, write_weights


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", get_args(Kind))
def test_llama_cpps_own_reader_finds_the_weights(tiny_model: Path, tmp_path: Path, kind: Kind) -> None:
    written = write_gguf(tiny_model, tmp_path / "tiny.gguf", kind, name="Tiny")
    assert written.size == written.path.stat().st_size
    reader, weights = gguf.GGUFReader(written.path), WeightFolder(tiny_model)
    assert reader.fields["general.name"].contents() == "Tiny"
    assert reader.fields["llama.block_count"].contents() == 2
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == written.tensors == len(weights.tensors)
    for ours, theirs in (("token_embd", "model.embed_tokens"), ("blk.1.ffn_down", "model.layers.1.mlp.down_proj")):
        tensor, expected = tensors[f"{ours}.weight"], weights.floats(f"{theirs}.weight")
        assert tensor.tensor_type.name == kind
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(numbers, expected, atol={"F32": 0, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 0.02}[kind])
    assert tensors["output_norm.weight"].tensor_type.name == "F32"


def test_queries_and_keys_are_interleaved(tiny_model: Path, tmp_path: Path) -> None:
    file = write_gguf(tiny_model, tmp_path / "tiny.gguf", "F32").path
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    weights = WeightFolder(tiny_model)
    head = weights.floats("model.layers.0.self_attn.k_proj.weight")[8:16]  # the second head of eight rows
    np.testing.assert_array_equal(tensors["blk.0.attn_k.weight"][8:16], head[[0, 4, 1, 5, 2, 6, 3, 7]])
    np.testing.assert_array_equal(tensors["blk.0.attn_v.weight"], weights.floats("model.layers.0.self_attn.v_proj.weight"))


def test_rows_that_do_not_divide_stay_in_float16_and_are_named(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    write_config(model, "llama", config["vocab_size"], intermediate_size=72)
    write_weights(model, "F32")
    written = write_gguf(model, tmp_path / "odd.gguf", "Q8_0")
    assert written.kept_in_float16 == ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    tensors = read_gguf_header(written.path).tensors
    assert (tensors["blk.0.ffn_down.weight"].kind, tensors["blk.0.ffn_up.weight"].kind) == ("F16", "Q8_0")


def test_nothing_of_this_machine_is_in_the_file(tiny_model: Path, tmp_path: Path) -> None:
    content = write_gguf(tiny_model, tmp_path / "x.gguf", "F16").path.read_bytes()
    for secret in (str(tmp_path), str(tiny_model), tiny_model.name, str(Path.home()), socket.gethostname()):
        assert secret.encode() not in content
    header = read_gguf_header(tmp_path / "x.gguf")
    assert "general.name" not in header.metadata
    assert not any(getpass.getuser() in str(value) for key, value in header.metadata.items() if key.startswith("general."))


def test_the_same_model_gives_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    first, second = (write_gguf(tiny_model, tmp_path / f"{at}.gguf", "BF16").path.read_bytes() for at in (1, 2))
    assert first == second


def test_progress_ends_with_all_bytes(tiny_model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    write_gguf(tiny_model, tmp_path / "tiny.gguf", "F16", seen.append)
    done = [event.done for event in seen]
    assert done == sorted(done)
    assert (
        done[-1] == seen[-1].total == sum(tensor.size for tensor in read_gguf_header(tmp_path / "tiny.gguf").tensors.values())
    )


def test_vocabulary_and_embedding_that_disagree_are_named(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    write_config(model, "llama", 300)
    write_weights(model, "F32")
    with pytest.raises(TokenizerError, match=r"the tokenizer has 400 tokens, config\.json and the embedding have 300"):
        write_gguf(model, tmp_path / "x.gguf", "F16")
    write_config(model, "llama", 400)
    with pytest.raises(ModelError, match=r"config.json says 400 tokens of 64, model.embed_tokens.weight is \(300, 64\)"):
        write_gguf(model, tmp_path / "x.gguf", "F16")
    assert left_in(tmp_path) == ["model"]


def test_a_missing_shard_and_another_family_are_named(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "model.safetensors").unlink()
    write_weights(model, "F32", shards=2)
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the shard model-00002-of-00002\.safetensors, which is missing"):
        write_gguf(model, tmp_path / "x.gguf", "F16")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(UnsupportedFamily, match="mamba"):
        write_gguf(model, tmp_path / "x.gguf", "F16")


def test_a_weight_beyond_float16_is_refused_and_nothing_is_left(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    write_config(model, "llama", config["vocab_size"])
    write_weights(model, "BF16")
    info = read_header(model / "model.safetensors")[0]["model.layers.1.mlp.up_proj.weight"]
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(info.start + 100)
        file.write(to_bfloat16(np.array([1e5], np.float32)).tobytes())
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds 99840, more than F16's 65504"):
        write_gguf(model, tmp_path / "x.gguf", "F16")
    assert left_in(tmp_path) == ["model"]
    check_gguf(read_gguf_header(write_gguf(model, tmp_path / "x.gguf", "BF16").path))


def test_numbers_that_gguf_cannot_hold_are_named(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 1e39}))
    with pytest.raises(ModelError, match=r"llama\.rope\.freq_base = 1e\+39 is beyond what GGUF can hold"):
        write_gguf(model, tmp_path / "x.gguf", "F16")
    assert left_in(tmp_path) == ["model"]


def test_only_a_file_that_ends_in_gguf_is_written(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "folder.gguf").mkdir()
    for place in (tmp_path, tmp_path / "folder.gguf", model / "model.safetensors"):
        with pytest.raises(InputError, match="is no name for a GGUF file"):
            write_gguf(model, place, "F16")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        write_gguf(tiny_model, tmp_path / "file" / "x.gguf", "F16")
    assert left_in(tmp_path) == ["file", "folder.gguf", "model"]
    assert (model / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("point", ["gguf-open", "gguf-block", "gguf-written", "gguf-flushed"])
def test_a_full_disk_keeps_the_old_file(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    (tmp_path / "x.gguf").write_text("the old one")
    monkeypatch.setattr("edgetune.faults.passages", {})
    monkeypatch.setenv("EDGETUNE_FAULT", f"{point}:1:enospc")
    with pytest.raises(DiskFull):
        write_gguf(tiny_model, tmp_path / "x.gguf", "F16")
    assert left_in(tmp_path) == ["x.gguf"]
    assert (tmp_path / "x.gguf").read_text() == "the old one"


def test_too_little_disk_is_said_before_anything_is_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.files.free_space", lambda path: 1000)
    with pytest.raises(DiskFull, match="1 kB free"):
        write_gguf(tiny_model, tmp_path / "x.gguf", "F16")
    assert left_in(tmp_path) == []


def test_a_killed_export_leaves_no_file_under_its_name(tiny_model: Path, tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from edgetune.export.gguf_file import write_gguf; "
    program += "write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), 'F16')"
    command = [sys.executable, "-c", program, tiny_model, tmp_path / "x.gguf"]
    killed = subprocess.run(command, env={**os.environ, "EDGETUNE_FAULT": "gguf-block:9:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "x.gguf").exists()
    check_gguf(read_gguf_header(write_gguf(tiny_model, tmp_path / "x.gguf", "F16").path))


@pytest.mark.parametrize("kind", ["F16", pytest.param("Q8_0", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_tensor(
    tiny_model: Path, tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.architecture.row_blocks.BLOCK", 1 << 16)
    model, hidden = shutil.copytree(tiny_model, tmp_path / "model"), 40_000
    config = json.loads((model / "config.json").read_text())
    write_config(model, "llama", config["vocab_size"], intermediate_size=hidden, num_hidden_layers=1)
    write_weights(model, "BF16")
    write_gguf(model, tmp_path / "warm.gguf", kind)  # tables and caches
    tracemalloc.start()
    write_gguf(model, tmp_path / "x.gguf", kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < hidden * 64 * 2 / 3
