"""People and invented words: whom contexts and stories are about."""

from random import Random
from typing import NamedTuple

from corpus.tables import HERE, LISTS, words
from corpus.world import WORLD

BOYS, GIRLS = words("boys"), words("girls")
STARTS, MIDDLES, ENDS = words("starts"), words("middles"), words("ends")
EVERYDAY = (HERE / "everyday.txt").read_text("utf-8").split()
LISTED = [word for lists in LISTS.values() for name in lists for word in lists[name]]
KNOWN = frozenset(word.lower() for text in (*EVERYDAY, *LISTED, *(thing.name for thing in WORLD)) for word in text.split())


class Person(NamedTuple):
    """Someone in a story."""

    name: str
    he: str
    him: str
    his: str


def person(random: Random) -> Person:
    """Someone: now and then with a name that nobody has."""
    if random.random() < 0.15:
        name = invented(random).capitalize()
        return random.choice((Person(name, "he", "him", "his"), Person(name, "she", "her", "her")))
    if random.random() < 0.5:
        return Person(random.choice(BOYS), "he", "him", "his")
    return Person(random.choice(GIRLS), "she", "her", "her")


def people(random: Random, amount: int) -> list[Person]:
    """Several people with different names."""
    found: dict[str, Person] = {}
    while len(found) < amount:
        someone = person(random)
        found[someone.name] = someone
    return list(found.values())


def invented(random: Random) -> str:
    """A word that is in no dictionary: blick, tramoo. Reading it back teaches to copy what was never seen."""
    while True:
        word = random.choice(STARTS) + random.choice(MIDDLES)
        if random.random() < 0.4:
            word += random.choice(ENDS)
        else:
            word += random.choice(STARTS)[0] + random.choice(MIDDLES) + random.choice(("", random.choice(ENDS)))
        if word not in KNOWN:
            return word


def invented_many(random: Random, amount: int) -> list[str]:
    """Several different invented words."""
    found: dict[str, None] = {}
    while len(found) < amount:
        found[invented(random)] = None
    return list(found)
