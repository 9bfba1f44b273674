"""MLX-quantised checkpoints: what config.json says of them, and the tensors X.weight, X.scales, X.biases that are one matrix.

Format: mlx-lm's `convert --quantize`. "quantization" holds group_size, bits and mode, and by module path what differs: such a
table, or false for a module that is left in floats.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from edgetune.architecture.config_json import Config
from edgetune.architecture.tensor_info import ITEM_SIZES, PackedInfo, TensorInfo
from edgetune.backend.quantized import MODES, PACKINGS, Packing
from edgetune.errors import ModelError
from edgetune.files import clean

OTHERS_HINT = "take the un-quantised model, or one in MLX's form; quantise when exporting"


class Quantization(NamedTuple):
    """How a checkpoint's matrices are packed. None: that module is not."""

    default: Packing
    modules: Mapping[str, Packing | None]

    def of(self, path: str) -> Packing | None:
        """The packing of a module."""
        return self.modules.get(path, self.default)


def read_quantization(config: Config) -> Quantization | None:
    """What a config says of its weights' quantisation; None: they are floats.

    Raises:
        ModelError: they are quantised in another form than MLX's, or its numbers are wrong; the message names the key.
    """
    key = "quantization" if config.values.get("quantization") else "quantization_config"
    given = config.values.get(key)
    if not given:
        return None
    if not isinstance(given, dict):
        raise config.wrong(key, f"is {clean(repr(given)[:60])}, not a table")
    table = cast(dict[str, Any], given)
    if key == "quantization_config" and "quant_method" in table:
        method = clean(str(table["quant_method"])[:40])
        raise ModelError(f"holds weights quantised by {method}, which is not supported", file=config.file, hint=OTHERS_HINT)
    for name in ("group_size", "bits"):
        if name not in table:
            raise ModelError(f"{key}.{name} is missing: not MLX's form", file=config.file, hint=OTHERS_HINT)
    modules: dict[str, Packing | None] = {}
    default = read_packing(config, key, table)
    for path, value in table.items():
        if isinstance(value, dict):
            modules[path] = read_packing(config, f"{key}.{clean(path)[:80]}", cast(dict[str, Any], value))
        elif isinstance(value, bool):
            modules[path] = default if value else None
    return Quantization(default, modules)


def read_packing(config: Config, key: str, table: Mapping[str, Any]) -> Packing:
    """One packing; what is left out is as the mode has it.

    Raises:
        ModelError: MLX knows no such packing.
    """
    mode: Any = table.get("mode", "affine")
    if mode not in MODES:
        raise config.wrong(f"{key}.mode", f"is {clean(repr(mode)[:40])}; known: {', '.join(MODES)}")
    default = PACKINGS[mode][0]
    bits, group = table.get("bits", default.bits), table.get("group_size", default.group)
    if type(bits) is not int or type(group) is not int or Packing(mode, bits, group) not in PACKINGS[mode]:
        raise config.wrong(key, f"is {clean(repr(bits)[:40])} bits in groups of {clean(repr(group)[:40])}, not {mode}'s")
    return Packing(mode, bits, group)


def with_packed(tensors: Mapping[str, TensorInfo], quantization: Quantization, folder: Path) -> dict[str, TensorInfo]:
    """The tensors with codes, scales and biases put together, each matrix once.

    Raises:
        ModelError: they are not what config.json says; the message names the module.
    """
    joined = dict(tensors)
    paths = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    for path in paths:
        joined[f"{path}.weight"] = packed_matrix(tensors, path, quantization.of(path), folder)
        for part in ("scales", "biases"):
            joined.pop(f"{path}.{part}", None)
    for name, info in joined.items():
        promised = quantization.modules.get(name.removesuffix(".weight"))
        if info.dtype not in ITEM_SIZES or (promised and not info.packed):
            raise not_as_said(name, "has no scales", folder)
    return joined


def packed_matrix(tensors: Mapping[str, TensorInfo], path: str, packing: Packing | None, folder: Path) -> TensorInfo:
    """A quantised matrix of these tensors.

    Raises:
        ModelError: one is missing, too many, or not of the type and shape that the packing gives it.
    """
    if packing is None:
        raise not_as_said(path, "has scales, and config.json says that it is not quantised", folder)
    if f"{path}.global_scale" in tensors:
        raise not_as_said(path, "has a global scale, which is not supported", folder)
    codes, scales, biases = (tensors.get(f"{path}.{part}") for part in ("weight", "scales", "biases"))
    if codes is None or codes.dtype != "U32" or len(codes.shape) != 2 or scales is None:
        raise not_as_said(path, "has scales, but no codes (U32, two axes)", folder)
    rows, words = codes.shape
    inputs, left = divmod(32 * words, packing.bits)
    groups = (rows, inputs // packing.group)
    is_affine = packing.mode == "affine"
    types = ITEM_SIZES if is_affine else ("U8",)
    if left or not packing.fits(inputs) or scales.shape != groups or scales.dtype not in types:
        said = f"{packing.bits} bits in groups of {packing.group}"
        raise not_as_said(path, f"({codes.shape} codes, {scales.shape} scales of {scales.dtype}) is not {said}", folder)
    if (biases is not None) != is_affine or (biases and (biases.shape, biases.dtype) != (scales.shape, scales.dtype)):
        raise not_as_said(path, f"has biases of another form than {packing.mode} has them", folder)
    as_bytes = codes._replace(dtype="U8", shape=(rows, 4 * words))
    parts = (as_bytes, scales) if biases is None else (as_bytes, scales, biases)
    float_type = scales.dtype if is_affine else next((t.dtype for t in tensors.values() if t.dtype in ITEM_SIZES), "BF16")
    return TensorInfo("F32", (rows, inputs), codes.file, codes.start, codes.stop, PackedInfo(packing, parts, float_type))


def not_as_said(name: str, what: str, folder: Path) -> ModelError:
    """The error for a quantised module that contradicts config.json."""
    hint = "the weights do not belong to this config.json"
    return ModelError(f"{name[:100]} {what}", file=folder, hint=hint)
