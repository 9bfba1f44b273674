"""Opens in mlx-lm itself what we write for it, by hand: every adapter of fixtures/peft.json on its base.

Run it where mlx and mlx-lm are installed, naming the interpreter that has EdgeTune's dependencies:

    python tests/parity/check_with_mlx_lm.py --project-python .venv/bin/python

That interpreter (the same file with --write) reads PEFT's folder, writes it with write_mlx_lm, and computes log-probabilities
with our decoder. mlx-lm's load_adapters must take our folder, which it does only where every tensor is one of the model's, and
then compute the same. Left out are models that mlx-lm does not compute as they are without any adapter: stretched rotations
that it does not read from such a config, Mistral's window, Qwen 3 with biases.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from random_model import tokens

HERE = Path(__file__).parent
STORED = json.loads((HERE / "fixtures" / "peft.json").read_text("utf-8"))
LEFT_OUT = ("-keys", "mistral-all", "qwen3-mlp")
NAMES = [name for name in STORED["adapters"] if not name.endswith(LEFT_OUT)]


def ids_of(vocab: int) -> np.ndarray:
    """The tokens of the stored fixtures."""
    return tokens(STORED["seed"], "tokens", STORED["length"], vocab)


def write(folder: Path) -> None:
    """EdgeTune's side: base, our mlx-lm folder and our log-probabilities for each adapter."""
    from test_against_peft import following, write_adapter, write_base  # not above: mlx-lm's side has no edgetune

    from edgetune.adapters.mlx_lm import write_mlx_lm
    from edgetune.adapters.peft import read_peft

    for name in NAMES:
        (folder / name / "ours").mkdir(parents=True)
        base = write_base(STORED["adapters"][name]["model"], folder / name / "base")
        config = json.loads((base / "config.json").read_text("utf-8"))
        rope = config.get("rope_parameters") or {}
        (base / "config.json").write_text(json.dumps({**config, "rope_theta": rope.get("rope_theta", 10000.0)}), "utf-8")
        lora = read_peft(write_adapter(name, folder / name / "theirs"))
        write_mlx_lm(folder / name / "ours", lora, config["num_hidden_layers"])
        np.save(folder / name / "following.npy", following(base, lora, ids_of(config["vocab_size"])))


def check(folder: Path) -> None:
    """mlx-lm's side: opens each of our folders and compares."""
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    for name in NAMES:
        model, config = load_model(folder / name / "base")
        plain = following_in_mlx(model, config)
        model = load_adapters(model, str(folder / name / "ours"))
        model.eval()  # no dropout
        adapted = following_in_mlx(model, config)
        ours = np.load(folder / name / "following.npy")
        apart = np.abs(ours - adapted).max()
        print(f"{name:20s} greatest difference of a log-probability {apart:.1e}, to the base {np.abs(ours - plain).max():.1f}")
        assert apart < 1e-4 < 0.1 < np.abs(ours - plain).max(), name


def following_in_mlx(model: Any, config: dict[str, Any]) -> np.ndarray:
    """log p of every token but the first, by a model in MLX."""
    import mlx.core as mx

    ids = ids_of(config["vocab_size"])
    table = np.array(model(mx.array(ids[None])).astype(mx.float32))[0].astype(np.float64)
    table -= table.max(-1, keepdims=True)
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    return table[np.arange(len(ids) - 1), ids[1:]]


def main() -> None:
    """Both sides, each in its own interpreter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project-python", help="interpreter with EdgeTune's dependencies")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        return write(arguments.write)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
        python = arguments.project_python or sys.executable
        subprocess.run([python, __file__, "--write", folder], check=True, env=environment)
        check(Path(folder))


if __name__ == "__main__":
    main()
