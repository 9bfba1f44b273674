"""Answers that tell the way before the result: a small model that writes the steps down need not guess the end.

Each skill here asks what the skill of the same name asks elsewhere, with the same keys: what is held out stays so.
"""

from collections.abc import Iterator
from random import Random

from corpus import numbers, things, vocabulary, yes_no
from corpus.english import capital
from corpus.talk import Talk, Turn
from corpus.world import WORLD

GREATEST = 20
KINDS = {thing.name: thing.kind for thing in WORLD if thing.kind in things.ODD_KINDS}


def replied(talk: Talk, reply: str) -> Talk:
    """The same question with another answer."""
    (turn,) = talk.turns
    return Talk(talk.skill, (turn._replace(reply=reply),))


def worked_out(turn: Turn) -> str:
    """3 + 4 = 7, from the key 3+4; nothing where a number is greater than what is practised here."""
    sign = "+" if "+" in turn.key else "-"
    a, b = map(int, turn.key.split(sign))
    result = a + b if sign == "+" else a - b
    return f"{a} {sign} {b} = {result}." if max(a, result) <= GREATEST else ""


def sums(random: Random) -> Iterator[Talk]:
    """What is three plus four? 3 + 4 = 7."""
    for talk in numbers.sums(random):
        if told := worked_out(talk.turns[0]):
            yield replied(talk, told)


def word_sums(random: Random) -> Iterator[Talk]:
    """Tom has 3 apples. He gets 4 more. How many apples does he have now? 3 + 4 = 7. Tom has 7 apples."""
    for talk in numbers.word_sums(random):
        if told := worked_out(talk.turns[0]):
            yield replied(talk, f"{told} {talk.turns[0].reply}")


def letters(random: Random) -> Iterator[Talk]:
    """What is the last letter of fox? Fox is spelled f-o-x. The last letter of fox is x."""
    sources = vocabulary.letters(random), vocabulary.spelling(random)
    while True:
        talk = next(random.choice(sources))
        turn = talk.turns[0]
        word = turn.key.partition("/")[0]
        spelled = f"{capital(word)} is spelled {'-'.join(word)}."
        yield replied(talk, spelled if turn.reply == spelled else f"{spelled} {turn.reply}")


def odd_one(random: Random) -> Iterator[Talk]:
    """Which word does not belong: owl, flute, crow? Owl: animal, flute: instrument, crow: animal. Flute does not belong."""
    for talk in things.odd_one(random):
        turn = talk.turns[0]
        words = turn.user.partition(": ")[2].rstrip("?.").split(", ")
        told = ", ".join(f"{word}: {KINDS[word]}" for word in words)
        yield replied(talk, f"{capital(told)}. {turn.reply.rstrip('.')} does not belong.")


def compare(random: Random) -> Iterator[Talk]:
    """Which is bigger, a mouse or a horse? A mouse is tiny and a horse is big. A horse is bigger than a mouse."""
    for talk, first, second in things.compared(random):
        told = f"{capital(first.a)} is {first.told('size')} and {second.a} is {second.told('size')}."
        yield replied(talk, f"{told} {talk.turns[0].reply}")


def yes_or_no(random: Random) -> Iterator[Talk]:
    """Is an owl a fish? An owl is a bird, so no."""
    for talk in yes_no.yes_no(random):
        said, comma, fact = talk.turns[0].reply.partition(", ")
        asked_for_one = said not in ("Yes", "No")
        yield talk if asked_for_one or not comma else replied(talk, f"{capital(fact.rstrip('.'))}, so {said.lower()}.")
