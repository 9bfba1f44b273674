"""Small talk, common knowledge, and what to say when nothing is known."""

from collections.abc import Iterator
from random import Random

from corpus.english import capital, one, plural
from corpus.people import invented, person
from corpus.tables import HERE, words
from corpus.talk import Talk, single


def load_smalltalk() -> list[tuple[str, str]]:
    """Everything that may be said, with its answer."""
    pairs: list[tuple[str, str]] = []
    for block in (HERE / "smalltalk.md").read_text("utf-8").split("\n\n")[2:]:
        *said, answer = block.strip().splitlines()
        pairs += [(line, answer.removeprefix("> ")) for line in said]
    return pairs


SMALLTALK = load_smalltalk()


def smalltalk(random: Random) -> Iterator[Talk]:
    """Hello! How can I help you?"""
    while True:
        said, reply = random.choice(SMALLTALK)
        if random.random() < 0.3:
            said = random.choice((said, said.lower())).rstrip(".!?")
        elif random.random() < 0.2:
            said = said.replace("I am ", "I'm ").replace("What is ", "What's ")
        yield single("small talk", said, reply)


UNKNOWN_FORMS = (
    ("What is {aw}?", "I do not know what {aw} is."),
    ("Tell me what {aw} is.", "I do not know what {aw} is."),
    ("What does {w} mean?", "I do not know what {w} means."),
    ("Where do {ws} live?", "I do not know where {ws} live."),
    ("What colour is {aw}?", "I do not know what colour {aw} is."),
    ("Who is {n}?", "I do not know who {n} is."),
    ("How old is {n}?", "I do not know how old {n} is."),
    ("Where is {n}?", "I do not know where {n} is."),
    ("What will the weather be tomorrow?", "I do not know what the weather will be."),
    ("What is the weather like in {c}?", "I do not know the weather in {c}."),
    ("What time is it?", "I do not know, I have no clock."),
    ("What is the time in {c}?", "I do not know the time in {c}."),
    ("Which day is it today?", "I do not know, I have no calendar."),
    ("What did I eat yesterday?", "I do not know what you ate."),
    ("What is in the news today?", "I do not know the news."),
)


def unknown(random: Random) -> Iterator[Talk]:
    """What is a blick? I do not know what a blick is."""
    while True:
        ask, reply = random.choice(UNKNOWN_FORMS)
        word = invented(random)
        named = {
            "w": word,
            "aw": one(word),
            "ws": plural(word),
            "n": capital(person(random).name),
            "c": random.choice(words("cities")),
        }
        yield single("unknown", ask.format(**named), reply.format(**named))
