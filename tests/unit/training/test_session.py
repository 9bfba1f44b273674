"""A run from its config to what it hands over: every setting has its effect, every failure its sentence."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from random_model import write_model

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.mlx_lm import write_mlx_lm
from edgetune.adapters.peft import read_peft
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.config import convert
from edgetune.errors import AdapterError, CheckpointError, ConfigError, DataError, ModelError, StoppedEarly, VerificationFailed
from edgetune.events import (
    CheckpointRejected,
    CheckpointSaved,
    Event,
    RowsLeftOut,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    SampleWritten,
    StepFinished,
    StepSkipped,
    ValidationFinished,
    Warned,
    read,
)
from edgetune.training import checkpoint, session
from edgetune.training import run as run_module
from edgetune.training.loss import mean_loss, row_loss
from edgetune.training.session import Resources, only_writer, prepare

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without a tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "tiny-base"
    write_model(folder, CONFIG, 9)
    return folder


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-tokenised rows that count upwards, of different lengths; their first half is not trained."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines: list[dict[str, list[int]]] = []
    for number in range(24):
        length = 6 + number % 5
        ids = [(number + at) % 40 for at in range(length)]
        lines.append({"input_ids": ids, "loss_mask": [int(at >= length // 2) for at in range(length)]})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@dataclass
class Told:
    """What a run told, and what it ended with."""

    folder: Path
    events: list[Event] = field(default_factory=lambda: list[Event]())
    finished: RunFinished | None = None

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def losses(self) -> list[float]:
        return [event.loss for event in self.of(StepFinished)]

    @property
    def weights(self) -> bytes:
        (file,) = [*self.folder.glob("adapter/adapter_model.safetensors"), *self.folder.glob("model/model.safetensors")]
        return file.read_bytes()


class Trainer:
    """Starts and resumes runs on the tiny base."""

    def __init__(self, base: Path, rows: Path, place: Path):
        self.base, self.rows, self.place, self.count = base, rows, place, 0

    def config(self, **settings: Any) -> dict[str, Any]:
        """A small config; keyword `training__steps=3` is `training.steps`."""
        values: dict[str, Any] = {
            "model": str(self.base),
            "data": {"train": [str(self.rows)], "valid": 0.25, "max_tokens": 16},
            "adapter": {"rank": 2, "alpha": 4},
            "training": {"steps": 6, "batch": 2, "accumulate": 1, "rate": 1e-2, "warmup": 0.0},
            "checks": {"eval_every": 2, "save_every": 2},
        }
        for key, value in settings.items():
            section, _, name = key.partition("__")
            values.setdefault(section, {})[name] = value
        return values

    def train(
        self, *, stop_at: int = 10**9, workers: int = 2, recompute: bool = False, folder: Path | None = None, **settings: Any
    ) -> Told:
        self.count += 1
        told = Told(folder or self.place / f"run{self.count}")
        prepared = prepare(convert(self.config(**settings)), self.base)
        told.finished = session.train(
            prepared, told.folder, Resources(workers, recompute), told.events.append, stopper(told, stop_at)
        )
        return told

    def stopped(self, at: int, **settings: Any) -> Path:
        """A run that was asked to stop after that many steps."""
        with pytest.raises(StoppedEarly) as caught:
            self.train(stop_at=at, **settings)
        assert caught.value.exit_code == 4
        return self.place / f"run{self.count}"

    def resume(self, folder: Path, *, workers: int = 2, force: bool = False) -> Told:
        told = Told(folder)
        prepared = prepare(session.read_run_config(folder), self.base)
        told.finished = session.resume(folder, prepared, Resources(workers), told.events.append, stopper(told, 10**9), force)
        return told


def stopper(told: Told, at: int) -> Callable[[], bool]:
    return lambda: len(told.of(StepFinished)) + len(told.of(StepSkipped)) >= at


@pytest.fixture
def trainer(base: Path, counting: Path, tmp_path: Path) -> Trainer:
    return Trainer(base, counting, tmp_path)


# ---- before it starts --------------------------------------------------------------------------------------------------


def refused(trainer: Trainer, kind: type[Exception], said: str, **settings: Any) -> None:
    with pytest.raises(kind, match=said) as caught:
        trainer.train(**settings)
    assert getattr(caught.value, "hint", "")
    assert not list(trainer.place.glob("run*"))  # nothing was started


def test_what_cannot_be_is_refused_before_anything_is_written(trainer: Trainer, tmp_path: Path) -> None:
    refused(trainer, ConfigError, "random", adapter__init_from="random")
    refused(trainer, ConfigError, "init_from", adapter__method="full", adapter__init_from=str(tmp_path))
    refused(trainer, ConfigError, "rate_ratio", adapter__method="full", adapter__rate_ratio=2.0)
    refused(trainer, ConfigError, "samples needs a tokenizer", checks__samples=["Hi"])
    refused(trainer, AdapterError, r"adapter\.layers is 4, the model has 3", adapter__layers=4)
    refused(trainer, AdapterError, "no adapter_config", adapter__init_from=str(tmp_path))
    refused(trainer, DataError, "absent", data__train=[str(tmp_path / "absent.jsonl")])
    refused(trainer, DataError, "absent", data__valid=[str(tmp_path / "absent.jsonl")])


def test_37_a_tokenizer_larger_than_the_model_is_told_with_both_numbers(
    tiny_model: Path, counting: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    vocab = values["vocab_size"]
    write_model(folder, {**values, "vocab_size": vocab - 3}, 1)
    with pytest.raises(ModelError, match=f"{vocab} tokens.* {vocab - 3}") as caught:
        prepare(convert(Trainer(folder, counting, tmp_path).config()), folder)
    assert caught.value.hint


def test_rows_of_text_need_a_tokenizer(trainer: Trainer, rows: Path) -> None:
    refused(trainer, DataError, "tokenizer", data__train=[str(rows)])


# ---- what a run does ---------------------------------------------------------------------------------------------------


def test_a_run_on_pretokenised_rows_learns_and_tells(trainer: Trainer) -> None:
    told = trainer.train(training__steps=40)
    assert (told.events[0], told.events[-1]) == (told.of(RunStarted)[0], told.finished)
    started, finished = told.of(RunStarted)[0], told.finished
    assert finished is not None and finished.steps == 40 and finished.adapter == str(told.folder / "adapter")
    assert (started.train_rows, started.valid_rows, started.total_steps, started.first_step) == (18, 6, 40, 0)
    assert started.trained_parameters == read_peft(told.folder / "adapter").parameters
    assert np.mean(told.losses[-5:]) < 0.7 * told.losses[0] and finished.valid_loss is not None
    assert finished.valid_loss < told.of(ValidationFinished)[0].loss
    assert finished.train_loss == pytest.approx(np.mean(told.losses[-20:]))
    assert finished.tokens == sum(step.tokens for step in told.of(StepFinished)) and finished.tokens_per_second > 0
    assert [event for event in read(told.folder / "events.jsonl")] == told.events


def test_the_loss_that_is_told_is_that_of_the_rows(trainer: Trainer) -> None:
    """The first step's loss, and the validation's, are what the base gives on those rows."""
    told = trainer.train(training__batch=99, data__packing=True)
    prepared = prepare(convert(trainer.config()), trainer.base)
    from edgetune.text.batches import to_row

    opened = open_adapted(trainer.base)
    for rows, loss in ((prepared.train, told.losses[0]), (prepared.valid, told.of(ValidationFinished)[0].loss)):
        expected, tokens = mean_loss(NumpyRunner({}, 1), opened.model, [to_row([example]) for example in rows])
        assert loss == pytest.approx(expected, rel=1e-5)
        assert tokens == sum(int(example.trained[1:].sum()) for example in rows)


def test_the_same_config_gives_the_same_adapter_and_another_seed_another(trainer: Trainer) -> None:
    first, again, other = trainer.train(), trainer.train(), trainer.train(training__seed=8)
    assert first.losses == again.losses and first.weights == again.weights
    assert first.weights != other.weights and first.losses[0] != other.losses[0]


def test_recomputing_changes_nothing_but_memory(trainer: Trainer) -> None:
    plain, again = trainer.train(adapter__dropout=0.2), trainer.train(adapter__dropout=0.2, recompute=True)
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)


def test_accumulating_is_a_larger_batch(trainer: Trainer) -> None:
    """Rows of different trained lengths: the step's loss is the mean over tokens, not over micro-batches."""
    settings: dict[str, Any] = {"data__shuffle": False, "data__packing": False}
    large = trainer.train(training__batch=6, training__accumulate=1, **settings)
    parts = trainer.train(training__batch=2, training__accumulate=3, **settings)
    assert parts.losses == large.losses and parts.weights == large.weights
    assert [step.trained_tokens for step in parts.of(StepFinished)] == [step.trained_tokens for step in large.of(StepFinished)]
    small = trainer.train(training__batch=2, training__accumulate=1, **settings)
    assert sum(step.tokens for step in small.of(StepFinished)) < sum(step.tokens for step in large.of(StepFinished))


def test_epochs_and_steps(trainer: Trainer) -> None:
    settings: dict[str, Any] = {"training__steps": 0, "data__packing": False, "training__batch": 6}
    told = trainer.train(training__epochs=2.5, **settings)
    assert told.of(RunStarted)[0].total_steps == len(told.losses) == 8  # 18 rows: 3 + 3 + half of 3, rounded up


def test_packing_gives_the_same_loss_in_fewer_sequences(trainer: Trainer) -> None:
    packed, single = (
        trainer.train(training__batch=99, data__packing=packing, data__valid=0.0, training__steps=2)
        for packing in (True, False)
    )
    assert packed.losses == pytest.approx(single.losses, rel=1e-5)
    assert packed.of(StepFinished)[0].trained_tokens == single.of(StepFinished)[0].trained_tokens


def test_targets_and_layers_say_where_the_adapter_is(trainer: Trainer) -> None:
    told = trainer.train(adapter__targets=["v_proj", "down_proj"], adapter__layers=2)
    paths = {f"model.layers.{layer}.{kind}" for layer in (1, 2) for kind in ("self_attn.v_proj", "mlp.down_proj")}
    adapter = read_peft(told.folder / "adapter")
    assert set(adapter.factors) == paths and all(factors.b.any() for factors in adapter.factors.values())
    config = json.loads((told.folder / "adapter" / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [1, 2] and config["base_model_name_or_path"] == "tiny-base"
    assert str(trainer.place) not in (told.folder / "adapter" / "adapter_config.json").read_text()


def test_rank_alpha_and_rslora_are_in_the_adapter(trainer: Trainer) -> None:
    told = trainer.train(adapter__rank=4, adapter__alpha=12.0, adapter__rslora=True)
    adapter = read_peft(told.folder / "adapter")
    assert adapter.rslora and {(len(factors.a), factors.scale) for factors in adapter.factors.values()} == {(4, 6.0)}


def test_dropout_changes_what_is_learned_but_not_how_it_is_judged(trainer: Trainer) -> None:
    plain, dropped = trainer.train(), trainer.train(adapter__dropout=0.5)
    assert plain.losses[0] == pytest.approx(dropped.losses[0], rel=1e-6)  # B is zero: nothing to leave out yet
    assert plain.losses[-1] != dropped.losses[-1] and plain.weights != dropped.weights
    opened = open_adapted(trainer.base, dropped.folder / "adapter")
    prepared = prepare(convert(trainer.config()), trainer.base)
    from edgetune.text.batches import to_row

    best = min(event.loss for event in dropped.of(ValidationFinished))
    judged, _ = mean_loss(NumpyRunner(opened.parameters, 1), opened.model, [to_row([example]) for example in prepared.valid])
    assert judged == pytest.approx(best, rel=1e-5)
    assert read_peft(dropped.folder / "adapter").dropout == 0.5


def test_the_gradient_is_clipped_and_told_as_it_was(trainer: Trainer) -> None:
    free, clipped = trainer.train(training__clip=0.0, training__steps=1), trainer.train(training__clip=1e-3, training__steps=1)
    norm = free.of(StepFinished)[0].gradient_norm
    assert norm > 1e-2 and clipped.of(StepFinished)[0].gradient_norm == norm

    def length(told: Told) -> float:
        moments = checkpoint.read(checkpoint.folder_of(told.folder, 1)).moments
        return float(np.sqrt(sum(np.sum((array / 0.1) ** 2) for name, array in moments.items() if name.startswith("mean."))))

    assert length(free) == pytest.approx(norm, rel=1e-4) and length(clipped) == pytest.approx(1e-3, rel=1e-2)


def test_the_schedule_s_rates_are_those_that_are_used(trainer: Trainer) -> None:
    told = trainer.train(training__schedule="linear", training__steps=4)
    assert [step.rate for step in told.of(StepFinished)] == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    still = trainer.train(training__rate=1e-12, training__steps=2)
    adapter = read_peft(still.folder / "adapter")
    assert max(float(np.abs(factors.b).max()) for factors in adapter.factors.values()) < 1e-10


def test_weight_decay_shrinks(trainer: Trainer) -> None:
    sizes: list[float] = []
    for decay in (0.0, 50.0):
        told = trainer.train(training__weight_decay=decay)
        saved = checkpoint.read(checkpoint.folder_of(told.folder, 6)).parameters
        sizes.append(sum(float(np.abs(array).sum()) for name, array in saved.items() if name.endswith("lora_A")))
    assert sizes[1] < 0.2 * sizes[0]


def test_evaluations_and_checkpoints_come_when_they_are_asked_for(trainer: Trainer) -> None:
    told = trainer.train(training__steps=7, checks__eval_every=3, checks__save_every=5, data__valid=0.25, training__rate=1e-12)
    assert [event.step for event in told.of(ValidationFinished)] == [0, 3, 6, 7]
    saved = [event.step for event in told.of(CheckpointSaved)]
    best = {event.step for event in told.of(ValidationFinished) if event.best}
    assert set(saved) == {0, 5, 7} | best
    rare = trainer.train(training__steps=7, checks__eval_every=0, checks__save_every=0)
    assert [event.step for event in rare.of(ValidationFinished)] == [0, 7]
    assert [event.step for event in rare.of(CheckpointSaved)] == [0, 7]


def test_only_so_many_checkpoints_are_kept(trainer: Trainer) -> None:
    told = trainer.train(training__steps=8, checks__save_every=1, checks__keep=2, data__valid=0.0)
    assert checkpoint.steps(told.folder) == [6, 7, 8]  # without validation the newest is the best: two besides it
    assert told.finished is not None and (told.finished.valid_loss, told.finished.best_step) == (None, 8)


def test_patience_ends_a_run_that_becomes_worse_and_the_best_is_handed_over(trainer: Trainer) -> None:
    settings: dict[str, Any] = {
        "training__rate": 0.9,
        "training__steps": 30,
        "checks__eval_every": 1,
        "training__schedule": "constant",
    }
    told = trainer.train(checks__patience=3, **settings)
    validations = told.of(ValidationFinished)
    best = min(validations, key=lambda event: event.loss)
    assert len(validations) - 1 - validations.index(best) == 3 and len(told.losses) < 30
    assert told.finished is not None and (told.finished.best_step, told.finished.valid_loss) == (best.step, best.loss)
    handed = read_peft(told.folder / "adapter").trained_arrays()
    kept = checkpoint.read(checkpoint.folder_of(told.folder, best.step)).parameters
    last = checkpoint.read(checkpoint.folder_of(told.folder, told.finished.steps)).parameters
    assert all(np.array_equal(handed[name], kept[name]) for name in handed)
    assert any(not np.array_equal(handed[name], last[name]) for name in handed)
    assert len(trainer.train(checks__patience=0, **settings).losses) == 30


def test_rows_that_are_left_out_are_told(trainer: Trainer) -> None:
    told = trainer.train(data__max_tokens=9)
    assert len(told.of(RowsLeftOut)) == 4 and {event.kind for event in told.of(RowsLeftOut)} == {"dropped"}
    assert told.of(RunStarted)[0].train_rows + told.of(RunStarted)[0].valid_rows == 20


def test_valid_may_be_files_of_its_own(trainer: Trainer, tmp_path: Path) -> None:
    lines = trainer.rows.read_text().splitlines()
    (tmp_path / "valid.jsonl").write_text("\n".join(lines[:3]))
    told = trainer.train(data__valid=[str(tmp_path / "valid.jsonl")])
    assert (told.of(RunStarted)[0].train_rows, told.of(RunStarted)[0].valid_rows) == (24, 3)


def test_samples_are_answered_at_every_validation(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_model, rows, tmp_path)
    told = trainer.train(data__max_tokens=64, checks__samples=["Who likes the red house?", "Hm"], checks__eval_every=3)
    samples = told.of(SampleWritten)
    assert [(sample.step, sample.prompt) for sample in samples] == [
        (step, prompt) for step in (0, 3, 6) for prompt in ("Who likes the red house?", "Hm")
    ]
    assert samples[0].reply != samples[-2].reply


# ---- starting from something else --------------------------------------------------------------------------------------


def test_an_adapter_may_be_trained_further_from_its_folder_its_run_or_mlx_lms_form(trainer: Trainer) -> None:
    first = trainer.train(adapter__rank=3)
    settings: dict[str, Any] = {"training__steps": 1, "training__rate": 1e-12}
    (trainer.place / "mlx").mkdir()
    write_mlx_lm(trainer.place / "mlx", read_peft(first.folder / "adapter"))
    for place in (first.folder, first.folder / "adapter", trainer.place / "mlx"):
        told = trainer.train(adapter__init_from=str(place), **settings)
        before, after = (read_peft(run.folder / "adapter").trained_arrays() for run in (first, told))
        assert all(np.allclose(before[name], after[name], atol=1e-9) for name in before)
        best = min(event.loss for event in first.of(ValidationFinished))
        assert told.of(ValidationFinished)[0].loss == pytest.approx(best, rel=1e-6)


def test_an_adapter_that_is_trained_further_says_which_settings_do_not_count(trainer: Trainer) -> None:
    first = trainer.train(adapter__rank=3)
    for same, settings in (
        (True, {"adapter__rank": 3}),
        (False, {"adapter__rank": 5}),
        (False, {"adapter__rank": 3, "adapter__layers": 1}),
    ):
        told = trainer.train(adapter__init_from=str(first.folder), training__steps=1, **settings)
        assert len(told.of(Warned)) == (0 if same else 1)
        assert read_peft(told.folder / "adapter").rank == 3


def test_an_adapter_of_another_base_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    write_model(tmp_path / "other", {**CONFIG, "hidden_size": 8, "num_attention_heads": 2}, 1)
    other = Trainer(tmp_path / "other", trainer.rows, tmp_path / "others").train()
    refused(trainer, AdapterError, "made for another base", adapter__init_from=str(other.folder / "adapter"))


def test_dora_begins_where_lora_does_and_learns_lengths_too(trainer: Trainer) -> None:
    told = {method: trainer.train(adapter__method=method, training__seed=3) for method in ("lora", "dora")}
    first = {method: run.of(ValidationFinished)[0].loss for method, run in told.items()}
    assert first["dora"] == pytest.approx(first["lora"], rel=1e-6)
    assert told["dora"].losses[-1] != pytest.approx(told["lora"].losses[-1], rel=1e-4)
    adapter, weights = read_peft(told["dora"].folder / "adapter"), WeightFolder(trainer.base)
    assert adapter.is_dora and not read_peft(told["lora"].folder / "adapter").is_dora
    for path, factors in adapter.factors.items():
        begun = np.linalg.norm(weights.floats(f"{path}.weight"), axis=1)
        assert factors.magnitude is not None and 0 < np.abs(factors.magnitude - begun).max() < 0.2


def test_dora_goes_on_from_lora_but_not_the_other_way(trainer: Trainer) -> None:
    lora = trainer.train()
    still: dict[str, Any] = {"training__steps": 1, "training__rate": 1e-12}
    dora = trainer.train(adapter__method="dora", adapter__init_from=str(lora.folder), **still)
    best = min(event.loss for event in lora.of(ValidationFinished))
    assert dora.of(ValidationFinished)[0].loss == pytest.approx(best, rel=1e-5)
    again = trainer.train(adapter__method="dora", adapter__init_from=str(dora.folder), **still)
    assert again.of(ValidationFinished)[0].loss == pytest.approx(best, rel=1e-5)
    other = Trainer(trainer.base, trainer.rows, trainer.place / "other")
    refused(other, ConfigError, "adapter of DoRA", adapter__init_from=str(dora.folder))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dora_resumes_bit_for_bit(trainer: Trainer, dropout: float) -> None:
    settings: dict[str, Any] = {"adapter__method": "dora", "adapter__dropout": dropout, "adapter__rate_ratio": 4.0}
    whole, folder = trainer.train(**settings), trainer.stopped(3, **settings)
    told = trainer.resume(folder)
    assert told.finished is not None and told.weights == whole.weights


def test_the_rate_ratio_raises_the_rate_of_b_alone(trainer: Trainer) -> None:
    """Adam's first update is the rate in size, whatever the gradient."""
    moved: dict[float, float] = {}
    for ratio in (1.0, 16.0):
        told = trainer.train(adapter__rate_ratio=ratio, training__steps=1, training__weight_decay=0.0)
        moved[ratio] = max(np.abs(one.b).max() for one in read_peft(told.folder / "adapter").factors.values())
    assert moved[1.0] == pytest.approx(1e-2, rel=1e-3) and moved[16.0] == pytest.approx(0.16, rel=1e-3)


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16"), (None, "F32")])
def test_full_training_hands_over_a_model_in_its_own_type(
    dtype: str | None, stored: str, trainer: Trainer, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    tied = {**CONFIG, "tie_word_embeddings": True, "attention_bias": True}
    write_model(folder, {**tied, "torch_dtype": dtype} if dtype else tied, 9, stored)
    full = Trainer(folder, trainer.rows, tmp_path)
    told = full.train(adapter__method="full", training__steps=20)
    assert told.finished is not None and told.finished.adapter == str(told.folder / "model")
    assert np.mean(told.losses[-3:]) < 0.8 * told.losses[0]
    out = told.folder / "model"
    assert {info.dtype for info in WeightFolder(out).tensors.values()} == {stored}
    from edgetune.text.batches import to_row

    prepared = prepare(convert(full.config()), folder)
    loss, _ = mean_loss(NumpyRunner({}, 1), open_adapted(out).model, [to_row([example]) for example in prepared.valid])
    assert loss == pytest.approx(told.finished.valid_loss, rel=1e-6 if stored == "F32" else 2e-2)
    changed = WeightFolder(out)
    assert all(not np.array_equal(changed.raw(name), WeightFolder(folder).raw(name)) for name in changed.tensors)


def test_a_model_is_trained_from_nothing_but_its_config(trainer: Trainer, tmp_path: Path) -> None:
    folder = tmp_path / "config-only"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    told = Trainer(folder, trainer.rows, tmp_path).train(
        adapter__method="full", adapter__init_from="random", training__steps=30
    )
    assert told.losses[0] == pytest.approx(np.log(40), rel=0.05)  # it knows nothing
    assert np.mean(told.losses[-3:]) < 0.7 * told.losses[0]
    assert read_spec(told.folder / "model").dim == 16


# ---- numbers that are none ---------------------------------------------------------------------------------------------


def broken_at(monkeypatch: pytest.MonkeyPatch, broken: Callable[[int], bool], *, in_gradient: bool = False) -> None:
    """Makes the loss, or a gradient, of those steps (counted from 0) not a number."""

    def loss_of(model: Any, recompute: bool = False, start: Any = None) -> Any:
        inner = row_loss(model, recompute, start)

        def play(ops: NumpyOps, row: Row) -> Any:
            value = inner(ops, row)
            if broken(ops.dropout_key.step):
                if in_gradient:
                    next(iter(ops.gradients.values()))[...] = np.nan
                else:
                    value.data = value.data * np.nan
            return value

        return play

    monkeypatch.setattr(run_module, "row_loss", loss_of)


@pytest.mark.parametrize("in_gradient", [False, True])
def test_16_two_bad_steps_are_skipped_and_leave_no_trace(
    in_gradient: bool, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, lambda step: step in (2, 3), in_gradient=in_gradient)
    told = trainer.train(checks__save_every=1)
    skipped = told.of(StepSkipped)
    assert [event.step for event in skipped] == [3, 4] and [event.step for event in told.of(StepFinished)] == [1, 2, 5, 6]
    assert "nan" in skipped[0].reason and all(re.fullmatch(r".*rows\.jsonl:\d+", row) for row in skipped[0].rows)
    states = [checkpoint.read(checkpoint.folder_of(told.folder, step)) for step in (4, 5, 6)]
    assert [saved.state.updates for saved in states] == [2, 3, 4] and states[0].state.skipped_in_row == 2
    assert all(np.isfinite(array).all() for saved in states for array in saved.parameters.values())
    assert "gradient" in skipped[0].reason


def test_16_three_in_a_row_end_the_run_with_the_last_good_checkpoint_kept(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, lambda step: step >= 2)
    with pytest.raises(VerificationFailed, match=r"step 5: .* 3 times in a row; rows .*rows\.jsonl:\d+") as caught:
        trainer.train()
    assert caught.value.exit_code == 5 and "training.rate" in caught.value.hint
    folder = trainer.place / "run1"
    last = list(read(folder / "events.jsonl"))[-1]
    assert isinstance(last, RunFailed) and last.kind == "verification_failed"
    good = next(iter(checkpoint.newest(folder)))
    assert isinstance(good, checkpoint.Checkpoint) and all(np.isfinite(array).all() for array in good.parameters.values())
    assert not (folder / "adapter").exists()


def test_16_bad_steps_that_are_not_in_a_row_do_not_end_a_run(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_at(monkeypatch, lambda step: step in (0, 1, 3, 4))
    assert len(trainer.train().losses) == 2


def test_a_run_that_learned_from_no_step_is_no_success(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_at(monkeypatch, lambda step: True)
    with pytest.raises(VerificationFailed):
        trainer.train(training__steps=2)


# ---- stopping, going on, and who may -----------------------------------------------------------------------------------

LORA: dict[str, Any] = {"adapter__dropout": 0.2, "training__steps": 9, "checks__patience": 5}


@pytest.mark.parametrize("settings", [LORA, {"adapter__method": "full", "training__rate": 1e-3}], ids=["lora", "full"])
@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_end_bit_for_bit(settings: dict[str, Any], at: int, trainer: Trainer) -> None:
    whole = trainer.train(**settings)
    folder = trainer.stopped(at, **settings)
    assert isinstance(list(read(folder / "events.jsonl"))[-1], RunStopped)
    assert checkpoint.steps(folder)[-1] == at
    resumed = trainer.resume(folder)
    assert resumed.of(RunStarted)[0].first_step == at
    assert resumed.losses == whole.losses[at:] and resumed.weights == whole.weights
    assert resumed.finished is not None and whole.finished is not None
    assert (resumed.finished.valid_loss, resumed.finished.tokens) == (whole.finished.valid_loss, whole.finished.tokens)


def test_going_on_from_the_first_checkpoint_costs_no_patience(trainer: Trainer) -> None:
    settings: dict[str, Any] = {"training__rate": 0.9, "training__steps": 20, "checks__eval_every": 1, "checks__patience": 4}
    whole = trainer.train(**settings)
    folder = trainer.stopped(1, **settings)
    for step in checkpoint.steps(folder)[1:]:
        shutil.rmtree(checkpoint.folder_of(folder, step))
    resumed = trainer.resume(folder)
    assert resumed.losses == whole.losses and resumed.weights == whole.weights
    assert [event.step for event in resumed.of(ValidationFinished)] == [event.step for event in whole.of(ValidationFinished)][
        1:
    ]


def test_a_run_without_a_checkpoint_starts_from_the_beginning(trainer: Trainer) -> None:
    whole = trainer.train()
    folder = trainer.stopped(2)
    shutil.rmtree(folder / "checkpoints")
    assert trainer.resume(folder).weights == whole.weights


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(trainer: Trainer) -> None:
    whole = trainer.train(training__steps=9)
    folder = trainer.stopped(5, training__steps=9)
    victim = checkpoint.folder_of(folder, 5) / "parameters.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x01")
    resumed = trainer.resume(folder)
    assert "parameters.safetensors" in resumed.of(CheckpointRejected)[0].reason
    assert resumed.of(RunStarted)[0].first_step == 4 and resumed.weights == whole.weights


def test_a_finished_run_is_only_reported_and_its_folder_is_taken(trainer: Trainer) -> None:
    told = trainer.train()
    before = (told.folder / "events.jsonl").read_bytes()
    assert trainer.resume(told.folder).finished == told.finished
    assert (told.folder / "events.jsonl").read_bytes() == before
    with pytest.raises(CheckpointError, match="holds a run already") as caught:
        trainer.train(folder=told.folder)
    assert "resume" in caught.value.hint
    with pytest.raises(CheckpointError, match="holds no run"):
        session.read_run_config(trainer.place)


def changes(trainer: Trainer, folder: Path) -> dict[str, tuple[str, Callable[[], None]]]:
    config = trainer.base / "config.json"

    def replaced(file: Path, old: str, new: str) -> Callable[[], None]:
        def change() -> None:
            assert old in file.read_text()
            file.write_text(file.read_text().replace(old, new))

        return change

    return {
        "seed": ("run.toml", replaced(folder / "run.toml", "seed = 7", "seed = 8")),
        "rows": ("rows", replaced(trainer.rows, "[0, 1, 2,", "[0, 1, 3,")),
        "mask": ("rows", replaced(trainer.rows, "[0, 0, 0, 1, 1, 1]", "[0, 0, 1, 1, 1, 1]")),
        "epsilon of the model": ("base model", replaced(config, "1e-05", "1e-06")),
        "weights": ("base model", lambda: write_model(trainer.base, CONFIG, 10)),
    }


@pytest.mark.parametrize("what", ["seed", "rows", "mask", "epsilon of the model", "weights"])
def test_12_a_run_goes_on_only_with_what_it_was_made_of_unless_forced(
    what: str, base: Path, counting: Path, tmp_path: Path
) -> None:
    trainer = Trainer(shutil.copytree(base, tmp_path / "base"), Path(shutil.copy(counting, tmp_path / "rows.jsonl")), tmp_path)
    folder = trainer.stopped(2)
    said, change = changes(trainer, folder)[what]
    change()
    with pytest.raises(CheckpointError, match=said) as caught:
        trainer.resume(folder)
    assert "--force" in caught.value.hint
    assert trainer.resume(folder, force=True).finished is not None


def test_12_another_number_of_workers_is_refused_since_sums_would_differ(trainer: Trainer) -> None:
    folder = trainer.stopped(2)
    begun = session.begun_with(folder)
    assert begun and (begun.backend, begun.workers) == ("numpy", 2) and session.begun_with(trainer.place) is None
    with pytest.raises(CheckpointError, match="number of workers"):
        trainer.resume(folder, workers=3)


def test_12_the_scale_of_the_adapter_that_is_begun_with_may_not_change(trainer: Trainer) -> None:
    first = trainer.train()
    folder = trainer.stopped(2, adapter__init_from=str(first.folder))
    config = first.folder / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    with pytest.raises(CheckpointError, match="the adapter that it starts from"):
        trainer.resume(folder)


def test_what_was_forced_once_is_not_asked_for_again(base: Path, counting: Path, tmp_path: Path) -> None:
    trainer = Trainer(base, Path(shutil.copy(counting, tmp_path / "rows.jsonl")), tmp_path)
    folder = trainer.stopped(2, training__steps=9)
    trainer.rows.write_text(trainer.rows.read_text().replace("[0, 1, 2,", "[0, 1, 3,"))
    told = Told(folder)
    prepared = prepare(session.read_run_config(folder), trainer.base)
    with pytest.raises(StoppedEarly):
        session.resume(folder, prepared, Resources(2), told.events.append, stopper(told, 2), force=True)
    assert trainer.resume(folder).finished is not None


def test_13_arrays_of_another_rank_are_refused_even_if_forced(trainer: Trainer) -> None:
    """Rank 1 would broadcast into rank 2 without a word."""
    folder = trainer.stopped(2, adapter__rank=1)
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text.replace("rank = 1", "rank = 2"))
    with pytest.raises(CheckpointError, match="does not fit this config"):
        trainer.resume(folder, force=True)


def test_14_a_second_trainer_is_told_of_the_first(trainer: Trainer) -> None:
    import os

    folder = trainer.stopped(2)
    half = folder / "checkpoints" / ".step-000003.99.part"
    half.mkdir()
    with only_writer(folder):
        assert session.begun_with(folder) is not None
        with pytest.raises(CheckpointError, match=f"another process trains here: process {os.getpid()} on"):
            trainer.resume(folder)
        assert half.exists()  # the first one's checkpoint, half written: not the second one's to remove
    assert trainer.resume(folder).finished is not None and not half.exists()


def test_the_config_is_kept_as_it_was_resolved(trainer: Trainer) -> None:
    told = trainer.train(adapter__targets=["q_proj"])
    kept = session.read_run_config(told.folder)
    assert msgspec.to_builtins(kept) == msgspec.to_builtins(convert(trainer.config(adapter__targets=["q_proj"])))
