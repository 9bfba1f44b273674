"""Conversations in which something said earlier is asked for: about the user, or from the system message."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from corpus.english import capital, one
from corpus.people import invented, person
from corpus.tables import words
from corpus.talk import Talk, Turn


class Fact(NamedTuple):
    """What the user tells and later asks for, with both replies."""

    says: str
    reply: str
    asks: str
    answer: str


def facts_about_me(random: Random, name: str, colour: str, food: str, animal: str, city: str) -> list[Fact]:
    """Name, favourite colour and food, pet and home."""
    return [
        Fact(
            random.choice((f"My name is {name}.", f"Hello, I am {name}.", f"Hi! I'm {name}.")),
            f"Nice to meet you, {name}!",
            random.choice(("What is my name?", "Do you know my name?", "Who am I?")),
            f"Your name is {name}.",
        ),
        Fact(
            random.choice((f"My favourite colour is {colour}.", f"I like the colour {colour} best.")),
            f"{capital(colour)} is a lovely colour.",
            random.choice(("What is my favourite colour?", "Which colour do I like best?")),
            f"Your favourite colour is {colour}.",
        ),
        Fact(
            random.choice((f"I like to eat {food}.", f"My favourite food is {food}.")),
            f"{capital(food)} {'sound' if food.endswith('s') else 'sounds'} good!",
            random.choice(("What do I like to eat?", "What is my favourite food?")),
            f"You like to eat {food}.",
        ),
        Fact(
            random.choice((f"I have {one(animal)}.", f"My pet is {one(animal)}.")),
            f"{capital(one(animal))} is a good friend.",
            random.choice(("Which pet do I have?", "What is my pet?")),
            f"Your pet is {one(animal)}.",
        ),
        Fact(
            random.choice((f"I live in {city}.", f"My home is in {city}.")),
            f"I hope that you like {city}.",
            random.choice(("Where do I live?", "In which city is my home?")),
            f"You live in {city}.",
        ),
    ]


def about_me(random: Random) -> Iterator[Talk]:
    """My name is Anna. Nice to meet you, Anna! What is my name? Your name is Anna."""
    while True:
        name = person(random).name
        drawn = [random.choice(words(kind)) for kind in ("colours", "dishes", "pets", "cities")]
        told = random.sample(facts_about_me(random, name, *drawn), random.choice((1, 2, 2)))
        key = "".join((name, *drawn))
        asked = random.choice(told)
        turns = (*((fact.says, fact.reply) for fact in told), (asked.asks, asked.answer))
        yield Talk("memory", tuple(Turn(user, reply, key) for user, reply in turns))


def roles(random: Random) -> Iterator[Talk]:
    """The system message gives a name and a place of work, and the answers keep to them."""
    while True:
        name = random.choice((person(random).name, invented(random).capitalize()))
        place = random.choice(words("places to go"))
        system = random.choice(
            (
                f"You are {name}, a helper at the {place}.",
                f"Your name is {name}. You work at the {place}.",
                f"You are {name} and you work at the {place}.",
            )
        )
        who = random.choice(("Who are you?", "What is your name?", "Hello, who is there?"))
        where = random.choice(("Where do you work?", "Where are you?", "What is this place?"))
        need = random.choice(("Can you help me?", "I need help.", "I have a question."))
        asked = [
            (who, f"I am {name}, and I work at the {place}."),
            (where, f"I work at the {place}."),
            (need, "Yes, of course. What do you need?"),
        ]
        chosen = random.sample(asked, random.choice((1, 2)))
        turns = (Turn(question, answer, f"{system} {question}") for question, answer in chosen)
        yield Talk("roles", tuple(turns), system=system)
