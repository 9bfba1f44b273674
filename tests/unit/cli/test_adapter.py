import json
from pathlib import Path

import numpy as np
import pytest

from edgetune.adapters.lora import LoraAdapter, LoraFactors
from edgetune.adapters.open import open_adapter
from edgetune.adapters.peft import write_peft
from edgetune.cli.main import main

UP = "model.layers.1.mlp.up_proj"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A PEFT adapter for the tiny model."""
    random = np.random.default_rng(0)
    a, b = (random.normal(0, 1, shape).astype(np.float32) for shape in ((3, 32), (64, 3)))
    (tmp_path / "adapter").mkdir()
    write_peft(tmp_path / "adapter", LoraAdapter({UP: LoraFactors(a, b, 2.0)}, "someone/tiny"))
    return tmp_path / "adapter"


def convert(*arguments: str | Path) -> int:
    return main(["adapter", "convert", *map(str, arguments)])


def test_there_and_back_again(source: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(source, "--to", "mlx", "--out", tmp_path / "mlx", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / "mlx"), "modules": 1, "rank": 3}
    assert convert(tmp_path / "mlx", "--to", "peft", "--out", tmp_path / "back") == 0
    assert "1 modules of rank 3" in capsys.readouterr().out
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        before, after = ((folder / name).read_text("latin-1") for folder in (source, tmp_path / "back"))
        assert before == after, name


def test_gguf_needs_the_base_which_a_run_knows(source: Path, tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "a.gguf"
    assert convert(source, "--to", "gguf", "--out", file) == 2
    assert "--model" in capsys.readouterr().err and not file.exists()
    assert convert(source, "--to", "gguf", "--out", file, "--model", tiny_model, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(file), "modules": 1, "rank": 3}
    assert convert(file, "--to", "peft", "--out", tmp_path / "back") == 2
    assert convert(file, "--to", "peft", "--out", tmp_path / "back", "--model", tiny_model) == 0
    before, after = (open_adapter(folder).factors[UP] for folder in (source, tmp_path / "back"))
    assert np.array_equal(before.a, after.a) and np.array_equal(before.b, after.b) and before.scale == after.scale
    run = tmp_path / "run"
    run.mkdir()
    source.rename(run / "adapter")
    (run / "run.toml").write_text(f'model = "{tiny_model}"\n[data]\ntrain = ["rows.jsonl"]\n')
    assert convert(run, "--to", "gguf", "--out", tmp_path / "b.gguf") == 0
    assert (tmp_path / "b.gguf").read_bytes() == file.read_bytes()


def test_with_the_base_it_must_fit_and_says_its_layers(source: Path, tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(source, "--to", "mlx", "--out", tmp_path / "mlx", "--model", tiny_model) == 0
    assert json.loads((tmp_path / "mlx" / "adapter_config.json").read_text())["num_layers"] == 1
    other = LoraAdapter({UP: open_adapter(source).factors[UP]._replace(a=np.ones((3, 16), np.float32))})
    write_peft_again(source, other)
    assert convert(source, "--to", "mlx", "--out", tmp_path / "again", "--model", tiny_model) == 2
    assert "64 x 32 here, 64 x 16 there" in capsys.readouterr().err and not (tmp_path / "again").exists()


def write_peft_again(folder: Path, adapter: LoraAdapter) -> None:
    for file in folder.iterdir():
        file.unlink()
    write_peft(folder, adapter)


def test_nothing_is_overwritten_and_nothing_left_behind(source: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(source, "--to", "mlx", "--out", source) == 2
    assert "is there already" in capsys.readouterr().err and open_adapter(source).rank == 3
    (source / "adapter_model.safetensors").write_bytes(b"x")
    assert convert(source, "--to", "mlx", "--out", tmp_path / "mlx") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    ("to", "point"), [("gguf", "gguf-adapter-block"), ("gguf", "gguf-adapter-written"), ("mlx", "converted-written")]
)
def test_a_full_disk_leaves_nothing(
    to: str, point: str, source: Path, tiny_model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.faults.passages", {})
    monkeypatch.setenv("EDGETUNE_FAULT", f"{point}:1:enospc")
    assert convert(source, "--to", to, "--out", tmp_path / "new.gguf", "--model", tiny_model) == 3
    assert "no room left" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_the_other_commands_take_what_was_converted(
    source: Path, tiny_model: Path, rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert convert(source, "--to", "mlx", "--out", tmp_path / "mlx") == 0
    capsys.readouterr()
    losses: list[float] = []
    for adapter in ([], ["--adapter", str(source)], ["--adapter", str(tmp_path / "mlx")]):
        assert main(["eval", "--model", str(tiny_model), "--data", str(rows), *adapter, "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[1] == losses[2] != losses[0]
    merged = [tmp_path / "merged-peft", tmp_path / "merged-mlx"]
    for adapter, out in zip((source, tmp_path / "mlx"), merged, strict=True):
        assert main(["merge", "--model", str(tiny_model), "--adapter", str(adapter), "--out", str(out)]) == 0
    assert (merged[0] / "model.safetensors").read_bytes() == (merged[1] / "model.safetensors").read_bytes()


def test_an_unknown_format_is_a_usage_error(source: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(source, "--to", "onnx", "--out", tmp_path / "x") == 2
    assert "hint:" in capsys.readouterr().err
