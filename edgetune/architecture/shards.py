"""The files that a model's weights lie in: one, or the shards that an index names."""

import json
from collections.abc import Mapping
from pathlib import Path

from edgetune.errors import InputError, ModelError
from edgetune.files import clean, safe_join

INDEX_LIMIT = 5_000_000  # bytes


def whole_weights(folder: Path) -> Path:
    """model.safetensors, or the reason why there is none."""
    file = folder / "model.safetensors"
    if file.exists():
        return file
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"), *folder.glob("*.ckpt")]):
        raise ModelError(
            f"holds only pickled weights ({clean(pickled[0].name)}), which can run code",
            file=folder,
            hint="get its safetensors form",
        )
    raise ModelError("holds no model.safetensors", file=folder, hint="is this a Hugging Face model folder, and complete?")


def shards(index: Path) -> list[Path]:
    """The files that an index names, all of them there."""
    files = [shard(index, name) for name in sorted(set(read_index(index).values()))]
    for file in files:
        if not file.exists():
            raise ModelError(f"names the shard {file.name}, which is missing", file=index, hint="get the model again")
    return files


def shard(index: Path, name: str) -> Path:
    """A file that an index names; it must lie beside the index."""
    try:
        return safe_join(index.parent, name)
    except InputError as error:
        message = f"names {clean(name)[:100]!r} as a shard, which leaves its folder"
        raise ModelError(message, file=index, hint=error.hint) from None


def read_index(index: Path) -> dict[str, str]:
    """tensor -> file, from the JSON of an index."""
    try:
        if index.stat().st_size > INDEX_LIMIT:
            raise ValueError("too large")
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError("is not a readable index of shards", file=index, hint="get the model again") from None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError("its weight_map is not a table of names", file=index, hint="get the model again")
    return weight_map


def check_index(index: Path, files: Mapping[str, Path]) -> None:
    """An index must name just what its shards hold, where they hold it. `files`: where each tensor lies.

    Raises:
        ModelError: it does not; the message names the tensor.
    """
    weight_map = read_index(index)
    for name, file in weight_map.items():
        if files.get(name) != shard(index, file):
            message = f"names {clean(name)[:100]} in {clean(file)}, which does not hold it"
            raise ModelError(message, file=index, hint="get the model again")
    if unnamed := files.keys() - weight_map.keys():
        raise ModelError(f"does not name {min(unnamed)[:100]}, which a shard holds", file=index, hint="get the model again")
