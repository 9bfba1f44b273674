"""An un-quantised checkpoint is packed when it is loaded, as mlx-lm packs it, and is never whole in floats."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from random_model import save, tokens, write_model

from edgetune.adapters.attach import open_adapted
from edgetune.architecture.load import Source, build_model
from edgetune.architecture.quantized_base import QuantizedBase, base_bytes
from edgetune.architecture.spec import read_spec
from edgetune.architecture.transformer import Model, logits
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_weights import Plain, Quantized
from edgetune.backend.ops import Linear, Row
from edgetune.config import DataConfig, QuantizeBase
from edgetune.errors import ModelError
from edgetune.evaluation.score import evaluate
from edgetune.events import Progress
from edgetune.text.chat_template import load_template
from edgetune.text.dataset import load_examples
from edgetune.text.tokenizer import load_tokenizer

BY_MLX_LM = Path(__file__).parents[2] / "parity" / "fixtures" / "mlx-quantized" / "affine-4"
SEED = 5


def matrices(model: Model) -> list[Linear]:
    """All of a model's matrices, each once."""
    joints = [joint for layer in model.layers for joint in (layer.query_key_value, layer.output, layer.gate_up, layer.down)]
    head = [] if model.head is model.embedding else [model.head]
    return [model.embedding, *head, *(part for joint in joints for part in joint.parts)]


def float_model(folder: Path, **changes: object) -> Path:
    """What mlx-lm was given to quantise."""
    config = json.loads((BY_MLX_LM / "config.json").read_text())
    write_model(folder, {key: config[key] for key in config if "quantiz" not in key} | changes, SEED, "BF16")
    return folder


def test_a_packed_model_is_what_mlx_lm_makes_of_it(tmp_path: Path) -> None:
    """Matrix by matrix bit for bit, and so in what it computes."""
    by_mlx, model = WeightFolder(BY_MLX_LM), open_adapted(float_model(tmp_path), None, "4bit").model
    packed = {name for name, info in by_mlx.tensors.items() if info.packed}
    assert {f"{linear.name}.weight" for linear in matrices(model)} == packed
    for linear in matrices(model):
        ours, theirs = linear.weight, by_mlx.matrix(f"{linear.name}.weight")
        assert isinstance(ours, Quantized) and isinstance(theirs, Quantized) and ours.packing == theirs.packing
        for part in ("codes", "scales", "biases"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
    ids = tokens(SEED, "tokens", 24, 61)
    table = logits(NumpyOps({}), model, Row(ids, np.full(24, -1, np.int32), ((0, 24),)), np.arange(24))
    expected = np.load(BY_MLX_LM / "expected.npz")["log_probabilities"]
    centred = table - table.mean(-1, keepdims=True)
    np.testing.assert_allclose(centred, expected - expected.mean(-1, keepdims=True), atol=1e-4)


def test_the_head_is_packed_too_and_rows_that_do_not_divide_stay(tmp_path: Path) -> None:
    folder = float_model(tmp_path, intermediate_size=96, tie_word_embeddings=False)
    model = open_adapted(folder, None, "8bit").model
    kept = [linear.name for linear in matrices(model) if not isinstance(linear.weight, Quantized)]
    assert kept == ["model.layers.0.mlp.down_proj"] and isinstance(model.head.weight, Quantized)


@pytest.mark.parametrize(("precision", "bits_per_weight"), [("8bit", 8.5), ("4bit", 4.5)])
def test_memory_falls_to_the_packed_bytes_and_a_block_and_progress_tells(
    precision: QuantizeBase, bits_per_weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale and a bias of 16 bits for every 64 weights are half a bit more for each."""
    monkeypatch.setattr("edgetune.architecture.row_blocks.BLOCK", 1 << 16)
    folder = float_model(tmp_path, hidden_size=256, intermediate_size=1024, vocab_size=2000)
    weights, spec, seen = WeightFolder(folder), read_spec(folder), list[Progress]()
    tracemalloc.start()
    model = build_model(Source(spec, weights, packed=QuantizedBase(weights, precision, seen.append)), {})
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    in_matrices = sum(linear.weight.nbytes for linear in matrices(model) if isinstance(linear.weight, Quantized))
    assert in_matrices == spec.parameters * bits_per_weight / 8
    norms = sum(info.stored_bytes for info in weights.tensors.values() if len(info.shape) == 1)
    assert base_bytes(weights, precision) == in_matrices + norms and base_bytes(weights, "none") == weights.stored_bytes
    assert held < in_matrices + 50_000 and peak < in_matrices + 700_000 < weights.stored_bytes
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert seen[-1].done == seen[-1].total == weights.stored_bytes - norms


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = float_model(tmp_path)
    arrays = {name: WeightFolder(folder).floats(name) for name in WeightFolder(folder).tensors}
    arrays["model.layers.0.mlp.up_proj.weight"][3, 4] = np.inf
    save(folder / "model.safetensors", arrays)
    with pytest.raises(ModelError, match=r"up_proj\.weight holds a value that is not a number"):
        open_adapted(folder, None, "4bit")


def test_what_is_quantised_already_is_left_alone() -> None:
    weights = WeightFolder(BY_MLX_LM)
    assert isinstance(QuantizedBase(weights, "8bit").matrix("model.embed_tokens.weight"), Quantized)
    assert base_bytes(weights, "8bit") == weights.stored_bytes
    assert weights.packing is not None and weights.packing.bits == 4


def test_a_real_model_loses_little(assets: Path, tmp_path: Path) -> None:
    """A story's loss in a model of 260 thousand weights, the hardest kind to round: its rows have one group each."""
    folder = assets / "weights" / "stories260K-hf"
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog."
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": story}) + "\n")
    tokenizer = load_tokenizer(folder)
    data = load_examples([tmp_path / "rows.jsonl"], tokenizer, None, DataConfig(train=[], train_on="all"), 512)
    exact, eight, four = (
        evaluate(open_adapted(folder, None, each), data.examples, 1).loss for each in ("none", "8bit", "4bit")
    )
    assert 0 < abs(eight - exact) < 0.01
    assert abs(eight - exact) < abs(four - exact) < 0.4


def test_the_starter_model_loses_little(starter: Path) -> None:
    tokenizer = load_tokenizer(starter)
    template = load_template(starter, tokenizer)
    rows = starter / "demo" / "valid.jsonl"
    data = load_examples([rows], tokenizer, template, DataConfig(train=[]), 2048)
    exact, eight, four = (
        evaluate(open_adapted(starter, None, each), data.examples[:12], 1).loss for each in ("none", "8bit", "4bit")
    )
    assert 0 < abs(eight - exact) < 0.02
    assert abs(eight - exact) < abs(four - exact) < 0.2


def test_a_plain_open_stays_on_the_disk(tmp_path: Path) -> None:
    model = open_adapted(float_model(tmp_path)).model
    assert not any(isinstance(linear.weight, Quantized | Plain) for linear in matrices(model))
