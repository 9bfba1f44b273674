"""Training on frozen weights in fewer bits: it learns, it resumes bit for bit, and what cannot be is refused before it starts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import write_model

from edgetune.adapters.peft import read_peft
from edgetune.architecture.load import load_model
from edgetune.backend.numpy_weights import Quantized
from edgetune.config import QuantizeBase, convert
from edgetune.errors import CheckpointError, ConfigError, StoppedEarly
from edgetune.events import Event, Progress, RunFinished, StepFinished, ValidationFinished
from edgetune.training import session
from edgetune.training.session import Resources, prepare

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
PACKED_BY_MLX = Path(__file__).parents[2] / "parity" / "fixtures" / "mlx-quantized"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "wide"
    write_model(folder, CONFIG, 9, "BF16")
    return folder


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-tokenised rows that count upwards."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [{"input_ids": [(n + at) % 40 for at in range(8)], "loss_mask": [0, 0, *[1] * 6]} for n in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


class Runner:
    """Trains on a base, and keeps what was told."""

    def __init__(self, base: Path, rows: Path, place: Path):
        self.base, self.rows, self.place, self.events = base, rows, place, list[Event]()

    def prepared(self, quantize_base: QuantizeBase = "none", **adapter: Any) -> session.Prepared:
        values = {
            "model": str(self.base),
            "data": {"train": [str(self.rows)], "valid": 0.25, "max_tokens": 16},
            "adapter": {"rank": 2, "alpha": 4, "dropout": 0.1, **adapter},
            "training": {"steps": 8, "batch": 2, "accumulate": 1, "rate": 1e-2, "quantize_base": quantize_base},
            "checks": {"eval_every": 2, "save_every": 2},
        }
        if values["adapter"].get("method") == "full":
            values["adapter"] = {"method": "full"}
        return prepare(convert(values), self.base)

    def train(self, name: str, quantize_base: QuantizeBase = "none", stop_at: int = 99, **adapter: Any) -> RunFinished:
        self.events = []
        prepared = self.prepared(quantize_base, **adapter)
        return session.train(prepared, self.place / name, Resources(2), self.events.append, lambda: len(self.losses) >= stop_at)

    def resume(self, name: str, force: bool = False) -> RunFinished:
        prepared = prepare(session.read_run_config(self.place / name), self.base)
        return session.resume(self.place / name, prepared, Resources(2), self.events.append, lambda: False, force)

    @property
    def losses(self) -> list[float]:
        return [event.loss for event in self.events if isinstance(event, StepFinished)]

    def weights(self, name: str) -> bytes:
        return (self.place / name / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def runner(base: Path, counting: Path, tmp_path: Path) -> Runner:
    return Runner(base, counting, tmp_path)


def test_it_learns_on_packed_weights_about_what_it_learns_on_floats(runner: Runner) -> None:
    losses: dict[str, list[float]] = {}
    for precision in ("none", "8bit", "4bit"):
        runner.train(precision, precision)
        losses[precision] = runner.losses
        told = [event for event in runner.events if isinstance(event, Progress) and event.stage == "quantising the base"]
        assert bool(told) == (precision != "none")
    assert all(run[-1] < run[0] - 0.5 for run in losses.values())
    apart = {precision: np.abs(np.subtract(losses[precision], losses["none"])).max() for precision in ("8bit", "4bit")}
    assert 0 < apart["8bit"] < 0.05 < apart["4bit"] < 0.5


def test_the_base_is_packed_and_what_is_trained_is_not(runner: Runner) -> None:
    run = session.build(runner.prepared("4bit"), runner.place, Resources(1))
    assert isinstance(run.model.embedding.weight, Quantized) and isinstance(run.model.head.weight, Quantized)
    joints = [joint for layer in run.model.layers for joint in (layer.query_key_value, layer.output, layer.gate_up, layer.down)]
    assert all(isinstance(part.weight, Quantized) and part.weight.packing.bits == 4 for joint in joints for part in joint.parts)
    assert all(array.dtype == np.float32 for array in run.parameters.values())


def test_dora_begins_with_the_lengths_of_the_packed_rows(runner: Runner) -> None:
    """So that it computes at first what LoRA computes on the same packed weights."""
    first: dict[str, float] = {}
    for method in ("lora", "dora"):
        runner.train(method, "4bit", method=method)
        first[method] = next(event.loss for event in runner.events if isinstance(event, ValidationFinished))
    assert first["dora"] == pytest.approx(first["lora"], rel=1e-6)


def test_dora_and_the_last_layers_learn_on_packed_weights_too(runner: Runner) -> None:
    for name, adapter in {"dora": {"method": "dora"}, "last": {"layers": 1}}.items():
        runner.train(name, "4bit", **adapter)
        assert runner.losses[-1] < runner.losses[0] - 0.3


@pytest.mark.parametrize("at", [1, 4])
def test_a_stopped_run_goes_on_to_the_same_end_bit_for_bit(runner: Runner, at: int) -> None:
    whole = runner.train("whole", "4bit")
    losses = runner.losses
    with pytest.raises(StoppedEarly):
        runner.train("stopped", "4bit", stop_at=at)
    resumed = runner.resume("stopped")
    assert runner.losses == losses and runner.weights("stopped") == runner.weights("whole")
    assert (resumed.valid_loss, resumed.tokens) == (whole.valid_loss, whole.tokens)


def test_12_another_precision_is_another_run(runner: Runner) -> None:
    with pytest.raises(StoppedEarly):
        runner.train("run", "4bit", stop_at=2)
    config = runner.place / "run" / "run.toml"
    config.write_text(config.read_text().replace('quantize_base = "4bit"', 'quantize_base = "8bit"'))
    with pytest.raises(CheckpointError, match=r"run\.toml changed"):
        runner.resume("run")
    assert runner.resume("run", force=True).steps == 8


def test_what_cannot_be_is_refused_before_anything_is_written(runner: Runner, counting: Path, tmp_path: Path) -> None:
    cases: list[tuple[Runner, dict[str, Any], str]] = [
        (runner, {"method": "full"}, "packs frozen weights, method full has none"),
        (Runner(PACKED_BY_MLX / "mxfp8", counting, tmp_path), {}, "quantised already, in 8 bits"),
        (Runner(narrow(tmp_path / "narrow"), counting, tmp_path), {}, "divides into groups of 64"),
    ]
    for refusing, adapter, said in cases:
        with pytest.raises(ConfigError, match=said) as caught:
            refusing.train("run", "4bit", **adapter)
        assert "quantize_base" in caught.value.message and "none" in caught.value.hint
    assert not (tmp_path / "run").exists()


def narrow(folder: Path) -> Path:
    write_model(folder, {**CONFIG, "hidden_size": 32, "intermediate_size": 96}, 9)
    return folder


# ---- bases that mlx-lm quantised ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["affine-4", "affine-4-mixed", "mxfp4", "nvfp4"])
def test_an_adapter_learns_on_a_base_of_mlx_lm(name: str, counting: Path, tmp_path: Path) -> None:
    runner = Runner(PACKED_BY_MLX / name, counting, tmp_path)
    finished = runner.train("run")
    assert runner.losses[-1] < runner.losses[0] - 0.3
    assert read_peft(Path(finished.adapter)).factors.keys()


def test_every_weight_may_be_trained_from_a_packed_base_and_the_outcome_is_floats(counting: Path, tmp_path: Path) -> None:
    base = shutil.copytree(PACKED_BY_MLX / "affine-4-mixed", tmp_path / "base")
    finished = Runner(base, counting, tmp_path).train("run", method="full")
    config = json.loads((Path(finished.adapter) / "config.json").read_text())
    assert "quantization" not in config and "quantization_config" not in config

    assert load_model(Path(finished.adapter)).layers
