"""The commands as the README lists them, made from their own help: `python -m edgetune.cli.reference`."""

from collections.abc import Iterator
from typing import Any

import typer.main

from edgetune.cli.main import app
from edgetune.cli.output import Output

SHARED = {"as_json", "events", "offline", "backend", "help"}


def reference() -> str:
    """A Markdown table of every command with its own arguments; those that all commands share are left out."""
    lines = ["| command | does |", "|---|---|"]
    lines += [f"| `{usage}` | {sentence} |" for usage, sentence in commands(typer.main.get_command(app), "")]
    return "\n".join(lines)


def commands(group: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(usage, first sentence of the help) of each command, a group's own before its members'."""
    for name, command in group.commands.items():
        usage = " ".join([f"{prefix}{name}", *(usage_of(each) for each in command.params if each.name not in SHARED)])
        yield usage, command.help.split("\n")[0].partition(". ")[0].rstrip(".")
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")


def usage_of(parameter: Any) -> str:
    """An argument by its name; an option with what it takes. In brackets what may be left out."""
    takes = (parameter.metavar or parameter.name).upper()
    if parameter.param_type_name == "argument":
        shown = takes + ("…" if parameter.nargs != 1 else "")
    else:
        shown = parameter.opts[0] + ("" if parameter.is_flag else f" {takes}")
    return shown if parameter.required else f"[{shown}]"


if __name__ == "__main__":
    Output().say(reference())
