"""What the readers of adapter folders share: adapter_config.json within bounds, and numbers that cannot be meant."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.adapters.lora import Floats, LoraAdapter
from edgetune.errors import AdapterError
from edgetune.files import clean

CONFIG_FILE = "adapter_config.json"  # of PEFT and of mlx-lm
CONFIG_LIMIT = 4_000_000  # bytes
MODULES, LARGEST_SCALE = 10_000, 1e9  # more than any adapter has
LAYER = re.compile(r"(?:\w+\.)*?layers\.(?P<number>\d{1,5})\.(?P<inside>.+)")  # a module's path, where it is in a layer
MODULE_PATH = r"\w{1,60}(?:\.\w{1,60}){0,9}"


def read_object(folder: Path) -> dict[str, Any]:
    """adapter_config.json, as it is.

    Raises:
        AdapterError: it is absent, too large, or no JSON object.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise AdapterError(f"has no {CONFIG_FILE}", file=folder, hint="give the folder of a PEFT or mlx-lm adapter, or a run")
    try:
        if file.stat().st_size > CONFIG_LIMIT:
            raise ValueError("too large")
        config = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise AdapterError("is not readable JSON", file=file, hint="get the adapter again") from None
    if not isinstance(config, dict):
        raise AdapterError("is not a JSON object", file=file, hint="get the adapter again")
    return config


def dropout_of(value: Any, key: str, file: Path) -> float:
    """A share that a config gives; none is 0.

    Raises:
        AdapterError: it is no share.
    """
    share = value or 0
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise AdapterError(f"{key} is {clean(str(share))[:60]}", file=file, hint="get the adapter again")
    return float(share)


def check_tensors(arrays: Mapping[str, Floats], file: Path) -> None:
    """What no adapter holds.

    Raises:
        AdapterError: more tensors than any adapter has, or numbers that are not finite.
    """
    if len(arrays) > 3 * MODULES:
        raise AdapterError(f"holds {len(arrays)} tensors", file=file, hint="the file is damaged, or no adapter of a decoder")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise AdapterError("holds numbers that are not finite", file=file, hint="the training that made it diverged")


def check_whole(adapter: LoraAdapter, tensors: int, file: Path) -> None:
    """Every tensor belongs to a module, and where one module has a magnitude all have.

    Raises:
        AdapterError: the file holds half of an adapter, or nothing of one.
    """
    if not adapter.factors or len(adapter.trained_arrays()) != tensors:
        raise AdapterError("holds no adapter, or half of one", file=file, hint="the file is damaged")


def public_name(base: str) -> str:
    """What a file may say of a base: a hub id as it is, of a local path only its last name. Others would learn who trained."""
    return Path(base).name if base.startswith(("/", "~", ".")) else base


def layers_of(paths: Iterable[str]) -> list[int]:
    """The layers that these modules lie in, in order. A module may lie in none (lm_head)."""
    return sorted({int(match["number"]) for path in paths if (match := LAYER.fullmatch(path))})
