"""Makes fixtures/mlx-quantized.npz and fixtures/mlx-quantized/: what MLX and mlx-lm make of quantised weights.

Run it by hand where mlx and mlx-lm are installed (0.32.4 on CPU and 0.32.2 made what is stored):

    python tests/parity/make_mlx_quantized_fixtures.py

The npz holds, for every mode, number of bits and size of group, the codes, scales and biases that mx.quantize makes of
`awkward_rows`, and the floats that mx.dequantize makes of those. The folders are tiny models as mlx-lm writes them, each
with the log-probabilities of mlx-lm's own forward. Weights come from random_model.py.
"""

import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model
from random_model import awkward_rows, tokens, write_model

SEED, INPUTS, LENGTH = 5, 128, 24
FIXTURES = Path(__file__).parent / "fixtures"
SMALL_FLOATS = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
TYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
BASE: dict[str, Any] = dict(
    model_type="llama", vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10_000.0, hidden_act="silu",
    tie_word_embeddings=True,
)  # fmt: skip
WIDE = dict(hidden_size=64, num_hidden_layers=1)


def keeps_values(path: str, module: Any) -> Any:
    """Values in 6 bits, the output projection in floats, everything else as it comes."""
    if path.endswith("v_proj"):
        return {"group_size": 32, "bits": 6}
    return not path.endswith("o_proj")


MODELS: dict[str, dict[str, Any]] = {
    "affine-4": dict(config={**BASE, **WIDE}, dtype="BF16", bits=4, group_size=64),
    "affine-8-untied": dict(config={**BASE, "tie_word_embeddings": False}, dtype="F32", bits=8, group_size=32),
    "affine-4-mixed": dict(config=BASE, dtype="F16", bits=4, group_size=32, predicate=keeps_values),
    "affine-3-qwen2": dict(config={**BASE, "model_type": "qwen2"}, dtype="F32", bits=3, group_size=32),
    "mxfp4": dict(config=BASE, dtype="BF16", bits=4, group_size=32, mode="mxfp4"),
    "mxfp8": dict(config=BASE, dtype="BF16", bits=8, group_size=32, mode="mxfp8"),
    "nvfp4": dict(config=BASE, dtype="BF16", bits=4, group_size=16, mode="nvfp4"),
}


def stored(array: mx.array) -> np.ndarray:
    """As NumPy holds it: bfloat16 as the bits, codes as bytes."""
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16))
    return np.array(array).view(np.uint8) if array.dtype == mx.uint32 else np.array(array)


def arrays() -> dict[str, np.ndarray]:
    """Every packing of the awkward rows: in the affine mode of float32, and the two common ones of the shorter floats."""
    made: dict[str, np.ndarray] = {}
    affine = [("affine", bits, group, "F32") for bits, group in itertools.product((1, 2, 3, 4, 5, 6, 8), (32, 64, 128))]
    affine += [("affine", bits, 64, dtype) for bits in (4, 8) for dtype in ("F16", "BF16")]
    for mode, bits, group, dtype in [*affine, *((mode, *shape, "F32") for mode, shape in SMALL_FLOATS.items())]:
        weight = mx.array(awkward_rows(SEED, INPUTS)).astype(TYPES[dtype])
        how = dict(group_size=group, bits=bits, mode=mode)
        parts = mx.quantize(weight, **how)
        # Scales in 16 bits would make MLX round each product and each sum to 16 bits: its kernels do not, nor do we.
        wide = [part.astype(mx.float32) if mode == "affine" and part.dtype != mx.uint32 else part for part in parts]
        floats = mx.dequantize(*wide, **how, dtype=mx.float32)
        for name, part in zip(("codes", "scales", "biases"), parts, strict=False):
            made[f"{mode} {bits} {group} {dtype} {name}"] = stored(part)
        made[f"{mode} {bits} {group} {dtype} floats"] = np.array(floats)
    return made


def make_model(name: str, case: dict[str, Any], folder: Path) -> None:
    """One quantised model folder, as `mlx_lm.convert` writes it, and what it computes in float32."""
    write_model(folder / "float", case["config"], SEED, case["dtype"])
    model, config = load_model(folder / "float", lazy=False)
    model, config = quantize_model(
        model, config, case["group_size"], case["bits"], case.get("mode", "affine"), quant_predicate=case.get("predicate")
    )
    out = FIXTURES / "mlx-quantized" / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mx.save_safetensors(str(out / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    model, _ = load_model(out, lazy=False)
    model.set_dtype(mx.float32)
    ids = tokens(SEED, "tokens", LENGTH, case["config"]["vocab_size"])
    logits = np.array(model(mx.array(ids)[None])[0]).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.savez_compressed(out / "expected.npz", log_probabilities=table.astype(np.float32))


def main() -> None:
    """Makes and writes all."""
    np.savez_compressed(FIXTURES / "mlx-quantized.npz", **arrays())
    for name, case in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_model(name, case, Path(folder))


if __name__ == "__main__":
    main()
