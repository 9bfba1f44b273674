import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.adapters.lora import new_lora
from edgetune.architecture.load import parameter_shapes
from edgetune.architecture.quantized_base import BASE_PACKINGS, base_bytes
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.weights import WeightFolder, save_safetensors
from edgetune.config import AdapterConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.errors import DoesNotFit
from edgetune.planner.facts import Facts, shape_of
from edgetune.planner.memory import memory_parts, plan_memory
from edgetune.planner.numpy_memory import Form
from edgetune.planner.plan import replan
from edgetune.planner.rows import grouped
from edgetune.planner.suggestions import with_settings
from edgetune.planner.trained import trained_parameters

PLENTY = 10**15
SHAPE = dict(vocab_size=2000, hidden_size=256, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4)
ONE_STEP = """
import os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"
from pathlib import Path
import numpy as np
from edgetune.adapters.dora import with_magnitudes
from edgetune.adapters.lora import new_lora
from edgetune.backend.numpy_weights import Plain
from edgetune.architecture.load import Source, build_model, parameter_shapes
from edgetune.architecture.spec import read_spec
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.config import AdapterConfig, TrainingConfig
from edgetune.hardware import peak_memory
from edgetune.training.loss import row_loss
from edgetune.training.optimizer import AdamW
spec, time, recompute = read_spec(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3] == "layers"
share, dora = sys.argv[4] == "shared", sys.argv[5] == "dora"
before = peak_memory()
random = np.random.default_rng(0)
arrays = {name: random.standard_normal(shape, np.float32) * np.float32(0.02) for name, shape in parameter_shapes(spec).items()}
adapter = new_lora(spec, AdapterConfig(rank=8), 1, "tiny")
adapter = with_magnitudes(adapter, {p: Plain(arrays[p + ".weight"]) for p in adapter.factors}) if dora else adapter
trained = adapter.trained_arrays()
model = build_model(Source(spec, arrays=arrays), adapter.places())
runner, optimizer = NumpyRunner(trained, 2, share_weights=share), AdamW(trained, TrainingConfig())
tokens = random.integers(0, spec.vocab, time + 1).astype(np.int32)
rows = [Row(tokens[:-1], tokens[1:], ((0, time),))] * 4
_, gradients = runner.loss_and_gradients(row_loss(model, recompute), rows)
optimizer.update(gradients, 1e-3)
print(before, peak_memory())
"""

ON_A_FOLDER = """
import os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"
from pathlib import Path
import numpy as np
from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import new_lora
from edgetune.architecture.spec import read_spec
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.config import AdapterConfig
from edgetune.hardware import peak_memory
from edgetune.training.loss import row_loss
folder, time, precision = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
before = peak_memory()
adapted = open_adapted(folder, new_lora(read_spec(folder), AdapterConfig(rank=8), 1, "tiny"), precision)
tokens = np.random.default_rng(0).integers(0, adapted.spec.vocab, time + 1).astype(np.int32)
runner = NumpyRunner(adapted.parameters, 1)
runner.loss_and_gradients(row_loss(adapted.model, True), [Row(tokens[:-1], tokens[1:], ((0, time),))])
print(before, peak_memory())
"""


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    values = {"model_type": "llama", "intermediate_size": 704, "tie_word_embeddings": True} | SHAPE | changes
    (folder / "config.json").write_bytes(msgspec.json.encode(values))
    return read_spec(folder)


def config(
    max_tokens: int = 256, packing: bool = True, method: str = "lora", recompute: str = "auto", **training: Any
) -> RunConfig:
    adapter = AdapterConfig(rank=8, method=method)  # pyright: ignore[reportArgumentType]
    data = DataConfig(train=["rows"], max_tokens=max_tokens, packing=packing)
    return RunConfig(model="tiny", data=data, adapter=adapter, training=TrainingConfig(recompute=recompute, **training))  # pyright: ignore[reportArgumentType]


def facts(spec: ModelSpec, lengths: list[int] | None = None, workers: int = 2, usable: int = PLENTY, **others: Any) -> Facts:
    known: dict[str, Any] = {"stored_bytes": 20_000_000, "stored_floats": True, "free_bytes": PLENTY} | others
    rows = grouped((length, length) for length in lengths or [64] * 100)
    return Facts(shape=shape_of(spec), rows=rows, workers=workers, usable_bytes=usable, **known)


@pytest.mark.slow  # together
@pytest.mark.parametrize(
    ("recompute", "weights", "method"),
    [(recompute, weights, "lora") for recompute in ("off", "layers") for weights in ("shared", "each")]
    + [("off", "each", "dora")],
)
def test_the_plan_is_what_a_step_takes(tmp_path: Path, recompute: str, weights: str, method: str) -> None:
    """Measured in a process of its own; the interpreter, which is the same for all runs, is left out of the comparison."""
    spec, time = spec_of(tmp_path), 512
    command = [sys.executable, "-c", ONE_STEP, str(tmp_path), str(time), recompute, weights, method]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, peak = map(int, done.stdout.split())
    stored = 4 * sum(math.prod(shape) for shape in ((spec.vocab, spec.dim),)) + 4 * 6 * 256 * (256 * 2 + 128 * 2 + 704 * 3)
    known = facts(spec, [time] * 4, stored_bytes=stored, base_bytes=before)
    parts = memory_parts(known, config(time, method=method), Form(recompute == "layers", weights == "shared"))
    assert sum(parts.values()) == pytest.approx(peak, rel=0.1)


@pytest.mark.slow
def test_a_quantised_base_takes_what_was_planned(tmp_path: Path) -> None:
    """Measured on a folder of 53 MB: rows are read and not mapped while they are packed, so its floats never count."""
    spec, time = spec_of(tmp_path, hidden_size=640, intermediate_size=2048, vocab_size=4000), 64
    shapes = parameter_shapes(spec)
    random = np.random.default_rng(0)

    def small(name: str) -> np.ndarray:
        return random.integers(0x3C00, 0x3D00, shapes[name], np.uint16) | random.integers(0, 2, shapes[name], np.uint16) << 15

    save_safetensors(tmp_path / "model.safetensors", [(name, "BF16", shape) for name, shape in shapes.items()], small)
    weights = WeightFolder(tmp_path)
    fewer = {precision: base_bytes(weights, precision) for precision in BASE_PACKINGS}
    known = facts(spec, [time], 1, stored_bytes=weights.stored_bytes, stored_floats=False, quantized_bytes=fewer)
    peaks: dict[str, int] = {}
    for precision in ("none", "4bit"):
        command = [sys.executable, "-c", ON_A_FOLDER, str(tmp_path), str(time), precision]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        before, after = map(int, done.stdout.split())
        peaks[precision] = after - before
        parts = memory_parts(known, config(time, quantize_base=precision), Form(True, False))
        planned = sum(parts.values()) - parts["optimizer"]
        assert planned == pytest.approx(peaks[precision], rel=0.2)
    assert peaks["none"] - peaks["4bit"] == pytest.approx(weights.stored_bytes - fewer["4bit"], rel=0.15)


def test_what_is_trained_is_counted_exactly(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    for layers in ("all", 2):
        adapter = AdapterConfig(rank=8, layers=layers, targets=["q_proj", "down_proj"])
        assert trained_parameters(shape_of(spec), adapter) == new_lora(spec, adapter, 1, "tiny").parameters
        dora = AdapterConfig(method="dora", rank=8, layers=layers, targets=["q_proj", "down_proj"])
        per_layer = spec.linear_shape("q_proj")[0] + spec.linear_shape("down_proj")[0]
        lengths = per_layer * (spec.layers if layers == "all" else 2)
        assert trained_parameters(shape_of(spec), dora) == trained_parameters(shape_of(spec), adapter) + lengths
    whole = trained_parameters(shape_of(spec), AdapterConfig(method="full"))
    assert whole == spec.parameters + (2 * spec.layers + 1) * spec.dim


def test_what_costs_time_is_chosen_only_where_it_is_needed(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    plain = plan_memory(facts(spec), config())
    assert plain.fits and plain.share_weights and not plain.recompute
    tight = plan_memory(facts(spec, usable=plain.peak_bytes - 1), config())
    assert tight.fits and not tight.share_weights and not tight.recompute and tight.peak_bytes < plain.peak_bytes
    tighter = plan_memory(facts(spec, usable=tight.peak_bytes - 1), config())
    assert tighter.fits and tighter.recompute and tighter.peak_bytes < tight.peak_bytes
    assert not plan_memory(facts(spec, usable=tight.peak_bytes - 1), config(recompute="off")).fits
    assert plan_memory(facts(spec), config(recompute="layers")).recompute


def test_a_refusal_says_what_would_help_the_mildest_first(tmp_path: Path) -> None:
    spec, asked = spec_of(tmp_path), config(1024, recompute="off")
    least = memory_parts(facts(spec, [1000] * 50), asked, Form(False, False))
    refused = replan(facts(spec, [1000] * 50, usable=sum(least.values()) - 1), asked)
    settings = [each.setting for each in refused.suggestions if each.fits]
    assert settings[0] == "training.recompute=layers" and "adapter.layers=3" in settings
    assert all(each.saves_bytes > 0 and each.cost for each in refused.suggestions if each.fits)
    with pytest.raises(DoesNotFit) as caught:
        refused.require_fit()
    assert "--set training.recompute=layers" in caught.value.hint


def test_fewer_bits_are_suggested_where_they_help_with_their_cost(tmp_path: Path) -> None:
    spec, lengths = spec_of(tmp_path), [64] * 20
    need = sum(memory_parts(facts(spec, lengths, 1), config(64), Form(True, False)).values())

    def suggested(usable: int, **training: Any) -> list[tuple[str, bool]]:
        known = facts(spec, lengths, 1, usable, quantized_bytes={"8bit": 10_600_000, "4bit": 5_600_000})
        found = replan(known, config(64, recompute="layers", **training)).suggestions
        return [(each.setting, each.fits) for each in found if list(each.settings) == ["training.quantize_base"]]

    assert suggested(need - 5_000_000) == [("training.quantize_base=8bit", True)]
    assert suggested(need - 12_000_000) == [("training.quantize_base=4bit", True)]
    assert suggested(1_000_000) == [("training.quantize_base=4bit", False)]
    assert suggested(need - 12_000_000, quantize_base="8bit") == [("training.quantize_base=4bit", True)]
    assert suggested(1_000_000, quantize_base="4bit") == []
    plenty = facts(spec, lengths, 1, quantized_bytes={"4bit": 5_600_000})
    assert not plan_memory(plenty, config(64, quantize_base="4bit")).share_weights  # which would be floats
    packed = facts(spec, lengths, 1, need - 5_000_000, quantized_bytes={"8bit": 20_000_000, "4bit": 20_000_000})
    found = replan(packed, config(64, recompute="layers")).suggestions
    assert not any("quantize_base" in each.setting for each in found)


def test_several_settings_are_suggested_where_none_alone_is_enough(tmp_path: Path) -> None:
    spec, lengths = spec_of(tmp_path), [1000] * 50
    asked = config(1024, recompute="off")
    strong = with_settings(asked, {"training.recompute": "layers", "training.quantize_base": "4bit"})
    known = facts(spec, lengths, quantized_bytes={"8bit": 10_600_000, "4bit": 5_600_000})
    need = plan_memory(known, strong).peak_bytes
    plan = replan(facts(spec, lengths, usable=need + 1_000_000, quantized_bytes=known.quantized_bytes), asked)
    best = plan.suggestions[0]
    assert not plan.fits and best.fits and len(best.settings) > 1 and " --set " in best.setting
    with pytest.raises(DoesNotFit) as caught:
        plan.require_fit()
    assert best.setting in caught.value.hint


def test_where_nothing_is_enough_it_says_so(tmp_path: Path) -> None:
    plan = replan(facts(spec_of(tmp_path), usable=1), config())
    assert plan.memory.recompute and not any(each.fits for each in plan.suggestions)
    with pytest.raises(DoesNotFit, match="1 B is usable") as caught:
        plan.require_fit()
    assert "smaller model" in caught.value.hint


@pytest.mark.parametrize("usable", [100_000_000, PLENTY])
def test_suggestions_come_true(tmp_path: Path, usable: int) -> None:
    spec, asked = spec_of(tmp_path), config(1024, recompute="off")
    known = facts(spec, [1000] * 5 + [300] * 500, usable=usable, base_bytes=50_000_000)
    found = replan(known, asked).suggestions
    assert found
    for each in found:
        then = replan(known, with_settings(asked, each.settings))
        assert (then.memory.peak_bytes, then.time.seconds) == (each.peak_bytes, pytest.approx(each.seconds))


@pytest.mark.parametrize(
    ("lengths", "packing", "batch", "workers", "rows_at_once"),
    [([200] * 10, True, 4, 2, 2), ([200] * 10, True, 4, 8, 4), ([200], True, 4, 8, 1), ([30] * 16, False, 16, 8, 8)],
)
def test_only_rows_in_flight_take_memory(
    tmp_path: Path, lengths: list[int], packing: bool, batch: int, workers: int, rows_at_once: int
) -> None:
    spec = spec_of(tmp_path)
    asked = config(200, packing, batch=batch, accumulate=1)
    many = memory_parts(facts(spec, lengths, workers), asked, Form(False, True))["activations"]
    one = memory_parts(facts(spec, [max(lengths)], 1), asked, Form(False, True))["activations"]
    assert many == rows_at_once * one


@given(
    st.lists(st.integers(2, 4000), min_size=1, max_size=50),
    st.integers(8, 4096),
    st.booleans(),
    st.integers(1, 16),
    st.booleans(),
)
def test_a_plan_is_the_sum_of_its_parts(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], max_tokens: int, packing: bool, workers: int, full: bool
) -> None:
    spec = spec_of(tmp_path_factory.getbasetemp())
    lengths = [min(length, max_tokens) for length in lengths]
    asked = config(max_tokens, packing, "full" if full else "lora")
    plan = plan_memory(facts(spec, lengths, workers), asked)
    assert plan.fits and plan.peak_bytes == sum(plan.parts.values()) and min(plan.parts.values()) >= 0
    tighter = plan_memory(facts(spec, lengths, workers, plan.peak_bytes // 2), asked)
    assert tighter.peak_bytes <= plan.peak_bytes
