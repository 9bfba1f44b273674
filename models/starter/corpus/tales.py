"""Short stories of a few sentences about a hero, a wish, a trouble and an end that fits."""

from collections.abc import Iterator
from random import Random

from corpus.english import capital, one
from corpus.people import Person, person
from corpus.tables import words
from corpus.talk import Talk, single

WISHES = {
    "learn to fly": (
        "{He} jumped from a log again and again, but {he} only fell into the mud.",
        "a kite",
        "{He} held the string and laughed in the wind.",
    ),
    "see the sea": (
        "{He} walked for days, but the road was long.",
        "a small boat",
        "Together they sailed down the river to the sea.",
    ),
    "touch the moon": (
        "{He} climbed a tree, but the moon was still far away.",
        "a bowl of water",
        "The moon shone in the water, and {he} touched it.",
    ),
    "bake a cake": (
        "{He} had flour and milk, but no eggs.",
        "a basket of eggs",
        "They baked a big cake and ate it together.",
    ),
    "cross the river": (
        "The water was deep, and there was no bridge.",
        "a long log",
        "They put it over the water and walked across.",
    ),
    "build a house": (
        "{He} carried stones all day, but the walls fell down.",
        "a strong rope",
        "They tied the wood together, and the house stood.",
    ),
    "play music": (
        "{He} had no drum and no flute.",
        "an old pot",
        "They beat it with two sticks, and everybody danced.",
    ),
    "grow a flower": (
        "{He} waited every day, but the ground stayed dry.",
        "a can of water",
        "After a week {a_colour} flower stood in the sun.",
    ),
    "find a friend": (
        "{He} knocked on every door, but nobody was home.",
        "a warm smile",
        "From that day they played together.",
    ),
}
STORY_FORMS = (
    "Tell me a story about {h}.",
    "Tell me a short story about {h}.",
    "Write a story about {h}.",
    "Can you tell a story about {h}?",
    "Please tell me a tale about {h}.",
    "I would like a story about {h}.",
)


def hero(random: Random) -> tuple[str, str, Person]:
    """How the hero is asked for, how the first sentence names it, and its pronouns."""
    trait = random.choice(words("traits"))
    if random.random() < 0.35:
        who = person(random)
        child = "boy" if who.he == "he" else "girl"
        return who.name, f"{one(f'{trait} {child}')} called {who.name}", who
    animal = random.choice(words("heroes"))
    he, him, his = ("she", "her", "her") if animal in ("queen", "princess", "bee", "duck") else ("he", "him", "his")
    return one(animal), one(f"{trait} {animal}"), Person(f"the {animal}", he, him, his)


def wish_story(random: Random, named: str, who: Person) -> list[str]:
    """Someone wants something, fails, is helped, and gets it."""
    wish, (trouble, help_, end) = random.choice(list(WISHES.items()))
    friend = random.choice(words("friends"))
    return [
        f"Once there was {named} who lived {random.choice(words('homes'))}.",
        f"One day {who.name} wanted to {wish}.",
        trouble,
        f"Then {one(friend)} came by with {help_}.",
        end,
    ]


def lost_story(random: Random, named: str, who: Person) -> list[str]:
    """Someone loses something, looks for it, and it is found."""
    lost, friend = random.choice(words("lost things")), random.choice(words("friends"))
    return [
        f"{capital(named)} lived {random.choice(words('homes'))}.",
        f"One morning {who.his} {lost} was gone.",
        f"{capital(who.name)} looked everywhere, but {who.he} could not find it.",
        f"{capital(one(friend))} helped {who.him} to look.",
        f"At last they found the {lost} {random.choice(words('found'))}.",
        f'"Thank you," said {who.name}.',
    ]


def stories(random: Random) -> Iterator[Talk]:
    """Tell me a story about a fox."""
    while True:
        asked, named, who = hero(random)
        parts = random.choice((wish_story, wish_story, lost_story))(random, named, who)
        if random.random() < 0.7:
            parts.append(random.choice(words("morals")))
        told = " ".join(parts).format(
            he=who.he, He=capital(who.he), him=who.him, his=who.his, a_colour=one(random.choice(words("colours")))
        )
        yield single("stories", random.choice(STORY_FORMS).format(h=asked), told)
