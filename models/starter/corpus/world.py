"""The things of world.md and the sentences about them."""

from dataclasses import dataclass
from functools import cached_property

from corpus.english import capital, count, one, plural
from corpus.tables import HERE, load_table_rows

COUNTED = {"legs": "leg", "wheels": "wheel", "sides": "side"}
NAMED = ("group", "young")
SIZES = ("tiny", "small", "medium", "big", "huge")


@dataclass(frozen=True)
class Thing:
    """One row of a table: a fox, with all that is said of it."""

    kind: str
    name: str
    noun: str
    facts: dict[str, str]

    @property
    def a(self) -> str:
        """The name with its article: a fox, rice, the sun."""
        return {"a": one(self.name), "some": self.name, "the": f"the {self.name}"}[self.noun]

    @cached_property
    def words(self) -> dict[str, str]:
        """What the templates' places are filled with."""
        told = {column: self.told(column) for column in self.facts}
        return told | {"a": self.a, "A": capital(self.a), "name": self.name, "many": plural(self.name)}

    def told(self, column: str) -> str:
        """A fact as it stands in a sentence: `4` becomes "four legs", `mammal` becomes "a mammal"."""
        value = self.facts[column]
        if column == "number":
            return count(int(value), self.name)
        if column in COUNTED:
            return count(int(value), COUNTED[column])
        if column == "size" and value == "medium":
            return "of medium size"
        return one(value) if column in NAMED and "food" not in value else value


def load_world() -> list[Thing]:
    """Every thing of world.md, in the file's order."""
    rows = load_table_rows(HERE / "world.md")
    return [Thing(kind, facts.pop("name"), facts.pop("noun", "a"), facts) for kind, facts in rows]


WORLD = load_world()


def of_kind(*kinds: str) -> list[Thing]:
    """The things of some tables."""
    return [thing for thing in WORLD if thing.kind in kinds]
