"""A model by any of its names: a folder, a name of the catalogue, a hub id."""

from collections.abc import Callable
from pathlib import Path

from edgetune.architecture.spec import read_spec
from edgetune.events import Event
from edgetune.hub.download import ensure


def find_model(name: str, on_event: Callable[[Event], None]) -> Path:
    """The model's folder; a hub id that is not here yet is fetched first, unless no network call may be made.

    Raises:
        ModelError, UnsupportedFamily: there is no such model here, or it is of no use.
        HubError, VerificationFailed, DiskFull: it could not be fetched.
    """
    return ensure(name, on_progress=on_event, check=refuse_unsupported)


def refuse_unsupported(folder: Path) -> None:
    """Objects to a model of a family that cannot be used, before its weights are fetched."""
    read_spec(folder)
