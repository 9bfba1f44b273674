"""Writing a model folder: the files beside the weights copied, both forms of the rope written, tensors streamed."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.config_forms import both_forms
from edgetune.architecture.weights import save_safetensors, stored_as
from edgetune.files import copy_file, write_file

SIDE_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "LICENSE",
    "LICENSE.txt", "NOTICE",
)  # fmt: skip
LARGEST_FLOAT16 = 65504.0
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
STORED_TYPES = {name: stored for stored, name in DTYPES.items()}


def copy_side_files(source: Path, out: Path, dtype: str) -> None:
    """Copies tokenizer, templates, generation config and licence, and writes config.json for weights of that type."""
    for name in SIDE_FILES:
        if (source / name).is_file():
            copy_file(source / name, out / name, "side-file")
    for template in sorted((source / "additional_chat_templates").glob("*.jinja")):
        (out / template.parent.name).mkdir(exist_ok=True)
        copy_file(template, out / template.parent.name / template.name, "side-file")
    config = json.loads((source / "config.json").read_bytes())
    write_file(out / "config.json", json.dumps(portable(config, DTYPES[dtype]), indent=2) + "\n", "model-config")


def portable(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config that every reader understands alike: both forms of the rope, and of the name for the weights' type.

    What is written are floats, whatever the weights were before: nothing is said of a quantisation.
    """
    config = {key: value for key, value in config.items() if key not in ("quantization", "quantization_config")}
    return both_forms(config) | {"dtype": dtype, "torch_dtype": dtype}


def roomy(dtype: str, arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """That type, or F32 where training has led a number beyond the range of F16."""
    if dtype != "F16":
        return dtype
    return dtype if all(np.abs(array).max(initial=0) <= LARGEST_FLOAT16 for array in arrays.values()) else "F32"


def write_arrays(
    out: Path, arrays: Iterable[tuple[str, tuple[int, ...]]], get: Callable[[str], NDArray[np.float32]], dtype: str
) -> None:
    """Writes model.safetensors, each array cast once from float32."""
    save_safetensors(
        out / "model.safetensors",
        [(name, dtype, shape) for name, shape in arrays],
        lambda name: stored_as(get(name), dtype),
        {"format": "pt"},
        point="model-weights",
    )
