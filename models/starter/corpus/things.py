"""Questions about the world's things: their properties, comparisons, lists, and the one that does not belong."""

from collections.abc import Iterator
from random import Random

from corpus.english import capital, listed, lower, plural
from corpus.properties import ASK_DEFINITION, DEFINITIONS, PROPERTIES
from corpus.talk import Talk, Turn, single
from corpus.world import SIZES, WORLD, Thing, of_kind

CATEGORIES = {
    "animal": of_kind("animal"),
    "food": of_kind("food"),
    "vehicle": of_kind("vehicle"),
    "place": of_kind("place"),
    "job": of_kind("job"),
    "shape": of_kind("shape"),
    "musical instrument": of_kind("instrument"),
    "part of the body": of_kind("body"),
    "piece of clothing": of_kind("clothing"),
} | {
    group: [thing for thing in WORLD if thing.facts.get("group") == group]
    for group in (
        "mammal",
        "bird",
        "fish",
        "insect",
        "fruit",
        "vegetable",
        "drink",
        "tool",
        "toy",
        "piece of furniture",
    )
}


def columns(thing: Thing) -> list[str]:
    """The properties that are known of a thing."""
    return [column for column in PROPERTIES[thing.kind] if column in thing.facts]


def told(thing: Thing, column: str) -> str:
    """The sentence that tells one property."""
    return PROPERTIES[thing.kind][column].reply.format(**thing.words, value=thing.told(column))


def definition(thing: Thing, random: Random) -> Turn:
    """What is a fox? A fox is a mammal that lives in the forest."""
    ask = random.choice(ASK_DEFINITION)
    reply = DEFINITIONS[thing.kind].format(**thing.words)
    return Turn(ask.format(**thing.words), reply, f"{thing.name}/is/{ask}")


def asked(thing: Thing, column: str, random: Random) -> Turn:
    """What does a fox eat? A fox eats mice and berries."""
    ask = random.choice(PROPERTIES[thing.kind][column].asks)
    return Turn(ask.format(**thing.words), told(thing, column), f"{thing.name}/{column}/{ask}")


def asked_later(thing: Thing, column: str, random: Random) -> Turn:
    """What does it eat? A fox eats mice and berries."""
    ask = random.choice(PROPERTIES[thing.kind][column].later)
    return Turn(ask, told(thing, column), f"{thing.name}/{column}/{ask}")


def facts(random: Random) -> Iterator[Talk]:
    """One thing, one to three questions."""
    while True:
        thing = random.choice(WORLD)
        known = columns(thing)
        random.shuffle(known)
        first = definition(thing, random) if not known or random.random() < 0.25 else asked(thing, known.pop(), random)
        more = known[: random.choice((0, 0, 0, 1, 2))]
        yield Talk("facts", (first, *(asked_later(thing, column, random) for column in more)))


def compare(random: Random) -> Iterator[Talk]:
    """Which is bigger, a mouse or a horse? A horse is bigger than a mouse."""
    for talk, _, _ in compared(random):
        yield talk


def compared(random: Random) -> Iterator[tuple[Talk, Thing, Thing]]:
    """The same, and what is compared, in the question's order."""
    sized = [thing for thing in WORLD if "size" in thing.facts]
    while True:
        first, second = random.sample(sized, 2)
        ranks = [SIZES.index(thing.facts["size"]) for thing in (first, second)]
        if abs(ranks[0] - ranks[1]) < (1 if first.kind == second.kind else 2):
            continue
        bigger, smaller = (first, second) if ranks[0] > ranks[1] else (second, first)
        word, answer = random.choice(
            (
                ("bigger", f"{capital(bigger.a)} is bigger than {smaller.a}."),
                ("smaller", f"{capital(smaller.a)} is smaller than {bigger.a}."),
            )
        )
        form = random.choice(
            (
                "Which is {word}, {x} or {y}?",
                "What is {word}: {x} or {y}?",
                "Tell me which is {word}, {x} or {y}.",
                "Is {x} {word} than {y}?",
            )
        )
        if form.startswith("Is"):
            answer = f"{'Yes' if capital(first.a) in answer else 'No'}, {lower(answer)}"
        yield single("compare", form.format(word=word, x=first.a, y=second.a), answer), first, second


def name_some(random: Random) -> Iterator[Talk]:
    """Name three birds. An owl, a crow and a swan."""
    while True:
        category, members = random.choice(sorted(CATEGORIES.items()))
        amount = random.choice((1, 2, 2, 3, 3, 3, 4))
        if amount > len(members):
            continue
        names = [thing.a for thing in random.sample(members, amount)]
        word = ("one", "two", "three", "four")[amount - 1]
        form = random.choice(
            ("Name {n} {c}.", "Tell me {n} {c}.", "Can you name {n} {c}?", "Give me {n} {c}, please.", "List {n} {c}.")
        )
        asked_for = category if amount == 1 else plural(category)
        yield single("lists", form.format(n=word, c=asked_for), f"{capital(listed(names))}.")


ODD_KINDS = ("animal", "food", "vehicle", "job", "clothing", "instrument", "shape")
ODD_NAMES = {"food": "something to eat or drink", "clothing": "something to wear"}


def odd_one(random: Random) -> Iterator[Talk]:
    """Which word does not belong: owl, hammer, crow? Hammer: the others are animals."""
    while True:
        kind, other = random.sample(ODD_KINDS, 2)
        same, odd = random.sample(of_kind(kind), random.choice((2, 3))), random.choice(of_kind(other))
        words = [thing.name for thing in (*same, odd)]
        random.shuffle(words)
        form = random.choice(("Which word does not belong: {w}?", "Which one is different: {w}?", "Find the odd one out: {w}."))
        yield single("odd one out", form.format(w=", ".join(words)), f"{capital(odd.name)}.")
