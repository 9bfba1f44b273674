"""The whole job through the command line, as a person types it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetune.adapters.peft import read_peft


def edgetune(*arguments: str | Path, code: int = 0) -> Any:
    """The JSON document of a command."""
    command = [sys.executable, "-m", "edgetune", *map(str, arguments), "--json", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=dict(os.environ))
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_from_rows_to_an_answer(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{tiny_model}"\n[data]\ntrain = ["{rows.name}"]\nvalid = 0.2\nmax_tokens = 64\n[adapter]\nrank = 8\n'
        "[training]\nsteps = 60\nbatch = 4\naccumulate = 2\nrate = 1e-2\n[checks]\neval_every = 20\n"
    )
    seen = edgetune("data", rows, "--model", tiny_model)
    assert seen["rows"] == 24 and seen["trained_tokens"] > 24 and seen["problems"] == []
    assert edgetune("plan", config)["fits"] is True
    before = edgetune("eval", "--model", tiny_model, "--data", rows)
    run = tmp_path / "run"
    trained = edgetune("train", config, "--run", run)
    after = edgetune("eval", "--model", tiny_model, "--adapter", run, "--data", rows)
    assert after["loss"] < 0.5 * before["loss"]
    assert len(read_peft(run / "adapter").factors) == 14 and trained["adapter"] == str(run / "adapter")
    assert edgetune("runs")["runs"] == []  # only those without a folder of their own are listed

    merged = edgetune("merge", "--model", tiny_model, "--adapter", run, "--out", tmp_path / "merged")
    assert edgetune("eval", "--model", merged["out"], "--data", rows)["loss"] == pytest.approx(after["loss"], abs=1e-5)

    exported = edgetune("export", run, "--to", "F32,F16,BF16,Q8_0", "--out", tmp_path / "exports")
    certificate = json.loads(Path(exported["certificate"]).read_text())
    assert [file["type"] for file in exported["files"]] == ["F16", "F32", "BF16", "Q8_0"]
    assert all(abs(file["loss_delta"]) < 0.05 and Path(file["path"]).exists() for file in exported["files"])
    assert certificate["tokenizer"]["differences"] == [] and certificate["held_out"] is True
    assert certificate["base_loss"] > certificate["hops"][0]["loss"]

    question = json.loads(rows.read_text().splitlines()[0])["messages"][0]["content"]
    gguf = next(file["path"] for file in exported["files"] if file["type"] == "F32")
    reply = edgetune("chat", gguf, "--prompt", question, "--temperature", "0", "--max-tokens", "16")
    own = edgetune("chat", run, "--prompt", question, "--temperature", "0", "--max-tokens", "16")
    assert reply["reply"] == own["reply"] and reply["stopped_by"] == own["stopped_by"]


@pytest.mark.slow
def test_demo(starter: Path, tmp_path: Path) -> None:
    if not (starter / "model.safetensors").exists():
        pytest.fail("the starter model has no weights")
    told = edgetune("demo", "--keep", tmp_path)
    assert told["after"]["accuracy"] >= told["before"]["accuracy"] + 0.4
    assert told["after"]["loss"] < told["before"]["loss"]
    assert Path(told["gguf"]).exists() and told["reply"]
    hops = json.loads(Path(told["certificate"]).read_text())["hops"]
    assert [hop["verdict"] for hop in hops] == ["reference", "proved", "proved", "proved", "proved"]


@pytest.mark.slow
def test_real_weights_and_a_real_dataset(assets: Path, tmp_path: Path) -> None:
    """stories260K has no chat template: text rows, and a GGUF that llama.cpp reads as the original's own."""
    model = assets / "weights" / "stories260K-hf"
    text = (assets / "datasets" / "tinyshakespeare" / "input.txt").read_text()[:20_000]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text[start : start + 400]}) + "\n" for start in range(0, len(text), 400)))
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{model}"\n[data]\ntrain = ["{rows.name}"]\nmax_tokens = 512\n[training]\nsteps = 20\nrate = 3e-3\n'
    )
    before = edgetune("eval", "--model", model, "--data", rows)
    run = tmp_path / "run"
    edgetune("train", config, "--run", run)
    assert edgetune("eval", "--model", model, "--adapter", run, "--data", rows)["loss"] < before["loss"] - 0.2
    files = edgetune("export", run, "--to", "F16,Q8_0", "--out", tmp_path / "exports")["files"]
    assert all(abs(file["loss_delta"]) < 0.05 for file in files)


def test_errors_are_two_lines_and_a_code(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    unsupported = tmp_path / "mamba"
    unsupported.mkdir()
    (unsupported / "config.json").write_text('{"model_type": "mamba"}')
    error = edgetune("eval", "--model", unsupported, "--data", rows, code=2)["error"]
    assert error["kind"] == "unsupported_family" and "mamba" in error["message"] and "qwen3" in error["hint"]
    error = edgetune("eval", "--model", tiny_model, "--data", tmp_path / "absent.jsonl", code=2)["error"]
    assert "absent.jsonl" in error["message"] and error["hint"]
