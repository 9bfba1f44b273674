"""Models of well-known shapes with random weights, and rows of random tokens: what `bench` trains."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.load import parameter_shapes
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.weights import save_safetensors
from edgetune.files import disk_errors
from edgetune.hub.catalog import starter

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "max_position_embeddings": 8192}
LLAMA3 = LLAMA | {"vocab_size": 128256, "rope_theta": 5e5, "tie_word_embeddings": True}
QWEN3 = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 1e-6, "max_position_embeddings": 40960,
    "vocab_size": 151936, "rope_theta": 1e6, "tie_word_embeddings": True, "head_dim": 128,
}  # fmt: skip
SMOLLM2 = LLAMA | {"vocab_size": 49152, "rope_theta": 1e5, "tie_word_embeddings": True}


def sized(family: dict[str, Any], dim: int, hidden: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """A config.json of a family in one size."""
    return family | {
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


# The numbers of each model's published config.json, the smallest model first. The starter's are in its own folder.
SHAPES: dict[str, dict[str, Any]] = {
    "starter": {},
    "smollm2-135m": sized(SMOLLM2, 576, 1536, 30, 9, 3),
    "smollm2-360m": sized(SMOLLM2, 960, 2560, 32, 15, 5),
    "qwen3-0.6b": sized(QWEN3, 1024, 3072, 28, 16, 8),
    "llama-3.2-1b": sized(LLAMA3, 2048, 8192, 16, 32, 8),
    "qwen3-1.7b": sized(QWEN3, 2048, 6144, 28, 16, 8),
    "llama-3.2-3b": sized(LLAMA3, 3072, 8192, 28, 24, 8),
    "qwen3-4b": sized(QWEN3, 2560, 9728, 36, 32, 8),
    "mistral-7b": sized(LLAMA | {"vocab_size": 32768, "rope_theta": 1e6}, 4096, 14336, 32, 32, 8),
}
BYTES = 2  # of a weight in bfloat16
ONE, SIGN_AND_FRACTION, SIXTY_FOURTH = 0x3F80, 0x807F, 0x3C80  # bits of bfloat16
PIECE = 1 << 24  # weights that are drawn at once
END = 2  # the token that ends every row


@dataclass(frozen=True)
class Shape:
    """One rung of the ladder: its name, and what config.json makes of it."""

    name: str
    spec: ModelSpec

    @property
    def parameters(self) -> int:
        """Numbers in the model; a tied head counts once."""
        return sum(math.prod(size) for size in parameter_shapes(self.spec).values())

    @property
    def weight_bytes(self) -> int:
        """The size of its weights on the disk."""
        return BYTES * self.parameters


def write_config(folder: Path, name: str, tokens: int) -> Shape:
    """Makes the model's folder with its config.json; rows of `tokens` tokens will be within its positions."""
    config = SHAPES[name] or json.loads((starter() / "config.json").read_text("utf-8"))
    positions = max(tokens, config["max_position_embeddings"])
    kind = {"dtype": "bfloat16", "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": END}
    with disk_errors(folder):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config | kind | {"max_position_embeddings": positions}), "utf-8")
    return Shape(name, read_spec(folder))


def write_weights(folder: Path, shape: Shape, tell: Callable[[int], None]) -> None:
    """Streams model.safetensors in bfloat16: norms of one, all else uniform on 1/64 to 1/32 with a random sign.

    `tell` hears how many bytes are written.

    Raises:
        DiskFull: the disk has no more room.
    """
    sizes, random, written = parameter_shapes(shape.spec), np.random.default_rng(0), 0

    def draw(name: str) -> Iterator[NDArray[np.uint16]]:
        nonlocal written
        left = math.prod(sizes[name])
        while left:
            count = min(left, PIECE)
            tell(written)
            yield np.full(count, ONE, np.uint16) if len(sizes[name]) == 1 else weights(random, count)
            left, written = left - count, written + BYTES * count

    tensors = [(name, "BF16", size) for name, size in sizes.items()]
    with disk_errors(folder):
        save_safetensors(folder / "model.safetensors", tensors, draw, {"format": "pt"}, point="bench-weights")
    tell(written)


def weights(random: np.random.Generator, count: int) -> NDArray[np.uint16]:
    """That many random weights as the bits of bfloat16."""
    bits = random.integers(0, 1 << 16, count, np.uint16)
    bits &= SIGN_AND_FRACTION
    bits |= SIXTY_FOURTH
    return bits


def random_rows(vocab: int, rows: int, tokens: int) -> list[list[int]]:
    """Rows of random tokens, each closed by END."""
    ids = np.random.default_rng(1).integers(END + 1, vocab, (rows, tokens))
    ids[:, -1] = END
    return ids.tolist()


def write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    """A JSONL file."""
    with disk_errors(file):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
