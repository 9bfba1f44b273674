"""`train` with one config and seed on both backends: the same twenty losses, for every family that there is."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_model import rows, write_model
from test_model_gradients import CASES

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")

from edgetune.architecture.spec import FAMILIES
from edgetune.backend.choice import MLX, NUMPY, Backend
from edgetune.config import AdapterConfig, ChecksConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.events import Event, StepFinished, ValidationFinished
from edgetune.training import session

pytestmark = pytest.mark.slow  # together

CASE_OF = {"mistral": "mistral-window", "phi3": "phi3-window", "gemma3_text": "gemma3"}  # else the family's name
STEPS = 20


def write_inputs(case: str, folder: Path) -> RunConfig:
    """A model of two layers, rows that some tokens of are learned, and a config that trains on them."""
    # Two layers are enough of any family, whose switches are within a layer or alternate between two.
    model = {**CASES[case], "num_hidden_layers": 2}
    if "layer_types" in model:
        model["layer_types"] = model["layer_types"][-2:]
    write_model(folder / "base", model, 1)
    examples = rows(5, [9, 22, 14, 6, 17], model["vocab_size"])
    lines = [json.dumps({"input_ids": ids.tolist(), "loss_mask": learned.astype(int).tolist()}) for ids, learned in examples]
    (folder / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    return RunConfig(
        model=str(folder / "base"),
        data=DataConfig(train=[str(folder / "rows.jsonl")], valid=0.2, max_tokens=32),
        adapter=AdapterConfig(rank=4, alpha=8, rate_ratio=2),
        training=TrainingConfig(steps=STEPS, batch=2, accumulate=2, rate=1e-2, weight_decay=0.1),
        checks=ChecksConfig(eval_every=10, save_every=0),
    )


def trained(config: RunConfig, backend: Backend, folder: Path) -> tuple[list[float], list[float]]:
    """The losses of the steps, and those of the validations."""
    events: list[Event] = []
    prepared = session.prepare(config, Path(config.model))
    session.train(prepared, folder, session.Resources(workers=2, backend=backend), events.append, lambda: False)
    return (
        [event.loss for event in events if isinstance(event, StepFinished)],
        [event.loss for event in events if isinstance(event, ValidationFinished)],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_loses_the_same_on_both_backends(family: str, tmp_path: Path) -> None:
    config = write_inputs(CASE_OF.get(family, family), tmp_path)
    losses, validations = trained(config, NUMPY, tmp_path / "on-numpy")
    on_mlx = trained(config, MLX, tmp_path / "on-mlx")
    assert len(losses) == STEPS and len(validations) == 3
    assert on_mlx == (pytest.approx(losses, rel=1e-4), pytest.approx(validations, rel=1e-4))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5]), "what is not learned cannot differ"
