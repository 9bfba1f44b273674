"""mlx-lm is not among our dependencies: a package of its name stands in and gives reports that the real one gave."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgetune.errors import ChildFailed
from edgetune.workspace.bench_children import Measured, Watch, measure_mlx_lm
from edgetune.workspace.bench_mlx_lm import END_WORD, installed, write_inputs
from edgetune.workspace.bench_models import random_rows

# mlx-lm 0.32.2 on mlx 0.32.4 for CPU: one row of 64 tokens a step, the starter's shape.
RECORDED = [
    {"iteration": 1, "train_loss": 7.6572265625, "learning_rate": 9.999999747378752e-06, "iterations_per_second": 0.09137613366677244, "tokens_per_second": 5.848072554673436, "trained_tokens": 64, "peak_memory": 0.020027532},
    {"iteration": 2, "train_loss": 7.6962890625, "learning_rate": 9.999999747378752e-06, "iterations_per_second": 1.7643673407365161, "tokens_per_second": 112.91950980713703, "trained_tokens": 128, "peak_memory": 0.022216932},
    {"iteration": 3, "train_loss": 7.6767578125, "learning_rate": 9.999999747378752e-06, "iterations_per_second": 1.8289621734861932, "tokens_per_second": 117.05357910311636, "trained_tokens": 192, "peak_memory": 0.022216932},
]  # fmt: skip
STAND_IN = """
import json, sys
from pathlib import Path
RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text())
def train(model, optimizer, train_dataset, val_dataset=None, args=None, training_callback=None):
    for info in RECORDED:
        training_callback.on_train_loss_report(info)
def main():
    Path("arguments.json").write_text(json.dumps(sys.argv))
    train(model=0, optimizer=0, train_dataset=0, training_callback=None)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `mlx_lm` in reach of this process and its children."""
    package = tmp_path / "packages" / "mlx_lm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "lora.py").write_text(STAND_IN)
    (package / "recorded.json").write_text(json.dumps(RECORDED))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(package.parent)
    return package


def measure(folder: Path) -> tuple[Measured, list[int]]:
    steps: list[int] = []
    return measure_mlx_lm(["--train", "--iters", "3"], folder, Watch(steps.append, lambda: False)), steps


def test_its_reports_become_our_figures(stand_in: Path, tmp_path: Path) -> None:
    measured, steps = measure(tmp_path / "run")
    assert measured.seconds == pytest.approx([1 / info["iterations_per_second"] for info in RECORDED], rel=1e-9)
    assert steps == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "arguments.json").read_text()) == ["mlx_lm.lora", "--train", "--iters", "3"]


def test_the_peak_is_the_higher_of_its_own_and_the_process(stand_in: Path, tmp_path: Path) -> None:
    process = measure(tmp_path / "a")[0].peak_bytes
    assert 22_216_932 < process < 1e9, "Python alone takes more than MLX reported"
    reports = [info | {"peak_memory": 64.5} for info in RECORDED]
    (stand_in / "recorded.json").write_text(json.dumps(reports))
    assert measure(tmp_path / "b")[0].peak_bytes == 64_500_000_000


def test_one_that_fails_or_reports_nothing_is_told(stand_in: Path, tmp_path: Path) -> None:
    (stand_in / "recorded.json").write_text("[]")
    with pytest.raises(ChildFailed, match="reported no step"):
        measure(tmp_path / "a")
    (stand_in / "lora.py").write_text("raise ImportError('libmlx.so is missing')")
    with pytest.raises(ChildFailed, match=r"ended with code 1: ImportError: libmlx\.so is missing"):
        measure(tmp_path / "b")


def test_it_is_seen_where_it_is(stand_in: Path) -> None:
    assert installed()


def test_it_reads_the_same_tokens_as_ours(tmp_path: Path) -> None:
    rows = random_rows(vocab=49152, rows=6, tokens=40)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    arguments = write_inputs(tmp_path / "model", rows, tmp_path / "theirs", batch=2, steps=3)
    tokenizer = Tokenizer.from_file(str(tmp_path / "theirs" / "model" / "tokenizer.json"))
    tokenizer.add_special_tokens([END_WORD])  # as mlx-lm's loader does with its end-of-text token
    texts = [json.loads(line)["text"] for line in (tmp_path / "theirs" / "train.jsonl").read_text().splitlines()]
    assert [tokenizer.encode(text).ids for text in texts] == rows
    assert (tmp_path / "theirs" / "model" / "config.json").read_text() == "{}"
    given = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert arguments[0] == "--train" and given["--batch-size"] == "2" and given["--iters"] == "3"
    assert given["--num-layers"] == "-1" and given["--max-seq-length"] == "41" and given["--steps-per-report"] == "1"
