"""Sentiment: is a sentence positive or negative, and how does someone feel."""

from collections.abc import Iterator
from random import Random

from corpus.people import person
from corpus.tables import LISTS, words
from corpus.talk import Talk, single

SENTIMENT_FORMS = (
    "Is this positive or negative: {s}",
    "Positive or negative? {s}",
    "Is this sentence positive or negative? {s}",
    "What is the feeling of this sentence, positive or negative? {s}",
    "Does this person like it? {s}",
    "Is the writer happy? {s}",
)


def review(random: Random, good: bool) -> str:
    """The soup was wonderful. I want to come back."""
    side = "good" if good else "bad"
    subject = random.choice(words("reviewed"))
    if random.random() < 0.6:
        opening = f"The {subject} {random.choice(('was', 'is'))} {random.choice(words(side))}."
    else:
        opening = f"{random.choice(words(f'{side} verbs'))} {random.choice(('the', 'this'))} {subject}."
    return f"{opening} {random.choice(words(f'{side} ends'))}".strip()


def sentiment(random: Random) -> Iterator[Talk]:
    """Is this positive or negative: the soup was awful. It is negative."""
    while True:
        good = random.random() < 0.5
        form = random.choice(SENTIMENT_FORMS)
        if "or" in form:
            reply = "It is positive." if good else "It is negative."
        elif "writer" in form:
            reply = "Yes, the writer is happy." if good else "No, the writer is not happy."
        else:
            reply = "Yes, this person likes it." if good else "No, this person does not like it."
        yield single("sentiment", form.format(s=review(random, good)), reply)


CAUSES = LISTS["what makes people"]


def moods(random: Random) -> Iterator[Talk]:
    """Tom lost the toy. How does Tom feel? Tom feels sad."""
    while True:
        mood, causes = random.choice(list(CAUSES.items()))
        who, cause = person(random), random.choice(causes)
        form = random.choice(("{n} {c}. How does {n} feel?", "{n} {c}. How is {n} feeling?", "How does {n} feel? {n} {c}."))
        yield single("moods", form.format(n=who.name, c=cause), f"{who.name} feels {mood}.")
