"""What frozen layers make of a row is computed once: later epochs read it, learn the same, and a run resumes bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from random_model import write_model

from edgetune.architecture.load import load_model
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Adapter, Row
from edgetune.config import convert
from edgetune.errors import StoppedEarly
from edgetune.events import Event, StepFinished, ValidationFinished
from edgetune.planner.plan import prefix_bytes
from edgetune.training import session
from edgetune.training.prefix import PrefixCache, read
from edgetune.training.session import Prepared, Resources, prepare
from edgetune.workspace.planning import facts_of

pytestmark = pytest.mark.slow  # together

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
ROWS, EPOCHS = 24, 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    write_model(folder, CONFIG, 9)
    return folder


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of different lengths, no two alike."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [{"input_ids": [(n + at) % 40 for at in range(5 + n % 4)]} for n in range(ROWS)]
    file.write_text("".join(json.dumps(row | {"loss_mask": [0] + [1] * (len(row["input_ids"]) - 1)}) + "\n" for row in rows))
    return file


class Runner:
    """Trains the last of four layers for three epochs, and keeps what was told."""

    def __init__(self, base: Path, rows: Path, place: Path):
        self.base, self.rows, self.place, self.events = base, rows, place, list[Event]()

    def prepared(self, packing: bool = False, layers: int | str = 1, **training: Any) -> session.Prepared:
        values = {
            "model": str(self.base),
            "data": {"train": [str(self.rows)], "valid": 0.25, "max_tokens": 24, "packing": packing},
            "adapter": {"rank": 2, "alpha": 4, "dropout": 0.1, "layers": layers},
            "training": {"epochs": EPOCHS, "batch": 2, "accumulate": 1, "rate": 1e-2, **training},
            "checks": {"eval_every": 4, "save_every": 2},
        }
        return prepare(convert(values), self.base)

    def train(self, name: str, stop_at: int = 99, **settings: Any) -> list[float]:
        self.events = []
        prepared = self.prepared(**settings)
        session.train(prepared, self.place / name, Resources(2), self.events.append, lambda: len(self.losses) >= stop_at)
        return self.losses

    def stop(self, name: str, at: int, **settings: Any) -> None:
        with pytest.raises(StoppedEarly):
            self.train(name, at, **settings)

    def resume(self, name: str) -> None:
        prepared = prepare(session.read_run_config(self.place / name), self.base)
        session.resume(self.place / name, prepared, Resources(2), self.events.append, lambda: False)

    @property
    def losses(self) -> list[float]:
        """Of every step, and of every validation."""
        return [event.loss for event in self.events if isinstance(event, StepFinished | ValidationFinished)]

    @property
    def steps(self) -> list[float]:
        """Of every step."""
        return [event.loss for event in self.events if isinstance(event, StepFinished)]

    def weights(self, name: str) -> bytes:
        return (self.place / name / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def runner(base: Path, counting: Path, tmp_path: Path) -> Runner:
    return Runner(base, counting, tmp_path)


def without(monkeypatch: pytest.MonkeyPatch, action: Callable[[], list[float]]) -> list[float]:
    """What comes of it where nothing is kept."""
    with monkeypatch.context() as patch:
        patch.setattr(session, "prefix_cache", lambda *_: None)
        return action()


def test_rows_of_their_own_learn_the_same_to_the_bit(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation packs its rows always: see the next test."""
    without(monkeypatch, lambda: runner.train("plain"))
    steps, validations = runner.steps, runner.losses
    np.testing.assert_allclose(runner.train("kept"), validations, rtol=1e-6)
    assert runner.steps == steps and runner.weights("kept") == runner.weights("plain")


def test_packed_rows_learn_the_same_but_for_rounding(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch packs other rows together, and the products of a longer row may be rounded otherwise."""
    plain = without(monkeypatch, lambda: runner.train("plain", packing=True))
    np.testing.assert_allclose(runner.train("kept", packing=True), plain, rtol=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_later_epochs_compute_only_the_layers_that_learn(
    packing: bool, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in products with weights, validations left out: three of four layers are frozen."""
    work: list[float] = []
    project = NumpyOps.project

    def counted(ops: NumpyOps, x: Any, joint: Any, norm: Any = None) -> Any:
        if ops.learning:
            work.append(len(x.data) * sum(np.prod(part.weight.shape) for part in joint.parts))
        return project(ops, x, joint, norm)

    monkeypatch.setattr(NumpyOps, "project", counted)

    def per_step() -> list[float]:
        done, marks = 0, []
        for event, total in seen:
            if isinstance(event, StepFinished):
                marks.append(total - done)
                done = total
        return marks

    seen: list[tuple[Event, float]] = []
    prepared = runner.prepared(packing)
    session.train(prepared, runner.place / "run", Resources(1), lambda event: seen.append((event, sum(work))), lambda: False)
    steps = per_step()
    epoch = len(steps) // EPOCHS
    first, *later = (sum(steps[start : start + epoch]) for start in range(0, len(steps), epoch))
    assert all(work < 0.27 * first for work in later)


@pytest.mark.parametrize("packing", [False, True])
def test_a_stopped_run_goes_on_to_the_same_end_bit_for_bit(packing: bool, runner: Runner) -> None:
    """Where rows are not packed, also without what was kept."""
    whole = runner.train("whole", packing=packing)
    at = 4 if packing else 8
    runner.stop("stopped", at, packing=packing)
    assert list((runner.place / "stopped" / "prefix").iterdir())
    if not packing:
        shutil.rmtree(runner.place / "stopped" / "prefix")
    runner.resume("stopped")
    assert runner.weights("stopped") == runner.weights("whole")
    assert runner.losses[-1] == whole[-1]


def test_nothing_is_left_at_the_end_and_nothing_is_kept_that_is_not_read_again(runner: Runner) -> None:
    runner.train("run")
    assert not (runner.place / "run" / "prefix").exists()
    for name, settings in {"all": {"layers": "all"}, "once": {"epochs": 1}, "steps": {"steps": 3}}.items():
        runner.stop(name, 2, **settings)
        assert not (runner.place / name / "prefix").exists()
    kept = runner.prepared()

    def planned(prepared: Prepared, free: int) -> int:
        return prefix_bytes(msgspec.structs.replace(facts_of(prepared), free_bytes=free), prepared.config)

    assert planned(kept, 10**15) == 4 * 64 * (sum(kept.lengths) + sum(len(example.ids) for example in kept.valid))
    assert planned(runner.prepared(layers="all"), 10**15) == planned(runner.prepared(layers=4), 10**15) == 0
    assert planned(kept, 400) == 100


# ---- the files ---------------------------------------------------------------------------------------------------------

TOKENS = np.arange(7, dtype=np.int32)
SIZE = 4 * 7 * 64 + 4


def cache(base: Path, folder: Path, made_of: str = "weights", budget: int = 10**6, layer: int = 3) -> PrefixCache:
    model = load_model(base, {f"model.layers.{layer}.mlp.up_proj": Adapter(1.0)})
    return PrefixCache(folder, model, made_of, budget)


def start(kept: PrefixCache) -> np.ndarray:
    row = Row(np.concatenate([TOKENS, TOKENS[::-1]]), np.full(14, -1, np.int32), ((0, 7), (7, 14)))
    return kept.start(NumpyOps({}), row).data


def test_a_file_is_whole_or_computed_again(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefix"
    made = start(cache(base, folder))
    files = sorted(folder.iterdir())
    assert [file.stat().st_size for file in files] == [SIZE, SIZE] and made.shape == (14, 64)
    (folder / ".x.1.999999999.part").write_bytes(b"half")
    for damage in (b"", b"short", files[0].read_bytes()[:-1], bytes(SIZE - 1) + b"\1", files[0].read_bytes()[::-1]):
        files[0].write_bytes(damage)
        assert read(files[0], (7, 64)) is None
        np.testing.assert_array_equal(start(cache(base, folder)), made)
        assert read(files[0], (7, 64)) is not None
    assert sorted(folder.iterdir()) == files


def test_what_it_follows_from_is_in_its_name(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefix"
    for count, kept in enumerate(
        (cache(base, folder), cache(base, folder, "other weights"), cache(base, folder, layer=2), cache(base, folder)), 1
    ):
        start(kept)
        assert len(list(folder.iterdir())) == 2 * min(count, 3)


def test_a_budget_holds_also_for_what_was_there(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefix"
    expected = start(cache(base, tmp_path / "other"))
    np.testing.assert_array_equal(start(cache(base, folder, budget=SIZE)), expected)
    assert len(list(folder.iterdir())) == 1
    np.testing.assert_array_equal(start(cache(base, folder, "others", budget=2 * SIZE - 1)), expected)
    assert len(list(folder.iterdir())) == 1
    assert start(cache(base, tmp_path / "none", budget=0)).shape == (14, 64) and not (tmp_path / "none").exists()


def test_a_full_disk_ends_the_keeping_and_not_the_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = start(cache(base, tmp_path / "other"))

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    kept = cache(base, tmp_path / "prefix")
    np.testing.assert_array_equal(start(kept), expected)
    assert kept.budget == 0 and not list((tmp_path / "prefix").iterdir())
