"""Copying from the message: say it again, say it backwards, the first word, the last word, how many words."""

from collections.abc import Iterator
from random import Random

from corpus.english import capital, listed, number
from corpus.people import invented_many
from corpus.tables import words
from corpus.talk import Talk, single

COPIED = ("things to have", "pets", "colours", "dishes", "places to go")


def copying(random: Random) -> Iterator[Talk]:
    """Repeat after me: cup, ball. Cup, ball."""
    while True:
        said = random.sample(words(random.choice(COPIED)), random.choice((2, 3, 3, 4)))
        if random.random() < 0.3:
            said = invented_many(random, len(said))
        colour, thing, spot = (random.choice(words(kind)) for kind in ("colours", "things to have", "spots"))
        question, reply = random.choice(tasks(said, f"The {colour} {thing} is {spot}."))
        yield single("copying", question, reply)


def tasks(said: list[str], sentence: str) -> list[tuple[str, str]]:
    """What can be asked for, each with its answer."""
    row = ", ".join(said)
    return [
        (f"Repeat after me: {row}.", f"{capital(row)}."),
        (f"Say this again: {sentence}", sentence),
        (f"Repeat: {sentence}", sentence),
        (f"Say {said[0]} three times.", f"{capital(said[0])}, {said[0]}, {said[0]}."),
        (f"Say these words backwards: {row}.", f"{capital(', '.join(reversed(said)))}."),
        (f"What is the first word here: {row}?", f"The first word is {said[0]}."),
        (f"What is the last word here: {row}?", f"The last word is {said[-1]}."),
        (f"How many words are these: {row}?", f"These are {number(len(said))} words."),
        (f"Join these words with and: {row}.", f"{capital(listed(said))}."),
        (f"Which word comes after {said[0]}: {row}?", f"{capital(said[1])} comes after {said[0]}."),
    ]
