"""The models on this machine: where each lies, where it came from, and how it comes and goes whole.

A model from the hub lies in EDGETUNE_HOME/models/ORGANISATION--NAME, an imported one under its own name. The folder's
name, and nothing in it, says which model it is; its record tells where it came from.
"""

import difflib
import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from edgetune.errors import InputError, ModelError
from edgetune.events import Progress, Warned
from edgetune.files import (
    clean,
    copy_file,
    discard,
    disk_errors,
    home,
    require_space,
    safe_name,
    sweep,
    whole_folder,
    write_file,
)
from edgetune.hub import catalog
from edgetune.hub.listing import is_wanted

RECORD = ".edgetune.json"
LIST_HINT = "`edgetune models` lists the models that are known here"
OnProgress = Callable[[Progress | Warned], None]
Check = Callable[[Path], object]


class Record(Struct, frozen=True):
    """Where a model came from; lies in its folder."""

    source: str
    commit: str = ""
    license: str = ""
    files: dict[str, str] = field(default_factory=lambda: dict[str, str]())


class Unfinished(NamedTuple):
    """A download that has not come to its end."""

    name: str
    bytes: int


def shelf() -> Path:
    """The folder that holds all models of this person."""
    return home() / "models"


def place_of(name: str) -> Path:
    """Where a model of that name lies, or will lie.

    Raises:
        InputError: it cannot be a name.
    """
    *organisation, last = name.split("/", 1)
    return shelf() / "--".join(safe_name(part) for part in [*organisation, last])


def unfinished_place(place: Path) -> Path:
    """Where the download for `place` lies until it is whole; no sweep removes it."""
    return place.with_name(f".{place.name}.download")


def name_of(place: Path) -> str:
    """The name that a person uses for the model in that folder."""
    return place.name.replace("--", "/", 1)


def installed() -> dict[str, Path]:
    """Every model of the library by name, in alphabetical order."""
    folders = sorted(shelf().glob("[!.]*"), key=lambda path: path.name.casefold())
    return {name_of(folder): folder for folder in folders if folder.is_dir()}


def find_installed(name: str) -> Path | None:
    """The folder of a model of the library; capitals do not matter, as on the disks of a Mac."""
    wanted = name.replace("/", "--").casefold()
    return next((folder for folder in installed().values() if folder.name.casefold() == wanted), None)


def unfinished() -> list[Unfinished]:
    """Downloads that were broken off; `models get` continues them."""
    return [
        Unfinished(name_of(folder.with_name(folder.name[1:].removesuffix(".download"))), bytes_in(folder))
        for folder in sorted(shelf().glob(".*.download"))
    ]


def bytes_in(folder: Path) -> int:
    """The bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a download beside us may just have ended
            total += path.stat().st_size if path.is_file() else 0
    return total


def read_record(folder: Path) -> Record | None:
    """Where a model came from; None where no readable record lies in its folder."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, ValueError):
        return None


def write_record(folder: Path, record: Record) -> None:
    """Puts the record into a folder that is not visible yet."""
    write_file(folder / RECORD, msgspec.json.encode(record), "record")


def resolve(name: str) -> Path:
    """The folder of a model that is given as a folder, a name of the catalogue, or a name of the library.

    Raises:
        ModelError: there is none; the hint is the command that gets it, where one does.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError("is a file, not a model folder", file=path, hint="give the folder that holds config.json")
    known = catalog.find(name)
    if known and known.folder:
        return known.folder
    wanted = known.repository if known else name
    folder = find_installed(wanted)
    if folder:
        return folder
    if known or (name.count("/") == 1 and is_name(name)):
        raise ModelError(f"{wanted} is not on this machine", hint=f"edgetune models get {wanted}")
    if "/" in name or name.startswith((".", "~")):
        raise ModelError("no such folder", file=clean(name), hint=LIST_HINT)
    raise ModelError(f"no model is called {clean(name)!r}", hint=nearest(name))


def is_name(name: str) -> bool:
    """Whether it could be a model's name."""
    try:
        return bool(place_of(name))
    except InputError:
        return False


def nearest(name: str) -> str:
    """The hint that names the known model most like `name`."""
    near = difflib.get_close_matches(name, [*(entry.name for entry in catalog.catalogue()), *installed()], 1)
    return f"did you mean {near[0]}?" if near else LIST_HINT


def import_folder(source: Path, name: str, on_progress: OnProgress) -> Path:
    """Copies the model files of a folder into the library; code, pickles and all else stay behind.

    Raises:
        InputError: the name is taken or is none, or another process changes the library.
        DiskFull: too little room, before or while copying.
    """
    place = place_of(name)
    if catalog.find(name) or find_installed(name):
        raise InputError(f"there is a model called {name} already", hint="choose another name with --name")
    files = model_files(source)
    total = sum(path.stat().st_size for path in files)
    require_space(place, total)
    with locked(shelf()):
        sweep(shelf())
        with whole_folder(place, "import") as part:
            done = 0
            for path in files:
                on_progress(Progress(stage=f"copying {path.name}", done=done, total=total, unit="bytes"))
                (part / path.relative_to(source)).parent.mkdir(exist_ok=True)
                copy_file(path, part / path.relative_to(source), "import-file")
                done += path.stat().st_size
            write_record(part, Record(source="import"))
    on_progress(Progress(stage="copied", done=total, total=total, unit="bytes"))
    return place


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that are the model; pipes and devices are none."""
    inside = [*folder.glob("*"), *folder.glob("*/*.jinja")]
    return [path for path in sorted(inside) if is_wanted(path.relative_to(folder).as_posix()) and path.is_file()]


def remove(name: str) -> None:
    """Removes a model of the library, and what there is of its download.

    Raises:
        ModelError: it is none of the library's.
        InputError: it is being downloaded at the moment.
    """
    known = catalog.find(name)
    wanted = known.repository if known else name
    place = find_installed(wanted) or (place_of(wanted) if is_name(wanted) else None)
    if place is None or not (place.exists() or unfinished_place(place).exists()):
        raise ModelError(f"{clean(name)} is not a model of the library", hint=LIST_HINT)
    kept = unfinished_place(place)
    if kept.exists():
        with locked(kept):
            discard(kept, "remove")
    if place.exists():
        discard(place, "remove")


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Holds a folder for this process and makes it where there is none; the lock dies with the process.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another edgetune is at work in {folder}", hint="wait for it, or end it") from None
        yield
    finally:
        os.close(descriptor)
