"""Writes fixtures/adapters/: adapters as mlx-lm and llama.cpp themselves write them, and what mlx-lm computes with its own.

Run it by hand where mlx-lm, torch and transformers are (mlx-lm 0.32.2 and llama.cpp 0c1e57098 made what is stored), with
llama.cpp's sources beside (they come inside llama-cpp-python's source distribution):

    python tests/parity/make_adapter_fixtures.py PATH/TO/vendor/llama.cpp

The base is the "llama" of transformers.json. mlx-lm: its layers, with numbers drawn by random_model.py, saved as its trainer
saves them. llama.cpp: its converter on the folder of fixtures/peft-adapter.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, save_config
from random_model import tokens, uniform, write_model

FIXTURES = Path(__file__).parent / "fixtures"
OUT = FIXTURES / "adapters"
MODELS = json.loads((FIXTURES / "transformers.json").read_text("utf-8"))
SEED, LENGTH = 29, 24
SETTINGS = {"rank": 2, "dropout": 0.0, "scale": 1.7}
KEYS = {"lora": ["self_attn.k_proj", "mlp.down_proj"], "dora": ["self_attn.q_proj", "self_attn.v_proj"]}


def write_base(folder: Path) -> Path:
    """The model of transformers.json, with a config that says its rotation where mlx-lm looks for it."""
    write_model(folder, MODELS["cases"]["llama"]["v4"], MODELS["seed"])
    return folder


def by_mlx_lm(kind: str, base: Path, folder: Path) -> list[float]:
    """An adapter on the last two layers. Gives log p of every token but the first."""
    model, config = load_model(base)
    model.freeze()
    settings = {**SETTINGS, "keys": KEYS[kind]}
    linear_to_lora_layers(model, 2, settings, use_dora=kind == "dora")
    own = dict(tree_flatten(model.trainable_parameters()))
    drawn = [(name, mx.array(uniform(SEED, name, array.shape, 0.3) + (array.ndim == 1))) for name, array in own.items()]
    model.load_weights(drawn, strict=False)
    model.eval()
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
    written = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": settings, "model": "someone/tiny", "seed": 0}
    save_config(written, folder / "adapter_config.json")
    return following(model, config)


def following(model: Any, config: dict[str, Any]) -> list[float]:
    """log p of every token but the first, by a model in MLX."""
    ids = tokens(SEED, "tokens", LENGTH, config["vocab_size"])
    table = np.array(model(mx.array(ids[None])).astype(mx.float32))[0].astype(np.float64)
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    return [round(float(value), 6) for value in table[np.arange(LENGTH - 1), ids[1:]]]


def by_llama_cpp(sources: Path, place: Path) -> None:
    """peft-adapter as GGUF. Names are relative, for the converter writes its base's path down."""
    shutil.copytree(FIXTURES / "peft-adapter", place / "adapter")
    script = str((sources / "convert_lora_to_gguf.py").absolute())
    command = [sys.executable, script, "--base", "base", "--outfile", "adapter.gguf", "adapter"]
    subprocess.run(command, check=True, cwd=place, capture_output=True)
    content = (place / "adapter.gguf").read_bytes()
    assert str(place).encode() not in content
    (OUT / "llama-cpp.gguf").write_bytes(content)


def main() -> None:
    """Makes and writes everything."""
    mx.set_default_device(mx.cpu)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    with tempfile.TemporaryDirectory() as place:
        base = write_base(Path(place) / "base")
        made = {kind: by_mlx_lm(kind, base, OUT / f"mlx-lm-{kind}") for kind in KEYS}
        by_llama_cpp(Path(sys.argv[1]), Path(place))
    facts = {"mlx_lm": mlx_lm.__version__, "seed": SEED, "length": LENGTH, "following": made}
    (OUT / "mlx-lm.json").write_text(json.dumps(facts) + "\n", "utf-8")


if __name__ == "__main__":
    main()
