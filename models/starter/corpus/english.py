"""The little English grammar that the templates need: articles, plurals, numbers, capitals, lists."""

from corpus.tables import words

NUMBERS = words("numbers")
IRREGULAR = {
    "mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "child": "children", "person": "people",
    "man": "men", "woman": "women", "fisherman": "fishermen", "postman": "postmen", "sheep": "sheep", "deer": "deer",
    "salmon": "salmon", "goldfish": "goldfish", "fish": "fish", "wolf": "wolves", "leaf": "leaves", "shelf": "shelves",
    "knife": "knives", "scarf": "scarves", "calf": "calves", "loaf": "loaves", "thief": "thieves", "life": "lives",
    "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes", "mosquito": "mosquitoes", "hero": "heroes",
    "stomach": "stomachs",
}  # fmt: skip


def article(name: str) -> str:
    """`a` or `an`, by the sound that the name begins with."""
    return "an" if name[0].lower() in "aeiou" and not name.startswith(("uni", "use", "eu")) else "a"


def one(name: str) -> str:
    """A fox, an owl."""
    return f"{article(name)} {name}"


def plural(name: str) -> str:
    """Foxes, mice, pairs of scissors, bars of soap."""
    head, of, rest = name.partition(" of ")
    before, space, word = head.rpartition(" ")
    if word in IRREGULAR:
        many = IRREGULAR[word]
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        many = word + "es"
    elif word.endswith("y") and word[-2] not in "aeiou":
        many = word[:-1] + "ies"
    else:
        many = word + "s"
    return before + space + many + of + rest


def number(value: int) -> str:
    """Seven, twenty-one: in words up to twenty-nine, in digits from there on."""
    return NUMBERS[value] if value < len(NUMBERS) else str(value)


def count(value: int, name: str) -> str:
    """One leg, four legs, no wheels."""
    return f"{number(value) if value else 'no'} {name if value == 1 else plural(name)}"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def lower(sentence: str) -> str:
    """A sentence as it goes on after a comma."""
    return sentence[0].lower() + sentence[1:]


def listed(words: list[str], last: str = "and") -> str:
    """Cats, dogs and owls."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]
