"""Reading: the answer stands in the message, or in an earlier one, or in the system message."""

from collections.abc import Iterator
from random import Random

from corpus.english import capital, number, one
from corpus.people import invented, invented_many, people, person
from corpus.tables import words
from corpus.talk import Talk, Turn

Story = tuple[list[str], list[tuple[str, str]]]
"""Sentences that are told, and the questions about them with their answers."""


def owners(random: Random) -> Story:
    """Tom has a red ball. Anna has a blue cup."""
    amount = random.choice((1, 2, 2, 3))
    who, things, colours = (
        people(random, amount),
        random.sample(words("things to have"), amount),
        random.sample(words("colours"), amount),
    )
    told, asked = [], []
    for someone, thing, colour in zip(who, things, colours, strict=True):
        told.append(f"{someone.name} has {one(f'{colour} {thing}')}.")
        asked.append((f"What colour is the {thing}?", f"The {thing} is {colour}."))
        asked.append((f"Who has the {thing}?", f"{someone.name} has the {thing}."))
        asked.append((f"What does {someone.name} have?", f"{someone.name} has {one(f'{colour} {thing}')}."))
    return told, asked


def spots(random: Random) -> Story:
    """The key is under the bed. The book is on the table."""
    amount = random.choice((1, 2, 2, 3))
    things, where = random.sample(words("things to have"), amount), random.sample(words("spots"), amount)
    pairs = list(zip(things, where, strict=True))
    told = [f"The {thing} is {spot}." for thing, spot in pairs]
    asked = [(f"Where is the {thing}?", f"The {thing} is {spot}.") for thing, spot in pairs]
    asked += [(f"What is {spot}?", f"The {thing} is {spot}.") for thing, spot in pairs]
    return told, asked


def journeys(random: Random) -> Story:
    """Anna went to the park. Then she went to the shop."""
    someone = person(random)
    first, second = random.sample(words("places to go"), 2)
    told = [f"{someone.name} went to the {first}.", f"Then {someone.he} went to the {second}."]
    asked = [
        (f"Where is {someone.name} now?", f"{someone.name} is at the {second}."),
        (f"Where did {someone.name} go first?", f"{someone.name} went to the {first} first."),
        (f"Where was {someone.name} before the {second}?", f"{someone.name} was at the {first} before."),
    ]
    return told, asked


def tastes(random: Random) -> Story:
    """Tom likes soup. Anna likes cake."""
    amount = random.choice((1, 2, 2, 3))
    who, foods = people(random, amount), random.sample(words("dishes"), amount)
    verb, ask = random.choice((("likes", "like"), ("eats", "eat"), ("wants", "want"), ("sells", "sell")))
    told = [f"{someone.name} {verb} {food}." for someone, food in zip(who, foods, strict=True)]
    asked = [(f"What does {someone.name} {ask}?", sentence) for someone, sentence in zip(who, told, strict=True)]
    asked += [(f"Who {verb} {food}?", sentence) for food, sentence in zip(foods, told, strict=True)]
    return told, asked


def lives(random: Random) -> Story:
    """Ben lives in Rome and plays chess. Mia lives in Oslo and plays tennis."""
    amount = random.choice((1, 2))
    who, cities, games = (
        people(random, amount),
        random.sample(words("cities"), amount),
        random.sample(words("games"), amount),
    )
    told, asked = [], []
    for someone, city, game in zip(who, cities, games, strict=True):
        told.append(f"{someone.name} lives in {city} and plays {game}.")
        asked.append((f"Where does {someone.name} live?", f"{someone.name} lives in {city}."))
        asked.append((f"What does {someone.name} play?", f"{someone.name} plays {game}."))
        asked.append((f"Who lives in {city}?", f"{someone.name} lives in {city}."))
        asked.append((f"Who plays {game}?", f"{someone.name} plays {game}."))
    return told, asked


def ages(random: Random) -> Story:
    """Ben is 7 years old. Mia is 9 years old."""
    who, years = people(random, 2), random.sample(range(4, 40), 2)
    pairs = list(zip(who, years, strict=True))
    told = [f"{someone.name} is {age} years old." for someone, age in pairs]
    asked = [(f"How old is {someone.name}?", f"{someone.name} is {age} years old.") for someone, age in pairs]
    older, younger = (pair[0].name for pair in sorted(pairs, key=lambda pair: -pair[1]))
    asked.append(("Who is older?", f"{older} is older than {younger}."))
    asked.append(("Who is younger?", f"{younger} is younger than {older}."))
    return told, asked


def pets(random: Random) -> Story:
    """Lily has a dog. The dog is called Rex."""
    amount = random.choice((1, 2))
    who, animals, names = people(random, amount), random.sample(words("pets"), amount), invented_many(random, amount)
    told, asked = [], []
    for someone, animal, name in zip(who, animals, map(capital, names), strict=True):
        told.append(f"{someone.name} has {one(animal)} called {name}.")
        asked.append((f"What is the {animal} called?", f"The {animal} is called {name}."))
        asked.append((f"Who is {name}?", f"{name} is {someone.name}'s {animal}."))
        asked.append((f"Which animal does {someone.name} have?", f"{someone.name} has {one(animal)}."))
    return told, asked


def prices(random: Random) -> Story:
    """The cup costs 4 coins. The tramoo costs 9 coins."""
    amount = random.choice((1, 2, 3))
    things = random.sample(words("things to have"), amount)
    things = [thing if random.random() < 0.6 else invented(random).capitalize() for thing in things]
    costs = random.sample(range(2, 99), amount)
    money = random.choice(("coins", "dollars", "euros"))
    pairs = list(zip(things, costs, strict=True))
    told = [f"The {thing} costs {cost} {money}." for thing, cost in pairs]
    asked = [(f"How much is the {thing}?", f"The {thing} costs {cost} {money}.") for thing, cost in pairs]
    asked += [(f"What does the {thing} cost?", f"The {thing} costs {cost} {money}.") for thing, cost in pairs]
    if amount > 1:
        dear = max(pairs, key=lambda pair: pair[1])[0]
        asked.append(("Which one costs the most?", f"The {dear} costs the most."))
    return told, asked


def hours(random: Random) -> Story:
    """The bakery opens at 8 and closes at 5."""
    amount = random.choice((1, 2))
    told, asked = [], []
    for place in random.sample(words("places to go"), amount):
        opens, closes = number(random.randint(6, 11)), number(random.randint(1, 9))
        told.append(f"The {place} opens at {opens} and closes at {closes}.")
        asked.append((f"When does the {place} open?", f"The {place} opens at {opens}."))
        asked.append((f"When does the {place} close?", f"The {place} closes at {closes}."))
    return told, asked


def new_words(random: Random) -> Story:
    """A blick is a green fruit."""
    amount = random.choice((1, 1, 2))
    told, asked = [], []
    kinds = random.sample(words("kinds of new things"), amount)
    for word, colour, kind in zip(invented_many(random, amount), random.sample(words("colours"), amount), kinds, strict=True):
        told.append(f"{capital(one(word))} is {one(f'{colour} {kind}')}.")
        asked.append((f"What is {one(word)}?", f"{capital(one(word))} is {one(f'{colour} {kind}')}."))
        asked.append((f"What colour is {one(word)}?", f"{capital(one(word))} is {colour}."))
        asked.append((f"Which {kind} is {colour}?", f"{capital(one(word))} is {colour}."))
    return told, asked


def gifts(random: Random) -> Story:
    """Tom gave a book to Anna. Anna gave a hat to Ben."""
    who = people(random, random.choice((2, 3)))
    things = random.sample(words("things to have"), len(who) - 1)
    told, asked = [], []
    for giver, taker, thing in zip(who[:-1], who[1:], things, strict=True):
        told.append(f"{giver.name} gave {one(thing)} to {taker.name}.")
        asked.append((f"Who gave {one(thing)} to {taker.name}?", f"{giver.name} gave {one(thing)} to {taker.name}."))
        asked.append((f"What did {taker.name} get?", f"{taker.name} got {one(thing)}."))
        asked.append((f"Who got {one(thing)}?", f"{taker.name} got {one(thing)}."))
    return told, asked


STORIES = (owners, owners, spots, spots, journeys, tastes, lives, ages, pets, prices, hours, new_words, gifts)


def reading(random: Random, amounts: tuple[int, ...] = (1, 1, 1, 2, 3)) -> Iterator[Talk]:
    """The story and the question in one message, or the story first, or as the system message; so many questions."""
    while True:
        sentences, questions = random.choice(STORIES)(random)
        told = " ".join(sentences)
        chosen = random.sample(questions, min(len(questions), random.choice(amounts)))
        turns = [Turn(question, answer, f"{told} {question}") for question, answer in chosen]
        way = random.random()
        if way < 0.7:
            question = turns[0].user
            asked = random.choice((f"{told} {question}", f"Read this: {told} {question}", f"{told}\n{question}"))
            turns[0] = turns[0]._replace(user=asked)
            yield Talk("reading", tuple(turns))
        elif way < 0.85:
            yield Talk("reading", tuple(turns), system=random.choice((told, f"You know this: {told}")))
        else:
            opening = Turn(told, random.choice(("I see.", "All right.", "Thank you, I will remember that.")), told)
            yield Talk("reading", (opening, *turns))


def much_reading(random: Random) -> Iterator[Talk]:
    """More questions about each story."""
    return reading(random, (1, 2, 3))
