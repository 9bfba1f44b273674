"""The base models that EdgeTune knows by name: one TOML file each, in the project's models/ folder or in the wheel."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from edgetune.errors import ModelError

BYTES_PER_PARAMETER = 2  # the hub's models are stored in bfloat16


class BaseModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of the catalogue."""

    name: str
    summary: Annotated[str, Meta(description="one line for people")]
    family: Annotated[str, Meta(description="model_type in config.json")]
    license: Annotated[str, Meta(description="as its model card names it")]
    parameters: Annotated[int, Meta(ge=0, description="a tied head counted once; 0: count those of its files")] = 0
    repository: Annotated[str, Meta(description="on the hub; none for a model that comes with EdgeTune")] = ""
    revision: str = "main"
    files: Annotated[list[str], Meta(min_length=1, description="without these it is not whole")]
    gated: Annotated[bool, Meta(description="its licence is accepted on the hub before it can be fetched")] = False
    config: Annotated[
        dict[str, int | bool], Meta(description="its shape in the keys of config.json, to plan with before it is here")
    ] = field(default_factory=lambda: dict[str, int | bool]())

    @property
    def folder(self) -> Path | None:
        """Where it lies, if it comes with EdgeTune."""
        return None if self.repository else models_folder() / self.name

    @property
    def about_bytes(self) -> int:
        """Its size on the disk, from the number of its parameters."""
        return self.parameters * BYTES_PER_PARAMETER


def models_folder() -> Path:
    """The folder with the catalogue and the starter model: in the installed package, or beside it in a checkout."""
    package = Path(str(files("edgetune")))
    inside = package / "_models"
    return inside if inside.is_dir() else package.parent / "models"


@cache
def catalogue() -> tuple[BaseModel, ...]:
    """Every entry, the smallest model first.

    Raises:
        ModelError: an entry cannot be read.
    """
    entries = [read_entry(file) for file in (models_folder() / "catalog").glob("*.toml")]
    return tuple(sorted(entries, key=lambda entry: entry.parameters))


def read_entry(file: Path) -> BaseModel:
    """One file of the catalogue.

    Raises:
        ModelError: it is not TOML, or a key is unknown, absent or of the wrong type.
    """
    try:
        return msgspec.toml.decode(file.read_bytes(), type=BaseModel)
    except (OSError, ValueError) as error:
        raise ModelError(f"is no catalogue entry: {error}", file=file, hint="install EdgeTune again") from None


def find(name: str) -> BaseModel | None:
    """The entry of that name or repository; capitals do not matter."""
    wanted = name.casefold()
    named = (entry for entry in catalogue() if wanted in (entry.name, entry.repository.casefold()))
    return next(named, None) if wanted else None


def starter() -> Path:
    """The folder of EdgeTune's own small model."""
    return models_folder() / "starter"
