"""Planned against measured peaks: a ladder of shapes, families, methods and lengths, each trained by our own command line.

    python tests/benchmarks/plan_memory.py [--backend numpy|mlx] [--rungs "NAME; ..."] [--record FILE]

Every rung is a random model of a hundred megabytes or more, made on the fly. `plan --json` says what the run will take, `train`
trains it for a few steps in a process of its own; its `peak_bytes` is what is compared. Nothing stays but what --record writes:
one JSON line a rung, with the plan's facts, so that formulas can be looked at again without training.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.architecture.load import parameter_shapes
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import save_safetensors
from edgetune.hardware import this_machine
from edgetune.units import size

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
LIMIT = 0.10
PIECE = 1 << 22

LLAMA: dict[str, Any] = dict(
    model_type="llama", vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=12, num_attention_heads=8,
    num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=4096,
)  # fmt: skip
QWEN2 = LLAMA | dict(model_type="qwen2", tie_word_embeddings=False)
QWEN3 = LLAMA | dict(model_type="qwen3", vocab_size=151936, num_hidden_layers=6, head_dim=128)
GEMMA2 = LLAMA | dict(model_type="gemma2", vocab_size=64000, num_attention_heads=4, num_key_value_heads=2, head_dim=256,
                      num_hidden_layers=8)  # fmt: skip
GEMMA3 = GEMMA2 | dict(model_type="gemma3_text", sliding_window=128, num_key_value_heads=1)
PHI3 = LLAMA | dict(model_type="phi3", tie_word_embeddings=False, num_hidden_layers=10)
GRANITE = LLAMA | dict(model_type="granite", residual_multiplier=0.22, embedding_multiplier=12.0)
MISTRAL = LLAMA | dict(model_type="mistral", sliding_window=256)


@dataclass(frozen=True)
class Rung:
    """One run: the model, how its weights are stored, its rows' lengths, what share of them is learned, and its settings."""

    config: Mapping[str, Any] = field(default_factory=lambda: LLAMA)
    stored: str = "BF16"
    lengths: tuple[int, ...] = (256,) * 12
    learned: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    small: bool = False  # plan for a machine on which weights cannot be shared


def rungs() -> dict[str, Rung]:
    """The ladder on NumPy; on MLX, which is slow on a processor, the same with shorter rows."""
    recompute = {"training.recompute": "layers"}
    return {
        "llama": Rung(),
        "llama-f32": Rung(stored="F32"),
        "llama-f16": Rung(stored="F16"),
        "recompute": Rung(settings=recompute),
        "each folds": Rung(small=True),
        "each folds, recompute": Rung(settings=recompute, small=True),
        "long rows": Rung(lengths=(2048,) * 6, settings={"data.max_tokens": 2048}),
        "long rows, recompute": Rung(lengths=(2048,) * 6, settings={"data.max_tokens": 2048} | recompute),
        "packed": Rung(lengths=(60, 90, 150, 40) * 40, settings={"data.packing": True, "data.max_tokens": 1024}),
        "mixed lengths": Rung(lengths=(1024, *(64, 100, 180) * 16), settings={"data.max_tokens": 1024}),
        "masked": Rung(learned=0.2, lengths=(512,) * 12),
        "one row": Rung(settings={"training.batch": 1}, lengths=(1024,) * 3),
        "rank 128": Rung(settings={"adapter.rank": 128}),
        "dora": Rung(settings={"adapter.method": "dora"}),
        "dropout": Rung(settings={"adapter.dropout": 0.1}),
        "dora, dropout": Rung(settings={"adapter.method": "dora", "adapter.dropout": 0.1}),
        "last 4 layers": Rung(settings={"adapter.layers": 4}),
        "4bit": Rung(settings={"training.quantize_base": "4bit"}),
        "8bit": Rung(settings={"training.quantize_base": "8bit"}),
        "4bit, recompute": Rung(settings={"training.quantize_base": "4bit"} | recompute),
        "full": Rung(settings={"adapter.method": "full"}),
        "full, recompute": Rung(settings={"adapter.method": "full"} | recompute),
        "full, from a validation": Rung(settings={"adapter.method": "full", "data.valid": 0.2}),
        "qwen2": Rung(QWEN2),
        "qwen3": Rung(QWEN3),
        "gemma2": Rung(GEMMA2),
        "gemma3": Rung(GEMMA3),
        "phi3": Rung(PHI3),
        "granite": Rung(GRANITE),
        "mistral": Rung(MISTRAL, lengths=(1024,) * 6),
    }


def write_model(folder: Path, rung: Rung) -> None:
    """config.json and random weights."""
    dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[rung.stored]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**rung.config, "dtype": dtype}), "utf-8")
    shapes, random = parameter_shapes(read_spec(folder)), np.random.default_rng(0)

    def draw(name: str) -> Iterator[np.ndarray]:
        left = int(np.prod(shapes[name]))
        while left:
            count = min(left, PIECE)
            values = (random.random(count, np.float32) - np.float32(0.5)) * np.float32(0.05)
            values = np.ones(count, np.float32) if len(shapes[name]) == 1 else values
            bits = values.view(np.uint32) >> 16
            yield bits.astype(np.uint16) if rung.stored == "BF16" else values.astype(dtype)
            left -= count

    save_safetensors(folder / "model.safetensors", [(name, rung.stored, shape) for name, shape in shapes.items()], draw)


def write_run(folder: Path, rung: Rung) -> Path:
    """The rows and the config of a run of a few steps."""
    random, vocab = np.random.default_rng(1), rung.config["vocab_size"]
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for length in rung.lengths:
            ids = random.integers(3, vocab, length).tolist()
            first = round((1 - rung.learned) * length)
            file.write(json.dumps({"input_ids": ids, "loss_mask": [0] * first + [1] * (length - first)}) + "\n")
    values: dict[str, dict[str, Any]] = {
        "data": {"train": ["rows.jsonl"], "valid": 0.0, "max_tokens": max(rung.lengths), "packing": False},
        "adapter": {"rank": 16},
        "training": {"steps": STEPS, "batch": 4, "accumulate": 1, "recompute": "off", "rate": 1e-5},
        "checks": {"eval_every": 0, "save_every": 0, "keep": 2},
    }
    for key, value in rung.settings.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    lines = [f"model = {json.dumps(str(folder / 'model'))}"]
    for section, keys in values.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    (folder / "run.toml").write_text("\n".join(lines) + "\n", "utf-8")
    return folder / "run.toml"


def edgetune(arguments: list[str], usable: int | None = None) -> dict[str, Any]:
    """One command of ours in a child, on a machine that has so many usable bytes."""
    smaller = f"import edgetune.workspace.planning as p; p.usable_memory = lambda: {usable}; " if usable else ""
    command = f"{smaller}from edgetune.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments, "--json", "--offline"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def climb(name: str, rung: Rung, backend: str) -> dict[str, Any]:
    """Plans and trains one rung."""
    with tempfile.TemporaryDirectory(prefix="edgetune-plan-") as place:
        folder = Path(place)
        write_model(folder / "model", rung)
        config = str(write_run(folder, rung))
        common = ["--backend", backend]
        plan = edgetune(["plan", config, *common])
        usable = None
        if rung.small:
            usable = plan["peak_bytes"] - plan["parts"]["folded weights"] // 2
            plan = edgetune(["plan", config, *common], usable)
        trained = edgetune(["train", config, "--run", str(folder / "run"), *common], usable)
        text = (folder / "run" / "run.toml").read_text("utf-8")
    return {"rung": name, "measured": trained["peak_bytes"], "config": text, "plan": plan}


def show(found: dict[str, Any]) -> bool:
    """One line a rung; whether it is within the limit."""
    plan = found["plan"]
    ratio = plan["peak_bytes"] / found["measured"]
    parts = ", ".join(f"{name} {size(value)}" for name, value in plan["parts"].items() if value)
    verdict = "" if abs(ratio - 1) <= LIMIT else "  <<<"
    form = ("recompute " if plan["recompute"] else "") + ("shared" if plan["share_weights"] else "")
    print(f"{found['rung']:<24} {size(plan['peak_bytes']):>8} {size(found['measured']):>8} {ratio:6.3f}{verdict}  {form}")
    print(f"    {parts}", flush=True)
    return abs(ratio - 1) <= LIMIT


def main() -> None:
    """Climbs the ladder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["numpy", "mlx"], default="numpy")
    parser.add_argument("--rungs", default="", help="names of rungs, a semicolon between; left out, all")
    parser.add_argument("--record", type=Path, help="append what was found to this file, one JSON line a rung")
    wanted = parser.parse_args()
    ladder = rungs()
    names = [name.strip() for name in wanted.rungs.split(";") if name.strip()] or list(ladder)
    machine = this_machine()
    print(f"{machine.chip} · {machine.system} · Python {platform.python_version()} · {wanted.backend}")
    print(f"{'rung':<24} {'planned':>8} {'measured':>8} {'ratio':>6}")
    good = 0
    for name in names:
        found = climb(name, ladder[name], wanted.backend)
        good += show(found)
        if wanted.record:
            with wanted.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
    print(f"{good} of {len(names)} within {LIMIT:.0%}")


if __name__ == "__main__":
    main()
