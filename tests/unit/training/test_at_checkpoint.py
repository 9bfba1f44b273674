"""A checkpoint talks as the run's result does: nothing of what is trained is left out, whatever is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetune.adapters.attach import AdaptedModel, open_adapted
from edgetune.architecture.weights import WeightFolder
from edgetune.config import convert
from edgetune.errors import CheckpointError, ConfigError
from edgetune.training import session
from edgetune.training.at_checkpoint import find_checkpoint, open_checkpoint
from edgetune.training.checkpoint import steps
from edgetune.training.session import Resources, prepare


def train(model: Path, rows: Path, run: Path, training: dict[str, Any] | None = None, **adapter: Any) -> None:
    values = {
        "model": str(model),
        "data": {"train": [str(rows)], "valid": 0.2, "max_tokens": 64},
        "adapter": {"rank": 2, **adapter},
        "training": {"steps": 4, "batch": 2, "accumulate": 1, "rate": 1e-2, **(training or {})},
        "checks": {"eval_every": 2, "save_every": 2},
    }
    session.train(prepare(convert(values), model), run, Resources(2), lambda event: None, lambda: False)


def the_same(one: AdaptedModel, other: AdaptedModel) -> bool:
    return one.parameters.keys() == other.parameters.keys() and all(
        np.array_equal(array, other.parameters[name]) for name, array in one.parameters.items()
    )


@pytest.mark.parametrize(
    "adapter",
    [{}, {"method": "dora"}, {"train_tokens": ["<|user|>", 7]}, {"method": "dora", "train_tokens": ["<|end|>"]}, {"layers": 1}],
)
def test_the_best_checkpoint_is_what_the_run_hands_over(
    adapter: dict[str, Any], tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    train(tiny_model, rows, tmp_path / "run", **adapter)
    best = open_checkpoint(tmp_path / "run", tiny_model, find_checkpoint(tmp_path / "run", "best"))
    assert the_same(best, open_adapted(tiny_model, tmp_path / "run" / "adapter"))
    first = open_checkpoint(tmp_path / "run", tiny_model, find_checkpoint(tmp_path / "run", "0"))
    assert not the_same(best, first)


def test_a_run_that_began_with_an_adapter_keeps_its_places_and_tokens(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    train(tiny_model, rows, tmp_path / "first", targets=["q_proj"], train_tokens=["<|end|>"])
    train(tiny_model, rows, tmp_path / "second", init_from=str(tmp_path / "first" / "adapter"))
    best = open_checkpoint(tmp_path / "second", tiny_model, find_checkpoint(tmp_path / "second", "best"))
    assert the_same(best, open_adapted(tiny_model, tmp_path / "second" / "adapter"))


def test_of_a_whole_model_every_weight_is_that_of_the_checkpoint(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    train(tiny_model, rows, tmp_path / "run", method="full")
    best = open_checkpoint(tmp_path / "run", tiny_model, find_checkpoint(tmp_path / "run", "best"))
    written = WeightFolder(tmp_path / "run" / "model")
    for name, array in best.parameters.items():
        assert np.array_equal(array, written.floats(name, slice(None)).reshape(array.shape)), name


def test_what_is_no_checkpoint_is_refused_with_those_that_are_there(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_model, rows, run)
    assert find_checkpoint(run, "last").state.step == 4
    with pytest.raises(CheckpointError, match="no checkpoint of step 3") as caught:
        find_checkpoint(run, "3")
    assert all(str(step) in caught.value.hint for step in steps(run))
    with pytest.raises(ConfigError, match="--step 'newest'"):
        find_checkpoint(run, "newest")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        find_checkpoint(tmp_path / "empty", "last")
