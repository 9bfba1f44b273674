"""Random tiny models and adapters, the same in every process, on every machine and in every version of NumPy.

The scripts that make fixtures with other libraries and the tests that compare with them both draw their weights here:
a fixture holds only what the other library computed. A tensor depends on the seed and its name alone. Only Philox's raw
bits are used: NumPy promises those, and not how it makes normal numbers of them. Nothing of edgetune is imported: the
shapes, names and files here are a second source of those too.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ITEM = {"F32": 4, "F16": 2, "BF16": 2}


def raw(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    """`count` numbers of 64 random bits."""
    return np.random.Philox(key=np.array([seed, crc32(name.encode())], np.uint64)).random_raw(count)


def uniform(seed: int, name: str, shape: tuple[int, ...], deviation: float = 1.0) -> Floats:
    """Uniform numbers around zero of that standard deviation."""
    unit = (raw(seed, name, math.prod(shape)) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    return (unit * math.sqrt(3) * deviation).astype(np.float32).reshape(shape)


def tokens(seed: int, name: str, length: int, vocab: int) -> NDArray[np.int32]:
    """Random token ids."""
    return (raw(seed, name, length) % np.uint64(vocab)).astype(np.int32)


def head_dim(config: Mapping[str, Any]) -> int:
    """As each family has it: Qwen 3 and Gemma do not divide."""
    named = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}
    default = config["hidden_size"] // config["num_attention_heads"]
    return config.get("head_dim") or named.get(config["model_type"], default)


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each linear layer by its module path."""
    dim, hidden, size = config["hidden_size"], config["intermediate_size"], head_dim(config)
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    block = {
        "self_attn.q_proj": (queries, dim),
        "self_attn.k_proj": (keys, dim),
        "self_attn.v_proj": (keys, dim),
        "self_attn.o_proj": (dim, queries),
        "mlp.gate_proj": (hidden, dim),
        "mlp.up_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden),
    }
    if config["model_type"] == "phi3":
        block = {
            "self_attn.qkv_proj": (queries + 2 * keys, dim),
            "self_attn.o_proj": (dim, queries),
            "mlp.gate_up_proj": (2 * hidden, dim),
            "mlp.down_proj": (dim, hidden),
        }
    return {f"model.layers.{i}.{name}": shape for i in range(config["num_hidden_layers"]) for name, shape in block.items()}


def biased(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of linear layers that have a bias."""
    attention = ("q_proj", "k_proj", "v_proj") if config["model_type"] == "qwen2" else ()
    if config.get("attention_bias"):
        attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    return (*attention, *(("gate_proj", "up_proj", "down_proj") if config.get("mlp_bias") else ()))


def parameters(config: Mapping[str, Any], seed: int) -> dict[str, Floats]:
    """Every weight of the model. Queries and keys are large: a wrong rotation or window changes the outcome much."""
    dim, vocab = config["hidden_size"], config["vocab_size"]
    arrays = {"model.embed_tokens.weight": uniform(seed, "model.embed_tokens.weight", (vocab, dim), 0.5)}
    for path, shape in linear_shapes(config).items():
        gain = 1.5 if path.endswith(("q_proj", "k_proj", "qkv_proj")) else 1.0
        arrays[f"{path}.weight"] = uniform(seed, f"{path}.weight", shape, gain / math.sqrt(shape[1]))
        if path.endswith(biased(config)) and biased(config):
            arrays[f"{path}.bias"] = uniform(seed, f"{path}.bias", shape[:1], 0.5)
    for name, size in norms(config).items():
        centre = (1.5 if "_norm" in name else 1) - config["model_type"].startswith("gemma")  # which stores w for 1 + w
        arrays[f"{name}.weight"] = centre + uniform(seed, f"{name}.weight", (size,), 0.3)
    if not config.get("tie_word_embeddings"):
        arrays["lm_head.weight"] = uniform(seed, "lm_head.weight", (vocab, dim), 2 / math.sqrt(dim))
    return arrays


def norms(config: Mapping[str, Any]) -> dict[str, int]:
    """The size of each norm's weight by its module path."""
    dim, family = config["hidden_size"], config["model_type"]
    block = {"input_layernorm": dim, "post_attention_layernorm": dim}
    if family.startswith("gemma"):
        block |= {"pre_feedforward_layernorm": dim, "post_feedforward_layernorm": dim}
    if family in ("qwen3", "gemma3_text"):
        block |= {f"self_attn.{part}_norm": head_dim(config) for part in "qk"}
    layers = range(config["num_hidden_layers"])
    return {f"model.layers.{i}.{name}": size for i in layers for name, size in block.items()} | {"model.norm": dim}


def adapter(shapes: Mapping[str, Iterable[int]], seed: int, b_deviation: float) -> dict[str, Floats]:
    """An adapter's arrays by PEFT's keys, of which `shapes` is the list. b_deviation 0: B is zero. Magnitudes are about one."""
    arrays: dict[str, Floats] = {}
    for key, shape in shapes.items():
        size = tuple(shape)
        if len(size) == 1:
            arrays[key] = 1 + uniform(seed, key, size, 0.3)
        else:
            arrays[key] = uniform(seed, key, size, b_deviation if "lora_B" in key else 1 / math.sqrt(size[1]))
    return arrays


def rows(seed: int, lengths: Iterable[int], vocab: int) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    """Pre-tokenised rows: ids, and which of them are learned: few in some rows, many in others, always the second."""
    made: list[tuple[NDArray[np.int32], NDArray[np.bool_]]] = []
    for index, length in enumerate(lengths):
        trained = raw(seed, f"trained {index}", length) % np.uint64(5) <= index % 5
        trained[0], trained[1] = False, True
        made.append((tokens(seed, f"row {index}", length, vocab), trained))
    return made


def write_model(folder: Path, config: Mapping[str, Any], seed: int, dtype: str = "F32") -> None:
    """A model folder: config.json and model.safetensors, its weights rounded to F32, F16 or BF16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    save(folder / "model.safetensors", parameters(config, seed), dtype)


def save(file: Path, arrays: Mapping[str, Floats], dtype: str = "F32") -> None:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.size * ITEM[dtype]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    data = b"".join(stored(array, dtype) for array in arrays.values())
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def stored(array: Floats, dtype: str) -> bytes:
    """The bytes of an array in its stored form; bfloat16 is rounded to the nearest, ties to even."""
    if dtype == "F32":
        return array.astype("<f4").tobytes()
    if dtype == "F16":
        return array.astype("<f2").tobytes()
    bits = array.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def awkward_rows(seed: int, inputs: int) -> Floats:
    """Weights that a quantiser may get wrong: nothing, one value, one sign, an outlier, far too small, and two plain rows."""
    rows = uniform(seed, "awkward", (8, inputs))
    rows[1] = 0
    rows[2] = -3
    rows[3] = np.abs(rows[3])
    rows[4] = -np.abs(rows[4])
    rows[5, 7] = 1e4
    rows[6] *= 1e-7
    return rows
