"""Models that mlx-lm quantised open directly, and compute what mlx-lm's own forward computes, to 1e-4.

Folders and numbers are mlx-lm's (make_mlx_quantized_fixtures.py), in each of MLX's modes.
"""

from pathlib import Path

import numpy as np
import pytest
from random_model import tokens

from edgetune.architecture.load import load_model
from edgetune.architecture.transformer import logits
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_weights import Plain, Quantized
from edgetune.backend.ops import Row

FOLDERS = sorted(path for path in (Path(__file__).parent / "fixtures" / "mlx-quantized").iterdir())
SEED, LENGTH, VOCAB = 5, 24, 61


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_log_probabilities_are_those_of_mlx_lm(folder: Path) -> None:
    ids = tokens(SEED, "tokens", LENGTH, VOCAB)
    row = Row(ids, np.full(LENGTH, -1, np.int32), ((0, LENGTH),))
    table = logits(NumpyOps({}), load_model(folder), row, np.arange(LENGTH)).astype(np.float64)
    table -= table.max(-1, keepdims=True)
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    assert np.abs(table - np.load(folder / "expected.npz")["log_probabilities"]).max() < 1e-4


def test_each_matrix_is_packed_as_its_config_says() -> None:
    folder = next(path for path in FOLDERS if path.name == "affine-4-mixed")
    layer = load_model(folder).layers[0]
    bits = [part.weight.packing.bits for part in layer.query_key_value.parts if isinstance(part.weight, Quantized)]
    assert bits == [4, 4, 6]
    assert isinstance(layer.output.parts[0].weight, Plain)


def test_what_is_not_quantised_stays_as_it_was() -> None:
    folder = next(path for path in FOLDERS if path.name == "affine-4")
    weights = WeightFolder(folder)
    packed = {name for name, info in weights.tensors.items() if info.packed}
    assert {info.float_type for info in weights.tensors.values()} == {"BF16"}
    assert all(("norm" in name) != (name in packed) for name in weights.tensors)
