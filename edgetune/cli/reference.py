"""Commands and config as the README lists them, made from the code itself: `python -m edgetune.cli.reference`."""

from collections.abc import Iterator
from typing import Any

import msgspec
import typer.main

from edgetune.cli.main import app
from edgetune.cli.output import Output
from edgetune.config import RunConfig, toml_value

EXAMPLES = {"model": '"HuggingFaceTB/SmolLM2-135M-Instruct"', "train": '["train.jsonl"]'}
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


def config_reference() -> str:
    """A TOML file with every key, its default and what it means."""
    lines: list[str] = []
    for field in msgspec.inspect.type_info(RunConfig).fields:  # pyright: ignore[reportAttributeAccessIssue]
        kind = field.type
        if isinstance(kind, msgspec.inspect.StructType):
            lines += ["", f"[{field.name}]", *(key_line(each) for each in kind.fields)]
        else:
            lines.append(key_line(field))
    return "\n".join(lines)


def key_line(field: msgspec.inspect.Field) -> str:
    """One key: its default, or its type in angle brackets where it must be given, and its description."""
    default = field.default if field.default is not msgspec.NODEFAULT else None
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    shown = toml_value(default) if default is not None else EXAMPLES[field.name]
    kind, meaning = field.type, ""
    if isinstance(kind, msgspec.inspect.Metadata):
        meaning, kind = (kind.extra_json_schema or {}).get("description", ""), kind.type
    choices = f"{' | '.join(map(str, kind.values))}: " if isinstance(kind, msgspec.inspect.LiteralType) else ""
    return f"{f'{field.name} = {shown}':<34} # {choices}{meaning}"


if __name__ == "__main__":
    Output().say(f"{reference()}\n\n{config_reference()}")
