"""The same commands on MLX, here on its CPU build."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")

from edgetune.architecture.weights import load_arrays
from edgetune.backend.numpy_cache import CachedOps
from edgetune.cli.main import main
from edgetune.events import RunStarted, SampleWritten, StepFinished, ValidationFinished, read
from edgetune.training import session

pytestmark = pytest.mark.slow  # together

CONFIG = """model = "{model}"
[data]
train = ["{rows}"]
valid = 0.2
max_tokens = 64
[adapter]
rank = 2
method = "{method}"
[training]
steps = 6
batch = 2
accumulate = 2
rate = 5e-3
[checks]
eval_every = 3
save_every = 2
samples = ["Who sees?"]
"""


def written(tmp_path: Path, model: Path, rows: Path, method: str = "lora") -> Path:
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.format(model=model, rows=rows, method=method))
    return file


def edgetune(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def told(run: Path, kind: type[Any]) -> list[Any]:
    return [event for event in read(run / "events.jsonl") if isinstance(event, kind)]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_on_mlx_is_the_run_on_numpy(
    method: str, tiny_model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses, validations and samples, and what is handed over."""
    config = written(tmp_path, tiny_model, rows, method)
    runs = {name: tmp_path / name for name in ("numpy", "mlx")}
    for name, run in runs.items():
        document = edgetune(capsys, "train", config, "--run", run, "--backend", name)
        assert document["steps"] == 6 and document["peak_bytes"] > 20e6
        assert [event.backend for event in told(run, RunStarted)] == [name]
        assert all(event.memory_bytes > 20e6 for event in told(run, StepFinished))
    for kind in (StepFinished, ValidationFinished):
        ours, others = ([event.loss for event in told(run, kind)] for run in (runs["mlx"], runs["numpy"]))
        assert ours == pytest.approx(others, rel=1e-4) and len(ours) == {StepFinished: 6, ValidationFinished: 3}[kind]
    ours, others = ([event.reply for event in told(run, SampleWritten)] for run in (runs["mlx"], runs["numpy"]))
    assert ours == others and ours[0] != ours[-1]
    file = {"lora": "adapter/adapter_model.safetensors", "full": "model/model.safetensors"}[method]
    ours, others = (load_arrays(run / file) for run in (runs["mlx"], runs["numpy"]))
    assert all(np.allclose(ours[name], array, atol=2e-4) for name, array in others.items())


def test_a_run_goes_on_with_the_backend_that_it_was_begun_with(
    tiny_model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole, run = written(tmp_path, tiny_model, rows), tmp_path / "whole", tmp_path / "run"
    edgetune(capsys, "train", config, "--run", whole, "--backend", "mlx")
    with monkeypatch.context() as patch:
        patch.setattr("edgetune.cli.signals.StopSignals.requested", lambda self: True)
        assert main(["train", str(config), "--run", str(run), "--backend", "mlx"]) == 4
    begun = session.begun_with(run)
    assert begun and (begun.backend, begun.workers) == ("mlx", 2) and begun.versions.keys() == {"edgetune", "numpy", "mlx"}
    capsys.readouterr()
    assert main(["resume", str(run), "--backend", "numpy"]) == 2
    error = capsys.readouterr().err
    assert "the backend changed since the run began" in error and "--force" in error
    edgetune(capsys, "resume", run)
    assert [event.backend for event in told(run, RunStarted)] == ["mlx", "mlx"]
    file = Path("adapter") / "adapter_model.safetensors"
    assert (run / file).read_bytes() == (whole / file).read_bytes()


def test_eval_and_plan_on_mlx(
    tiny_model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("eval", "--model", tiny_model, "--data", rows, "--per-token")
    with monkeypatch.context() as patch:
        patch.setattr(CachedOps, "advance", lambda ops, time: pytest.fail("MLX's answers are made by MLX"))
        answered = edgetune(capsys, *arguments, "--task", "exact", "--backend", "mlx")["answers"]
    assert answered == edgetune(capsys, *arguments, "--task", "exact", "--backend", "numpy")["answers"] and answered
    numpy, mlx = (edgetune(capsys, *arguments, "--backend", name) for name in ("numpy", "mlx"))
    assert mlx["loss"] == pytest.approx(numpy["loss"], rel=1e-6) and mlx["tokens"] == numpy["tokens"]
    for ours, others in zip(mlx["rows"], numpy["rows"], strict=True):
        for one, other in zip(ours["logprobs"], others["logprobs"], strict=True):
            assert one == other if other is None else one == pytest.approx(other, abs=1e-4)
    assert edgetune(capsys, "plan", written(tmp_path, tiny_model, rows), "--backend", "mlx")["fits"]
