"""Questions about the world's things that are answered with yes or no, or by one of two choices."""

from collections.abc import Iterator
from random import Random

from corpus.english import capital, lower
from corpus.talk import Talk, single
from corpus.things import columns, told
from corpus.world import WORLD, Thing, of_kind


def yes_no(random: Random) -> Iterator[Talk]:
    """Is a fox blue? No, a fox is orange."""
    while True:
        question, answer, key = random.choice((is_value, is_value, is_value, is_member, is_member, can_fly, which_kind))(random)
        yield single("yes or no", question, answer, key)


HAVE = ("Does {a} have {value}?", "Do {many} have {value}?")
ASKED_YES_NO = {
    ("animal", "colour"): ("Is {a} {value}?", "Is the colour of {a} {value}?"),
    ("animal", "home"): ("Does {a} live {value}?", "Do {many} live {value}?"),
    ("animal", "food"): ("Does {a} eat {value}?", "Do {many} eat {value}?"),
    ("animal", "legs"): HAVE,
    ("food", "colour"): ("Is {a} {value}?", "Is the colour of {a} {value}?"),
    ("food", "taste"): ("Does {a} taste {value}?", "Is the taste of {a} {value}?"),
    ("object", "use"): ("Is {a} used for {value}?", "Do people use {a} for {value}?"),
    ("object", "material"): ("Is {a} made of {value}?", "Are {many} made of {value}?"),
    ("vehicle", "moves"): ("Does {a} move {value}?", "Does {a} go {value}?"),
    ("vehicle", "wheels"): HAVE,
    ("clothing", "worn"): ("Is {a} worn {value}?", "Do you wear {a} {value}?"),
    ("job", "workplace"): ("Does {a} work {value}?", "Do {many} work {value}?"),
    ("nature", "colour"): ("Is {a} {value}?", "Is the colour of {a} {value}?"),
    ("shape", "sides"): HAVE,
}


YES_NO_FACTS = [(thing, column) for thing in WORLD for column in columns(thing) if (thing.kind, column) in ASKED_YES_NO]
LITTLE_WORDS = frozenset(["and", "in", "on", "at", "the", "a", "legs", "wheels", "sides", "body"])
CLASSES = {
    "food": (
        set(["meat", "fish", "mice", "insects", "worms", "flies", "rabbits", "frogs", "seals"]),
        set(
            [
                "grass",
                "hay",
                "leaves",
                "nuts",
                "seeds",
                "grain",
                "roots",
                "bamboo",
                "plants",
                "carrots",
                "bark",
                "twigs",
                "fruit",
                "nectar",
                "berries",
            ]
        ),
    ),
    "home": (
        set(["sea", "river", "lake", "pond", "bowl", "water"]),
        set(
            [
                "house",
                "stable",
                "farm",
                "burrow",
                "hole",
                "cage",
                "tree",
                "garden",
                "ground",
                "cave",
                "forest",
                "plains",
                "jungle",
                "desert",
                "mountains",
                "rocks",
                "anthill",
            ]
        ),
    ),
    "moves": tuple(map(set, (("roads", "paths", "fields", "rails"), ("air", "space"), ("water",), ("snow",)))),
}
"""Columns of which one thing may have several values: only values of different classes are denied."""


def is_value(random: Random) -> tuple[str, str, str]:
    """Is a fox orange? Yes, a fox is orange."""
    thing, column = random.choice(YES_NO_FACTS)
    value = thing.told(column)
    if random.random() < 0.5:
        value = other_value(thing, column, random)
    form = random.choice(ASKED_YES_NO[thing.kind, column])
    yes = value == thing.told(column)
    reply = f"{'Yes' if yes else 'No'}, {lower(told(thing, column))}"
    return form.format(**thing.words | {"value": value}), reply, f"{thing.name}/{column}/{form}/{value}"


def other_value(thing: Thing, column: str, random: Random) -> str:
    """A value of another thing of the kind that surely is not this one's; the thing's own where there is none."""
    own = thing.told(column)
    others = sorted({other.told(column) for other in of_kind(thing.kind) if column in other.facts})
    return random.choice([value for value in others if apart(own, value, column)] or [own])


def apart(own: str, value: str, column: str) -> bool:
    """Whether two values exclude each other: words of different classes, or no word in common."""
    one_words, other_words = set(own.split()), set(value.split())
    if column not in CLASSES:
        return not (one_words & other_words) - LITTLE_WORDS
    one_classes, other_classes = (
        {number for number, known in enumerate(CLASSES[column]) if known & words} for words in (one_words, other_words)
    )
    return bool(one_classes and other_classes and not one_classes & other_classes)


def is_member(random: Random) -> tuple[str, str, str]:
    """Is an owl a fish? No, an owl is a bird."""
    thing = random.choice(of_kind("animal", "food", "instrument", "object"))
    group = thing.told("group")
    if random.random() < 0.5:
        group = random.choice([other for other in of_kind(thing.kind) if other.facts["group"] != thing.facts["group"]]).told(
            "group"
        )
    form = random.choice(("Is {a} {value}?", "Would you say that {a} is {value}?", "Is it true that {a} is {value}?"))
    right = group == thing.told("group")
    reply = f"{'Yes' if right else 'No'}, {thing.a} is {thing.told('group')}."
    return form.format(**thing.words, value=group), reply, f"{thing.name}/member/{form}/{group}"


def can_fly(random: Random) -> tuple[str, str, str]:
    """Can a penguin fly? No, a penguin cannot fly."""
    thing = random.choice([thing for thing in of_kind("animal") if "flies" in thing.facts])
    form = random.choice(("Can {a} fly?", "Do {many} fly?", "Is {a} able to fly?"))
    reply = f"Yes, {thing.a} can fly." if thing.facts["flies"] == "yes" else f"No, {thing.a} cannot fly."
    return form.format(**thing.words), reply, f"{thing.name}/flies/{form}"


def which_kind(random: Random) -> tuple[str, str, str]:
    """Is an owl an animal or a vehicle? An owl is an animal."""
    names = {"animal": "an animal", "food": "food", "vehicle": "a vehicle", "place": "a place"}
    thing = random.choice(of_kind(*names))
    choices = [thing.kind, random.choice([kind for kind in names if kind != thing.kind])]
    random.shuffle(choices)
    form = random.choice(("Is {a} {x} or {y}?", "What is {a}: {x} or {y}?"))
    question = form.format(**thing.words | {"x": names[choices[0]], "y": names[choices[1]]})
    return question, f"{capital(thing.a)} is {names[thing.kind]}.", question
