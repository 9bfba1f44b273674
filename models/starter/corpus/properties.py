"""How the world's columns are told and asked for: the sections of properties.md."""

from typing import NamedTuple

from corpus.tables import HERE

DEFINITION = "what it is"


class Property(NamedTuple):
    """One column of a table: the answer, the questions that name the thing, and those that follow once it was named."""

    reply: str
    asks: tuple[str, ...]
    later: tuple[str, ...]


def load_properties() -> dict[str, dict[str, Property]]:
    """The properties of every kind of thing, in the file's order."""
    kinds: dict[str, dict[str, Property]] = {}
    for section in (HERE / "properties.md").read_text("utf-8").split("\n## ")[1:]:
        kind, *columns = section.split("\n### ")
        kinds[kind.strip()] = {}
        for column in columns:
            name, *lines = column.splitlines()
            shared = "as for anything" in lines
            kinds[kind.strip()][name] = kinds["anything"][name] if shared else read_property(lines)
    return kinds


def read_property(lines: list[str]) -> Property:
    """One column's answer and questions, by the sign that each line begins with."""

    def after(sign: str) -> tuple[str, ...]:
        return tuple(line.removeprefix(sign) for line in lines if line.startswith(sign))

    return Property("".join(after("> ")), after("- "), after("+ "))


PROPERTIES = load_properties()
ASK_DEFINITION = PROPERTIES["anything"].pop(DEFINITION).asks
DEFINITIONS = {kind: columns.pop(DEFINITION).reply for kind, columns in PROPERTIES.items() if DEFINITION in columns}
