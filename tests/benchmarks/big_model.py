"""Models of real shapes with random weights, for measuring."""

import json
from pathlib import Path

import numpy as np

from edgetune.architecture.load import parameter_shapes
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import save_safetensors, stored_as

SHAPES = {
    "smollm2-135m": dict(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, rope_theta=100_000.0, max_position_embeddings=8192,
    ),
    "smollm2-360m": dict(
        vocab_size=49152, hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
        num_key_value_heads=5, tie_word_embeddings=True, rope_theta=100_000.0, max_position_embeddings=8192,
    ),
    "tiny": dict(
        vocab_size=49152, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, rope_theta=100_000.0, max_position_embeddings=8192,
    ),
}  # fmt: skip


def write_model(folder: Path, shape: str, stored: str) -> int:
    """Writes config.json and model.safetensors in F32, F16 or BF16; gives the bytes of the tensors."""
    dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[stored]
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, **SHAPES[shape]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype, "torch_dtype": dtype}), "utf-8")
    shapes = parameter_shapes(read_spec(folder))
    random = np.random.default_rng(0)

    def draw(name: str) -> np.ndarray:
        size = shapes[name]
        values = np.ones(size, np.float32) if len(size) == 1 else random.standard_normal(size, np.float32) * np.float32(0.02)
        return stored_as(values, stored)

    tensors = [(name, stored, size) for name, size in shapes.items()]
    save_safetensors(folder / "model.safetensors", tensors, draw, {"format": "pt"})
    return (folder / "model.safetensors").stat().st_size


def random_rows(rows: int, tokens: int, vocab: int, masked: float) -> tuple[np.ndarray, np.ndarray]:
    """ids (rows, tokens), and labels: the same, but -100 in the first share of each row, which is not learned."""
    ids = np.random.default_rng(1).integers(0, vocab, (rows, tokens))
    labels = ids.copy()
    labels[:, : int(masked * tokens)] = -100
    return ids, labels
