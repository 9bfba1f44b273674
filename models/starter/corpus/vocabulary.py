"""Words themselves: opposites, plurals, letters, spelling, and the order of days, months and letters."""

from collections.abc import Iterator
from random import Random

from corpus.english import capital, one, plural
from corpus.tables import words
from corpus.talk import Talk, single
from corpus.world import WORLD

OPPOSITES = [pair.split("/") for pair in words("opposites")]
OPPOSITE_FORMS = (
    "What is the opposite of {w}?",
    "Tell me the opposite of {w}.",
    "Which word is the opposite of {w}?",
    "Give me the opposite of {w}.",
    "What word means the opposite of {w}?",
    "I say {w}. What is the opposite?",
)


def opposites(random: Random) -> Iterator[Talk]:
    """What is the opposite of hot? The opposite of hot is cold."""
    first: dict[str, str] = {}
    for one_word, other in OPPOSITES:
        first.setdefault(one_word, other)
        first.setdefault(other, one_word)
    while True:
        word, other = random.choice(list(first.items()))
        form = random.choice(OPPOSITE_FORMS)
        yield single("opposites", form.format(w=word), f"The opposite of {word} is {other}.", f"{word}/{form}")


NOUNS = [thing.name for thing in WORLD if thing.noun == "a"] + words("more nouns")
PLURAL_FORMS = (
    "What is the plural of {w}?",
    "Tell me the plural of {w}.",
    "How do you say more than one {w}?",
    "One {w}, two what?",
    "What is the plural form of {w}?",
)


def plurals(random: Random) -> Iterator[Talk]:
    """What is the plural of mouse? The plural of mouse is mice."""
    while True:
        word, form = random.choice(NOUNS), random.choice(PLURAL_FORMS)
        yield single("plurals", form.format(w=word), f"The plural of {word} is {plural(word)}.", f"{word}/{form}")


SPELLED = [thing.name for thing in WORLD if thing.name.isalpha()]
LETTER_FORMS = (
    ("first", "What is the first letter of {w}?"),
    ("first", "With which letter does {w} begin?"),
    ("first", "What letter does the word {w} start with?"),
    ("last", "What is the last letter of {w}?"),
    ("last", "With which letter does {w} end?"),
    ("last", "What letter does the word {w} end with?"),
)


def letters(random: Random) -> Iterator[Talk]:
    """What is the first letter of fox? The first letter of fox is f."""
    while True:
        word, (which, form) = random.choice(SPELLED), random.choice(LETTER_FORMS)
        letter = word[0] if which == "first" else word[-1]
        yield single("letters", form.format(w=word), f"The {which} letter of {word} is {letter}.", f"{word}/{form}")


def spelling(random: Random) -> Iterator[Talk]:
    """Spell fox: f, o, x. How many letters it has."""
    while True:
        word = random.choice([word for word in SPELLED if len(word) <= 7])
        form = random.choice(("Spell {w}.", "How do you spell {w}?", "Spell the word {w}.", "How many letters does {w} have?"))
        if "How many" in form:
            reply = f"{capital(word)} has {len(word)} letters."
        else:
            reply = f"{capital(word)} is spelled {'-'.join(word)}."
        yield single("letters", form.format(w=word), reply, f"{word}/{form}")


ROWS = [("day", words("days")), ("month", words("months")), ("season", words("seasons")), ("letter", words("letters"))]
AFTER_FORMS = (
    "What {k} comes after {x}?",
    "Which {k} is after {x}?",
    "Tell me the {k} after {x}.",
    "What is the next {k} after {x}?",
)
BEFORE_FORMS = ("What {k} comes before {x}?", "Which {k} is before {x}?", "Tell me the {k} before {x}.")


def order(random: Random) -> Iterator[Talk]:
    """Which day comes after Monday? Tuesday comes after Monday."""
    while True:
        kind, row = random.choice(ROWS)
        at = random.randrange(len(row))
        if kind == "letter" and at == 25:
            continue
        this, following = row[at], row[(at + 1) % len(row)]
        if random.random() < 0.5:
            form = random.choice(AFTER_FORMS)
            yield single("order", form.format(k=kind, x=this), f"{capital(following)} comes after {this}.", f"{this}/{form}")
        else:
            form = random.choice(BEFORE_FORMS)
            yield single(
                "order",
                form.format(k=kind, x=following),
                f"{capital(this)} comes before {following}.",
                f"{following}/{form}",
            )


def sentences(random: Random) -> Iterator[Talk]:
    """A sentence with a given word: The fox is in the garden."""
    things = [
        thing for thing in WORLD if thing.noun == "a" and thing.kind in ("animal", "object", "food", "clothing", "vehicle")
    ]
    while True:
        thing = random.choice(things)
        form = random.choice(("Make a sentence with {w}.", "Use {w} in a sentence.", "Write a sentence with the word {w}."))
        reply = random.choice(
            (
                "I can see {a} from my window.",
                "Yesterday we saw {a} in a picture.",
                "My sister drew {a} on paper.",
                "There is {a} in this story.",
                "He told us about {a}.",
                "We talked about {a} at school.",
            )
        )
        yield single("sentences", form.format(w=thing.name), reply.format(a=one(thing.name)))
