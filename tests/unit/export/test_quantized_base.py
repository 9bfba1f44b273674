"""Bases in fewer bits: what is merged and exported of an MLX-quantised one, and of a run that packed its base while it learned."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter, new_lora
from edgetune.adapters.peft import write_peft
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import logits
from edgetune.architecture.weights import WeightFolder, stored_as
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row
from edgetune.backend.quantized import Packing, quantize
from edgetune.config import AdapterConfig
from edgetune.events import Event, HopScored, Warned
from edgetune.export import pipeline
from edgetune.export.certificate import Certificate
from edgetune.export.gguf_file import write_gguf
from edgetune.export.held_out import HeldOut
from edgetune.export.merge import merge
from edgetune.export.pipeline import Source, export
from edgetune.text.examples import Example
from edgetune.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow  # together

BY_MLX_LM = Path(__file__).parents[2] / "parity" / "fixtures" / "mlx-quantized"


def packed_copy(model: Path, out: Path) -> Path:
    """A float32 model folder as mlx-lm writes it in 4 bits."""
    shutil.copytree(model, out)
    tensors: dict[str, np.ndarray] = {}
    for name, array in load_file(model / "model.safetensors").items():
        if array.ndim == 2:
            codes, scales, biases = quantize(array, Packing())
            path = name.removesuffix(".weight")
            tensors |= {name: codes.view(np.uint32), f"{path}.scales": scales, f"{path}.biases": biases}
        else:
            tensors[name] = array
    save_file(tensors, out / "model.safetensors")
    said = {"group_size": 64, "bits": 4, "mode": "affine"}
    config = json.loads((out / "config.json").read_text()) | {"quantization": said, "quantization_config": said}
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.fixture(scope="module")
def packed_model(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_copy(wide_model, tmp_path_factory.mktemp("packed") / "model")


def adapter_for(model: Path, folder: Path) -> tuple[Path, LoraAdapter]:
    """An adapter on every linear layer that changes the model."""
    new = new_lora(read_spec(model), AdapterConfig(rank=4, alpha=8), 3, "someone/base")
    random = np.random.default_rng(5)
    arrays = {name: random.normal(0, 0.2, array.shape).astype(np.float32) for name, array in new.trained_arrays().items()}
    adapter = new.with_arrays(arrays)
    folder.mkdir()
    write_peft(folder, adapter)
    return folder, adapter


def all_logits(model: Path, adapter: Path | None = None) -> np.ndarray:
    opened, ids = open_adapted(model, adapter), np.arange(1, 40, dtype=np.int32)
    row = Row(ids, np.full(39, -1, np.int32), ((0, 39),))
    return logits(NumpyOps(opened.parameters), opened.model, row, np.arange(39))


def updates(adapter: LoraAdapter) -> Mapping[str, np.ndarray]:
    """scale B A of each matrix, as merging sums it up."""
    made = {f"{path}.weight": factors.b @ factors.a for path, factors in adapter.factors.items()}
    return {name: update * np.float32(adapter.factors[name.removesuffix(".weight")].scale) for name, update in made.items()}


# ---- only a quantised base exists --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("affine-8-untied", "float32"), ("affine-4-mixed", "float16"), ("affine-4", "bfloat16"), ("nvfp4", "bfloat16")],
)
def test_it_is_merged_into_floats_of_its_scales_type_with_a_warning(name: str, dtype: str, tmp_path: Path) -> None:
    base, events = BY_MLX_LM / name, list[Event]()
    folder, adapter = adapter_for(base, tmp_path / "adapter")
    result = merge(base, folder, tmp_path / "merged", events.append)
    before, after, stored = (
        WeightFolder(base),
        WeightFolder(result.out),
        {"float32": "F32", "float16": "F16"}.get(dtype, "BF16"),
    )
    config = json.loads((result.out / "config.json").read_text())
    assert result.dtype == config["dtype"] == dtype and not [key for key in config if "quant" in key]
    assert after.packing is None and list(after.tensors) == list(before.tensors)
    for tensor in before.tensors:
        expected = before.floats(tensor) + updates(adapter).get(tensor, np.float32(0))
        np.testing.assert_array_equal(after.raw(tensor), stored_as(expected, stored), tensor)
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert f"{before.packing.bits if before.packing else 0} bits" in warning.message and "un-quantised" in warning.hint


def test_a_merged_float32_copy_computes_what_base_and_adapter_compute(packed_model: Path, tmp_path: Path) -> None:
    folder, _ = adapter_for(packed_model, tmp_path / "adapter")
    merge(packed_model, folder, tmp_path / "merged", dtype="float32")
    expected = all_logits(packed_model, folder)
    np.testing.assert_allclose(all_logits(tmp_path / "merged"), expected, atol=1e-4)
    assert np.abs(all_logits(packed_model) - expected).max() > 0.1


def test_a_float_base_is_merged_without_a_word(wide_model: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    merge(wide_model, adapter_for(wide_model, tmp_path / "adapter")[0], tmp_path / "merged", events.append)
    assert not [event for event in events if isinstance(event, Warned)]


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_its_gguf_holds_the_weights_that_it_stands_for(packed_model: Path, tmp_path: Path, kind: pipeline.Kind) -> None:
    floats = tmp_path / "floats"
    shutil.copytree(packed_model, floats)
    weights = WeightFolder(packed_model)
    save_file({name: weights.floats(name) for name in weights.tensors}, floats / "model.safetensors")
    config = json.loads((floats / "config.json").read_text())
    (floats / "config.json").write_text(json.dumps({key: config[key] for key in config if "quant" not in key}))
    ours, expected = (write_gguf(model, tmp_path / f"{model.name}-{kind}.gguf", kind).path for model in (packed_model, floats))
    assert ours.read_bytes() == expected.read_bytes()
    assert len(gguf.GGUFReader(ours).tensors) == len(weights.tensors)


@pytest.fixture(scope="module")
def held_out(wide_model: Path) -> HeldOut:
    tokenizer = load_tokenizer(wide_model)
    ids = np.array(tokenizer.encode("The old man sees the red house, and then it rains."), np.int32)
    trained = np.arange(len(ids)) > 2
    rows = [Example(ids, trained, "rows.jsonl", line) for line in (1, 2)]
    return HeldOut(rows, [], [("Hello", tokenizer.encode("Hello"))], [], frozenset(tokenizer.end_ids))


def exported(source: Source, out: Path) -> tuple[Certificate, list[Event]]:
    events: list[Event] = []
    result = export(source, ["Q8_0"], out, 1, events.append)
    return msgspec.json.decode(result.certificate.read_bytes(), type=Certificate), events


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


@pytest.mark.parametrize("with_adapter", [True, False])
def test_its_export_is_proved_against_the_weights_that_it_stands_for(
    with_adapter: bool, packed_model: Path, held_out: HeldOut, tmp_path: Path
) -> None:
    adapter = adapter_for(packed_model, tmp_path / "adapter")[0] if with_adapter else None
    certificate, events = exported(Source("someone/packed", packed_model, adapter, held_out), tmp_path / "out")
    assert len(warnings(events)) == 1 and "4 bits" in warnings(events)[0]
    assert certificate.refusals == [] and certificate.trained_on is None
    hops = {hop.name: hop for hop in certificate.hops}
    if with_adapter:
        assert hops["merged"].kl < 1e-9 and abs(hops["merged"].loss_delta) < 1e-5
    assert hops["GGUF F16"].kl < 1e-4


# ---- a run that packed its base while it learned -----------------------------------------------------------------------


def test_what_is_exported_of_it_are_the_base_s_own_weights(wide_model: Path, held_out: HeldOut, tmp_path: Path) -> None:
    """The reference is the adapter on the float weights; the certificate says how it scored where it was trained."""
    adapter, lora = adapter_for(wide_model, tmp_path / "adapter")
    plain = Source("someone/wide", wide_model, adapter, held_out)
    expected, _ = exported(plain, tmp_path / "plain")
    certificate, events = exported(replace(plain, quantize_base="4bit"), tmp_path / "packed")
    assert certificate.hops[:-1] == expected.hops[:-1] and certificate.base_loss == expected.base_loss
    plain_file, packed_file = (tmp_path / out / "someone-wide-Q8_0.gguf" for out in ("plain", "packed"))
    assert plain_file.read_bytes() == packed_file.read_bytes()
    seen = certificate.trained_on
    assert seen is not None and seen.quantize_base == "4bit" and expected.trained_on is None
    assert seen.loss - certificate.hops[0].loss == pytest.approx(seen.loss_delta, abs=1e-9) and seen.loss_delta != 0
    assert seen.kl > 0 and seen.top1_agreement <= 1
    told = [event for event in events if isinstance(event, HopScored) and event.hop == "4bit base"]
    assert [(event.loss, event.kl) for event in told] == [(seen.loss, seen.kl)]
    merge(wide_model, adapter, tmp_path / "merged")
    before, after = WeightFolder(wide_model), WeightFolder(tmp_path / "merged")
    for name, update in updates(lora).items():
        np.testing.assert_array_equal(after.floats(name), before.floats(name) + update)


@pytest.mark.parametrize(("allowed", "warned"), [(-1e9, True), (1e9, False)])
def test_an_adapter_that_misses_its_packed_weights_is_told(
    allowed: float, warned: bool, wide_model: Path, held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "allowed_loss", lambda *_: allowed)
    adapter, _ = adapter_for(wide_model, tmp_path / "adapter")
    _, events = exported(Source("someone/wide", wide_model, adapter, held_out, "8bit"), tmp_path / "out")
    assert bool(warnings(events)) == warned
    assert all("trained on weights in 8bit" in message for message in warnings(events))
