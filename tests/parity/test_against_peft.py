"""PEFT is the second source of adapters: what it writes we read, what it computes we compute, what it learns we learn.

What PEFT wrote, computed and learned is stored (make_peft_fixtures.py); weights and rows are drawn anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import adapter, rows, save, tokens, write_model

from edgetune.adapters.lora import LoraAdapter, check_fits
from edgetune.adapters.peft import read_peft, write_peft
from edgetune.architecture.load import load_model
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import read_header
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.config import AdapterConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.errors import AdapterError
from edgetune.events import Event, StepFinished
from edgetune.training import session
from edgetune.training.loss import log_probabilities, row_loss
from edgetune.training.optimizer import AdamW, global_norm
from edgetune.training.schedule import rate_at

FIXTURES = Path(__file__).parent / "fixtures"
STORED = json.loads((FIXTURES / "peft.json").read_text("utf-8"))
MODELS = json.loads((FIXTURES / "transformers.json").read_text("utf-8"))
ADAPTERS, TRAININGS = STORED["adapters"], STORED["trainings"]
Arrays = Mapping[str, np.ndarray]


def write_base(name: str, folder: Path) -> Path:
    """A model of transformers.json."""
    case = MODELS["cases"][name]
    write_model(folder, case["v5"], MODELS["seed"], case["dtype"])
    return folder


def write_adapter(name: str, folder: Path, b_deviation: float = 0.5) -> Path:
    """An adapter folder as PEFT wrote it."""
    case = ADAPTERS[name]
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(case["config"]), "utf-8")
    save(folder / "adapter_model.safetensors", adapter(case["shapes"], STORED["seed"], b_deviation))
    return folder


def pefts_key(name: str) -> str:
    """The key in PEFT's file of an array of ours: magnitudes have no .weight there."""
    if name.endswith("tokens_delta"):
        return f"base_model.model.{name.replace('.trainable', '.token_adapter.trainable')}"
    return f"base_model.model.{name}{'' if name.endswith('vector') else '.weight'}"


def example_row(ids: np.ndarray, trained: np.ndarray) -> Row:
    """One row, unpacked: each token's target is the next one, where that is learned."""
    targets = np.full(len(ids), -1, np.int32)
    targets[:-1] = np.where(trained[1:], ids[1:], -1)
    return Row(ids, targets, ((0, len(ids)),))


def following(base: Path, lora: LoraAdapter | None, ids: np.ndarray) -> np.ndarray:
    """log p of every token but the first."""
    model = load_model(base, lora.places() if lora else {})
    runner = NumpyRunner(lora.trained_arrays() if lora else {}, 1)
    return log_probabilities(runner, model, [example_row(ids, np.full(len(ids), True))])[0]


@pytest.mark.parametrize("name", ADAPTERS)
def test_base_and_adapter_give_pefts_log_probabilities(name: str, tmp_path: Path) -> None:
    base = write_base(ADAPTERS[name]["model"], tmp_path / "base")
    lora = read_peft(write_adapter(name, tmp_path / "adapter"))
    check_fits(lora, read_spec(base))
    ids = tokens(STORED["seed"], "tokens", STORED["length"], read_spec(base).vocab)
    ours = following(base, lora, ids)
    assert np.abs(ours - ADAPTERS[name]["following"]).max() < 1e-4
    assert np.abs(ours - following(base, None, ids)).max() > 0.1, "the adapter would not be missed"


def test_a_folder_that_peft_wrote_is_read() -> None:
    lora = read_peft(FIXTURES / "peft-adapter")
    drawn = adapter(ADAPTERS["llama-some"]["shapes"], STORED["seed"], 0.5)
    assert {pefts_key(name) for name in lora.trained_arrays()} == drawn.keys()
    assert all(np.array_equal(array, drawn[pefts_key(name)]) for name, array in lora.trained_arrays().items())
    assert {factors.scale for factors in lora.factors.values()} == {6 / 4}
    assert lora.base_model == "someone/tiny"


@pytest.mark.parametrize("start", ["olora", "pissa", "pissa_niter_16", "corda", "loftq"])
def test_an_adapter_that_changes_its_base_is_refused(start: str, tmp_path: Path) -> None:
    """On loading one of these PEFT takes the first factors off the base's weights: ours would be another model."""
    folder = write_adapter("llama-all", tmp_path / "adapter")
    config = {**ADAPTERS["llama-all"]["config"], "init_lora_weights": start}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(AdapterError, match="init_lora_weights"):
        read_peft(folder)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva"])
def test_how_else_an_adapter_was_begun_does_not_matter(start: bool | str, tmp_path: Path) -> None:
    folder = write_adapter("llama-all", tmp_path / "adapter")
    config = {**ADAPTERS["llama-all"]["config"], "init_lora_weights": start}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    assert len(read_peft(folder).factors) == 21


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_we_write_is_what_peft_writes(name: str, tmp_path: Path) -> None:
    """The same keys and shapes, and a config that says the same in every key that both have."""
    lora = read_peft(write_adapter(name, tmp_path / "theirs"))
    (tmp_path / "ours").mkdir()
    write_peft(tmp_path / "ours", lora)
    tensors, metadata = read_header(tmp_path / "ours" / "adapter_model.safetensors")
    assert {key: list(info.shape) for key, info in tensors.items()} == ADAPTERS[name]["shapes"]
    assert metadata == {"format": "pt"}

    ours = json.loads((tmp_path / "ours" / "adapter_config.json").read_text("utf-8"))
    theirs = ADAPTERS[name]["config"]
    assert ours.keys() <= theirs.keys(), "a key that PEFT does not know"
    said_otherwise = {"rank_pattern", "alpha_pattern", "layers_pattern"}  # by whole paths; next test
    assert {key: ours[key] for key in ours.keys() - said_otherwise} == {
        key: theirs[key] for key in ours.keys() - said_otherwise
    }


@pytest.mark.parametrize("name", ADAPTERS)
def test_written_and_read_again_is_the_same(name: str, tmp_path: Path) -> None:
    lora = read_peft(write_adapter(name, tmp_path / "theirs"))
    (tmp_path / "ours").mkdir()
    write_peft(tmp_path / "ours", lora)
    again = read_peft(tmp_path / "ours")
    assert again.factors.keys() == lora.factors.keys()
    for path, factors in lora.factors.items():
        assert again.factors[path].scale == pytest.approx(factors.scale, rel=1e-12)
    assert again.trained_arrays().keys() == lora.trained_arrays().keys()
    assert all(np.array_equal(array, again.trained_arrays()[key]) for key, array in lora.trained_arrays().items())


def training_config(case: dict[str, Any]) -> TrainingConfig:
    """A stored training's config."""
    names = ("steps", "batch", "accumulate", "rate", "schedule", "warmup", "weight_decay", "betas", "eps", "clip")
    return TrainingConfig(**{name: tuple(case[name]) if name == "betas" else case[name] for name in names})


@pytest.mark.parametrize("name", TRAININGS)
def test_the_rate_is_the_one_written_down(name: str) -> None:
    case = TRAININGS[name]
    ours = [rate_at(step, case["steps"], training_config(case)) for step in range(case["steps"])]
    assert ours == pytest.approx(case["rates"], rel=1e-12)


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("recompute", [False, True])
def test_ten_steps_end_in_pefts_weights(name: str, recompute: bool, tmp_path: Path) -> None:
    """The same losses and gradient norms on the way, kept activations or recomputed ones."""
    case = TRAININGS[name]
    base = write_base(ADAPTERS[case["adapter"]]["model"], tmp_path / "base")
    lora = read_peft(write_adapter(case["adapter"], tmp_path / "adapter", case["b_deviation"]))
    config, parameters = training_config(case), lora.trained_arrays()
    begun = {key: array.copy() for key, array in parameters.items()}
    model, runner = load_model(base, lora.places()), NumpyRunner(parameters, 2)
    optimizer = AdamW(parameters, config, case.get("rate_ratio", 1.0))
    data = [example_row(*row) for row in rows(STORED["seed"], case["lengths"], read_spec(base).vocab)]
    for step in range(config.steps):
        first = step * config.batch * config.accumulate
        group = [data[(first + i) % len(data)] for i in range(config.batch * config.accumulate)]
        loss, gradients = runner.loss_and_gradients(row_loss(model, recompute), group)
        norm = global_norm(gradients)
        assert loss == pytest.approx(case["losses"][step], rel=1e-4)
        assert norm == pytest.approx(case["norms"][step], rel=1e-3)
        scale = min(1.0, config.clip / (norm + 1e-6)) if config.clip else 1.0
        optimizer.update(gradients, rate_at(step, config.steps, config), scale)
    assert_ends_where_peft_ends(name, begun, parameters)


def assert_ends_where_peft_ends(name: str, begun: Arrays, ours: Arrays) -> None:
    """Each array moved to the same place, to 1e-3 of how far it went."""
    with np.load(FIXTURES / f"peft-trained-{name}.npz", allow_pickle=False) as theirs:
        assert {pefts_key(name) for name in ours} == set(theirs.files)
        for key, array in ours.items():
            final = theirs[pefts_key(key)]
            apart, moved = np.linalg.norm(array - final), np.linalg.norm(final - begun[key])
            assert apart < 1e-3 * moved, key


@pytest.mark.parametrize("name", TRAININGS)
def test_a_whole_run_ends_in_pefts_weights(name: str, tmp_path: Path) -> None:
    """From a model folder, PEFT's adapter folder and a file of rows to the adapter folder that is handed over."""
    case = TRAININGS[name]
    base = write_base(ADAPTERS[case["adapter"]]["model"], tmp_path / "base")
    start = write_adapter(case["adapter"], tmp_path / "start", case["b_deviation"])
    written = [
        json.dumps({"input_ids": ids.tolist(), "loss_mask": trained.astype(int).tolist()})
        for ids, trained in rows(STORED["seed"], case["lengths"], read_spec(base).vocab)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(written), "utf-8")
    config = RunConfig(
        model=str(base),
        data=DataConfig(train=[str(tmp_path / "rows.jsonl")], valid=0.0, max_tokens=32, packing=False, shuffle=False),
        adapter=AdapterConfig(
            method="dora" if ADAPTERS[case["adapter"]]["config"]["use_dora"] else "lora",
            init_from=str(start),
            rate_ratio=case.get("rate_ratio", 1.0),
        ),
        training=training_config(case),
    )
    events: list[Event] = []
    finished = session.train(
        session.prepare(config, base), tmp_path / "run", session.Resources(workers=2), events.append, lambda: False
    )
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert [step.loss for step in steps] == pytest.approx(case["losses"], rel=1e-4)
    assert [step.gradient_norm for step in steps] == pytest.approx(case["norms"], rel=1e-3)
    assert [step.rate for step in steps] == pytest.approx(case["rates"], rel=1e-12)
    begun, ours = read_peft(start).trained_arrays(), read_peft(Path(finished.adapter)).trained_arrays()
    assert_ends_where_peft_ends(name, begun, ours)
