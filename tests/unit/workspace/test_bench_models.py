import json
import resource
from pathlib import Path

import numpy as np
import pytest

from edgetune.architecture.load import check_shapes
from edgetune.architecture.weights import WeightFolder
from edgetune.errors import DiskFull
from edgetune.hub import catalog
from edgetune.workspace.bench_models import END, SHAPES, random_rows, write_config, write_weights


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "starter"])
def test_a_shape_has_as_many_parameters_as_its_model_card_says(name: str, tmp_path: Path) -> None:
    entry = catalog.find(name)
    assert entry is not None and write_config(tmp_path / name, name, 512).parameters == entry.parameters


def test_the_ladder_goes_up(tmp_path: Path) -> None:
    sizes = [write_config(tmp_path / name, name, 512).parameters for name in SHAPES]
    assert sizes == sorted(sizes) and sizes[0] < 10e6


def test_the_weights_are_a_whole_model_of_plausible_numbers(tmp_path: Path) -> None:
    told: list[int] = []
    shape = write_config(tmp_path / "starter", "starter", 512)
    write_weights(tmp_path / "starter", shape, told.append)
    weights = WeightFolder(tmp_path / "starter")
    check_shapes(shape.spec, weights, tmp_path / "starter")
    assert told == sorted(told) and told[0] == 0 and told[-1] == shape.weight_bytes == weights.stored_bytes
    assert np.all(weights.floats("model.norm.weight") == 1)
    drawn = weights.floats("model.layers.0.mlp.up_proj.weight")
    assert np.abs(drawn).min() >= 1 / 64 and np.abs(drawn).max() < 1 / 32
    assert abs(drawn.mean()) < 1e-3 and 0.49 < (drawn < 0).mean() < 0.51 and len(np.unique(drawn)) == 256


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    shape = write_config(tmp_path / "starter", "starter", 512)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(DiskFull):
            write_weights(tmp_path / "starter", shape, lambda done: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_rows_longer_than_the_model_knows_are_within_its_positions(tmp_path: Path) -> None:
    assert write_config(tmp_path / "a", "starter", 4096).spec.max_positions == 4096
    assert write_config(tmp_path / "b", "smollm2-135m", 512).spec.max_positions == 8192
    assert json.loads((tmp_path / "a" / "config.json").read_text())["dtype"] == "bfloat16"


def test_rows_are_random_tokens_closed_by_the_end() -> None:
    rows = random_rows(vocab=100, rows=3, tokens=50)
    assert [len(row) for row in rows] == [50] * 3 and len({tuple(row) for row in rows}) == 3
    assert all(row[-1] == END and all(END < token < 100 for token in row[:-1]) for row in rows)
