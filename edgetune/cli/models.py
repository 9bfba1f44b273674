"""`models`: the catalogue and the models on this machine; get, import and remove them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetune.cli.options import AsJson, Detach, EventsFile, Job, Offline, command
from edgetune.cli.output import Output, Styled, table
from edgetune.errors import EdgeTuneError, InputError, ModelError
from edgetune.units import parameters, size

if TYPE_CHECKING:
    from edgetune.architecture.spec import ModelSpec

HEADS = ("model", "size", "disk", "family", "licence", "training", "here")

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A model of the library, as `edgetune models` names it.")]


@dataclass(frozen=True)
class ModelRow:
    """One model as the list shows it; `path` is None where it is not on this machine.

    `to_train`: the bytes of a usual run by part; empty where the model cannot be used. `fits`: this machine can give them.
    """

    name: str
    repository: str
    path: Path | None
    family: str
    parameters: int
    bytes: int
    license: str
    fits: bool
    problem: str = ""
    summary: str = ""
    gated: bool = False  # its licence is accepted on the hub first
    layers: int = 0
    context: int = 0  # tokens
    template: bool = True  # it has a chat template
    to_train: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    to_train_bytes: int = 0


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: AsJson = False, events: EventsFile = None, offline: Offline = False) -> None:
    """List the models, those here and those to get. It tells which of them this machine can train."""
    if context.invoked_subcommand is None:
        command(show)(context, as_json=as_json, events=events, offline=offline)
    elif offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def show(job: Job) -> None:
    """Shows the table, and what is unfinished."""
    from edgetune.hardware import usable_memory
    from edgetune.hub.connection import is_offline
    from edgetune.hub.library import unfinished

    rows, broken_off = rows_of_all(), unfinished()
    for line in table(HEADS, [cells(row) for row in rows], right=("size", "disk")):
        job.output.say(*line)
    job.output.say()
    job.output.say("`edgetune models get NAME` downloads one, or any ORGANISATION/NAME of the hub")
    for row in rows:
        if row.problem:
            job.output.note(Styled("warning:", "yellow"), f" {row.name} cannot be used: {row.problem}")
    for left in broken_off:
        job.output.note(f"{left.name} is not complete ({size(left.bytes)} are here): `edgetune models get {left.name}`")
    job.output.document(
        {
            "models": rows,
            "unfinished": [left._asdict() for left in broken_off],
            "usable_bytes": usable_memory(),
            "offline": is_offline(),
        }
    )


def cells(row: ModelRow) -> Sequence[str]:
    """One line of the table."""
    known = row.parameters > 0
    fit = "-" if not known else "fits" if row.fits else "too large"
    here = "no" if row.path is None else "damaged" if row.problem else "yes"
    disk = size(row.bytes) if row.bytes else "-"
    return (row.name, parameters(row.parameters) if known else "-", disk, row.family, row.license, fit, here)


def rows_of_all() -> list[ModelRow]:
    """The catalogue, the smallest model first, and then what else the library holds."""
    from edgetune.hub import catalog, library

    here = library.installed()
    rows: list[ModelRow] = []
    for entry in catalog.catalogue():
        folder = entry.folder or library.find_installed(entry.repository)
        here = {name: path for name, path in here.items() if path != folder}
        rows.append(row_of(entry.name, folder) if folder else known_row(entry.name))
    return rows + [row_of(name, folder) for name, folder in here.items()]


def known_row(name: str) -> ModelRow:
    """A model of the catalogue that is not on this machine."""
    from edgetune.architecture.spec import known_spec
    from edgetune.hub import catalog

    entry = catalog.find(name)
    assert entry is not None
    facts = facts_of(known_spec(entry.family, entry.config), entry.about_bytes)
    return ModelRow(
        entry.name, entry.repository, None, entry.family, entry.parameters, entry.about_bytes, entry.license,
        summary=entry.summary, gated=entry.gated, **facts,
    )  # fmt: skip


def row_of(name: str, folder: Path) -> ModelRow:
    """A model on this machine, by what its own files say; one that cannot be used says why."""
    from edgetune.architecture.load import check_shapes
    from edgetune.architecture.spec import read_spec
    from edgetune.architecture.weights import WeightFolder
    from edgetune.hub import catalog, library
    from edgetune.text.chat_template import named_templates

    entry, record = catalog.find(name), library.read_record(folder)
    repository = entry.repository if entry else record.source if record and "/" in record.source else ""
    license = (entry.license if entry else "") or (record.license if record else "")
    family, number, problem = entry.family if entry else "", entry.parameters if entry else 0, ""
    facts: dict[str, Any] = {"fits": False}
    try:
        spec = read_spec(folder)
        weights = WeightFolder(folder)
        family, number = spec.family, numbers_of(spec)
        check_shapes(spec, weights, folder)
        facts = {**facts_of(spec, weights.stored_bytes), "template": bool(named_templates(folder))}
    except EdgeTuneError as error:
        problem = error.message
    stored = sum(file.stat().st_size for file in library.model_files(folder))
    summary, gated = (entry.summary, entry.gated) if entry else ("", False)
    return ModelRow(
        name, repository, folder, family, number, stored, license,
        problem=problem, summary=summary, gated=gated, **facts,
    )  # fmt: skip


def numbers_of(spec: "ModelSpec") -> int:
    """How many numbers its files hold."""
    import math

    from edgetune.architecture.load import parameter_shapes

    return sum(math.prod(shape) for shape in parameter_shapes(spec).values())


def facts_of(spec: "ModelSpec", stored_bytes: int) -> dict[str, Any]:
    """What follows from a model's shape: its layers, its context, and what training it takes here."""
    from edgetune.hardware import usable_memory
    from edgetune.workspace.fitting import memory_to_train

    parts = memory_to_train(spec, stored_bytes)
    need = sum(parts.values())
    return {
        "fits": need <= usable_memory(),
        "layers": spec.layers,
        "context": spec.max_positions,
        "to_train": {part: number for part, number in parts.items() if number},
        "to_train_bytes": need,
    }


def get(
    job: Job,
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="ORGANISATION/NAME, also with @REVISION, or a name of the catalogue.")
    ],
    detach: Detach = False,
) -> None:
    """Download a model from the hub. Verified by SHA-256; continues where an earlier download was broken off."""
    if detach:
        from edgetune.cli.detached import begin, without

        return begin(job, without(job.arguments))
    from edgetune.architecture.spec import read_spec
    from edgetune.hub.catalog import find
    from edgetune.hub.download import get as download
    from edgetune.hub.library import name_of

    folder = download(repository, on_progress=job.event, check=read_spec)
    entry = find(repository.partition("@")[0])
    tell_new(job, row_of(entry.name if entry else name_of(folder), folder))


def import_model(
    job: Job,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A Hugging Face model folder.")],
    name: Annotated[str, typer.Option("--name", help="What to call it; else as the folder is called.")] = "",
) -> None:
    """Verify a model folder of your own and copy it into the library."""
    from edgetune.architecture.load import check_shapes
    from edgetune.architecture.spec import read_spec
    from edgetune.architecture.weights import WeightFolder
    from edgetune.hub.library import import_folder

    if not path.is_dir():
        raise ModelError("no such folder", file=path, hint="give the folder that holds config.json")
    check_shapes(read_spec(path), WeightFolder(path), path)
    name = name or path.resolve().name
    tell_new(job, row_of(name, import_folder(path, name, job.event)))


def tell_new(job: Job, row: ModelRow) -> None:
    """The model that just came, and how to use it.

    Raises:
        InputError: its files are what was promised, and yet no model that can be used.
    """
    if row.problem:
        raise InputError(row.problem, hint=f"`edgetune models remove {row.name}` makes room again")
    job.output.say(f"{row.name}: {parameters(row.parameters)} parameters, {row.family}, {size(row.bytes)}")
    job.output.say(f'in {row.path}; in a config: model = "{row.name}"')
    job.output.document({"models": [row]})


def remove(job: Job, name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Remove a model of the library, or a download that was broken off."""
    from edgetune.hub import library

    if not yes:
        confirm(job.output, f"Remove {name} from this machine?")
    library.remove(name)
    job.output.say(f"removed {name}")
    job.output.document({"removed": name, "models": rows_of_all()})


def confirm(output: Output, question: str) -> None:
    """Goes on only after a yes.

    Raises:
        InputError: nobody is there to answer.
        Abort: the answer is no.
    """
    if output.as_json or not sys.stdin.isatty():
        raise InputError("nobody can be asked here", hint="add --yes to remove it without a question")
    typer.confirm(question, abort=True, err=True)


app.command("get")(command(get))
app.command("import")(command(import_model))
app.command("remove")(command(remove))
