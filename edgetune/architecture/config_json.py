"""A model folder's config.json, which anybody may have written: read with bounds, every wrong value named by its key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetune.errors import ModelError
from edgetune.files import clean

CONFIG_LIMIT = 4_000_000  # bytes
LARGEST = 1e300  # no number of a config is beyond


class Config:
    """A config.json with typed access: a wrong type is an error that names the key.

    `wrapper`: the model_type of the multimodal model that this is the text part of; empty where there is none.
    """

    def __init__(self, values: Mapping[str, Any], file: Path, wrapper: str = ""):
        self.values, self.file, self.wrapper = values, file, wrapper

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key, which must be of that kind; the default where it is absent or null.

        Raises:
            ModelError: it is of another kind; of numbers, also an infinite one, which transformers may write as
                {"__float__": "Infinity"}.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if kind is float and type(value) is int and abs(value) < LARGEST:
            value = float(value)
        if type(value) is not kind or (kind is float and not abs(value) < LARGEST):
            raise self.wrong(key, f"is {clean(repr(value)[:60])}, not {'a number' if kind is float else kind.__name__}")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """A whole number of at least one, and of less than a hundred million.

        Raises:
            ModelError: it is absent without a default, or out of bounds.
        """
        value = self.get(key, int, default)
        if value is None:
            raise self.wrong(key, "is missing")
        if not 1 <= value < 10**8:
            raise self.wrong(key, f"is {value}")
        return value

    def wrong(self, key: str, what: str) -> ModelError:
        """The error for a key."""
        return ModelError(f"{key} {what}", file=self.file, hint="the model folder is damaged, or not a decoder")


def read_config(folder: Path) -> Config:
    """The config.json of a model folder; a multimodal wrapper's text_config is merged into the root.

    Raises:
        ModelError: no folder, no config.json, not JSON, or one that asks for code of its own.
    """
    file = folder / "config.json"
    if not folder.is_dir():
        raise ModelError("no such model folder", file=folder, hint="give a folder, a hub id or a name from `edgetune models`")
    if not file.is_file():
        raise ModelError("has no config.json", file=folder, hint="is this a Hugging Face model folder?")
    try:
        if file.stat().st_size > CONFIG_LIMIT:
            raise ModelError("is too large to be a config", file=file, hint="get the model again")
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"is not readable JSON: {clean(str(error))}", file=file, hint="get the model again") from None
    if not isinstance(values, dict):
        raise ModelError("is not a JSON object", file=file, hint="get the model again")
    if isinstance(values.get("text_config"), dict):
        return Config({**values, **values["text_config"]}, file, wrapper=str(values.get("model_type")))
    return Config(values, file)
