"""`projects`: goals with their model, rows, runs and exports."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.models import confirm
from edgetune.cli.options import AsJson, EventsFile, Job, Offline, command
from edgetune.cli.output import Output, Styled, table
from edgetune.units import count, duration, size

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Argument(metavar="NAME", help="As `edgetune projects` names it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.callback(invoke_without_command=True)
def projects(context: typer.Context, as_json: AsJson = False, events: EventsFile = None, offline: Offline = False) -> None:
    """List the projects, the one that changed last first."""
    if context.invoked_subcommand is None:
        command(show)(context, as_json=as_json, events=events, offline=offline)
    elif offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def show(job: Job) -> None:
    """Shows the table."""
    from edgetune.workspace.projects import ProjectSummary, all_overviews, bytes_in, trashed

    def cells(each: ProjectSummary) -> list[str]:
        steps = f" {count(each.run.step)}/{count(each.run.total_steps)}" if each.run and each.run.total_steps else ""
        best = "" if each.best_loss is None else f"{each.best_loss:.4f}"
        model = Path(each.model).name or "-"
        changed = f"{duration(time.time() - each.changed)} ago"
        return [each.name, each.stage + steps, model, best, size(bytes_in(Path(each.folder))), changed]

    found = list(all_overviews())
    head = ["project", "stage", "model", "held-out", "disk", "changed"]
    for line in table(head, [*map(cells, found)], ["held-out", "disk"]) if found else []:
        job.output.say(*line)
    for each in found:
        if each.problem:
            job.output.note(Styled("warning:", "yellow"), f" {each.problem}")
    if not found:
        job.output.note("no projects: `edgetune projects create NAME --model MODEL --data FILE` makes one")
    removed = trashed()
    if removed:
        names = ", ".join(dict.fromkeys(each.name for each in removed))
        job.output.note(f"in the trash: {names}; `edgetune projects restore NAME` takes one out")
    job.output.document({"projects": found, "trash": removed})


def create(
    job: Job,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_' and '-'.")],
    model: Annotated[str, typer.Option(help="The base: a folder, a hub id, or a name from `edgetune models`.")] = "",
    data: Annotated[list[Path], typer.Option(metavar="FILE", help="Files of rows.")] = [],  # noqa: B006 - typer makes its own list
    goal: Annotated[str, typer.Option(metavar="TEXT", help="What it is for, in your own words.")] = "",
) -> None:
    """Make a project. Its config is then edited in the app, or in its project.toml."""
    from msgspec.structs import replace

    from edgetune.config import DataConfig, relative_to
    from edgetune.workspace import project_file, projects

    rows = DataConfig(train=[str(file.absolute()) for file in data])
    config = replace(project_file.empty_config(), data=rows)
    if model:
        config = relative_to(replace(config, model=model), Path.cwd())
    tell(job.output, projects.create(name, config, goal))


def rename(job: Job, name: Name, new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")]) -> None:
    """Give a project another name."""
    from edgetune.workspace.projects import find_project
    from edgetune.workspace.projects import rename as renamed

    tell(job.output, renamed(find_project(name), new))


def remove(job: Job, name: Name, yes: Yes = False) -> None:
    """Put a project into the trash, with its runs and exports."""
    from edgetune.workspace import projects

    project = projects.find_project(name)
    if not yes:
        confirm(job.output, f"Put {project.name} into the trash, with its runs and exports?")
    trash = projects.remove(project)
    job.output.say(f"removed {project.name}; `edgetune projects restore {project.name}` takes it out of the trash")
    job.output.document({"removed": project.name, "trash": str(trash)})


def restore(job: Job, name: Name) -> None:
    """Take a project out of the trash."""
    from edgetune.workspace import projects

    tell(job.output, projects.restore(name))


def empty_trash(
    job: Job,
    days: Annotated[float, typer.Option(min=0, help="Only what was removed so many days ago, or earlier.")] = 30,
    yes: Yes = False,
) -> None:
    """Remove for good what lies in the trash for long."""
    from edgetune.workspace import projects

    if not yes:
        confirm(job.output, f"Remove for good what was put into the trash {days:g} days ago, or earlier?")
    number = projects.empty_trash(days)
    job.output.say(f"{count(number)} projects removed for good")
    job.output.document({"removed": number})


def tell(output: Output, project: object) -> None:
    """The project as it is now."""
    from edgetune.workspace.project_file import Project
    from edgetune.workspace.projects import overview

    assert isinstance(project, Project)
    output.say(f"{project.name} in {project.folder}")
    output.say(Styled(f"     edgetune train --project {project.name}", "dim"))
    output.document({"project": overview(project)})


app.command("create")(command(create))
app.command("rename")(command(rename))
app.command("remove")(command(remove))
app.command("restore")(command(restore))
app.command("empty-trash")(command(empty_trash))
