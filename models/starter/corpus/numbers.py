"""Small sums, counting, and what comes before and after. A held-out sum is held out of every form that needs it."""

from collections.abc import Iterator
from random import Random

from corpus.english import NUMBERS, capital, count, number, plural
from corpus.people import person
from corpus.tables import words
from corpus.talk import Talk, single

GREATEST = 24

ADD_FORMS = (
    "What is {a} + {b}?",
    "{a} + {b} = ?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "What is {a} plus {b}?",
    "Please work out {a} + {b}.",
)
TAKE_FORMS = (
    "What is {a} - {b}?",
    "{a} - {b} = ?",
    "How much is {a} - {b}?",
    "Take {b} from {a}.",
    "What is {a} minus {b}?",
    "Please work out {a} - {b}.",
)


def draw(random: Random) -> tuple[str, int, int, int]:
    """One sum within the greatest number: sign, both numbers and the result."""
    low, high = sorted((random.randint(0, GREATEST), random.randint(0, GREATEST)))
    if random.random() < 0.5:
        return "+", *random.choice(((low, high - low), (high - low, low))), high
    return "-", high, low, high - low


def sums(random: Random) -> Iterator[Talk]:
    """What is 3 + 4? 3 + 4 = 7."""
    while True:
        sign, a, b, result = draw(random)
        key = f"{a}{sign}{b}"
        if random.random() < 0.2:
            word = "plus" if sign == "+" else "minus"
            ask = random.choice(("What is {a} {w} {b}?", "How much is {a} {w} {b}?")).format(a=number(a), w=word, b=number(b))
            yield single("sums", ask, f"{capital(number(a))} {word} {number(b)} is {number(result)}.", key)
        else:
            form = random.choice(ADD_FORMS if sign == "+" else TAKE_FORMS)
            yield single("sums", form.format(a=a, b=b), f"{a} {sign} {b} = {result}.", key)


MORE = (
    "{name} has {x}. {He} gets {b} more. {ask}",
    "{name} has {x}. A friend gives {him} {b} more. {ask}",
    "{name} buys {x} and then {b} more. {ask}",
    "There are {x} in a box. {name} puts {b} more into it. {total}",
)
LESS = (
    "{name} has {x}. {He} loses {b} of them. {ask}",
    "{name} has {x}. {He} gives {b} to a friend. {ask}",
    "{name} had {x} and sold {b}. {ask}",
    "There are {x} in a box. {name} takes {b} out of it. {total}",
)


def word_sums(random: Random) -> Iterator[Talk]:
    """Tom has 3 apples. He gets 4 more. How many apples does he have now? Tom has 7 apples."""
    while True:
        sign, a, b, result = draw(random)
        if min(a, b) < 2:
            continue
        who, thing = person(random), random.choice(words("countable things"))
        many = plural(thing)
        form = random.choice(MORE if sign == "+" else LESS)
        ask = random.choice((f"How many {many} does {who.he} have now?", f"How many {many} does {who.name} have?"))
        question = form.format(
            name=who.name,
            He=capital(who.he),
            him=who.him,
            x=f"{a} {many}",
            b=b,
            ask=ask,
            total=f"How many {many} are in the box now?",
        )
        amount = f"{result} {thing if result == 1 else many}"
        if "{total}" in form:
            reply = f"There {'is' if result == 1 else 'are'} {amount} in the box."
        else:
            reply = f"{who.name} has {amount}."
        yield single("word sums", question, reply, f"{a}{sign}{b}")


def counting(random: Random) -> Iterator[Talk]:
    """Count from 3 to 7; what comes after 7; which is bigger, 7 or 12."""
    while True:
        a, b = random.sample(range(41), 2)
        question, reply = random.choice((count_up, count_down, after, before, bigger, between, digits))(a, b)
        yield single("counting", question, reply)


def count_up(a: int, b: int) -> tuple[str, str]:
    """Count from 3 to 7."""
    low = min(a, b)
    high = min(max(a, b), low + 7)
    return f"Count from {low} to {high}.", ", ".join(map(str, range(low, high + 1))) + "."


def count_down(a: int, b: int) -> tuple[str, str]:
    """Count down from 7 to 3."""
    high = max(a, b)
    low = max(min(a, b), high - 6)
    return f"Count down from {high} to {low}.", ", ".join(map(str, range(high, low - 1, -1))) + "."


def after(a: int, b: int) -> tuple[str, str]:
    """What number comes after 7?"""
    ask = ("What number comes after {}?", "Which number is next after {}?")[b % 2]
    return ask.format(a), f"{a + 1} comes after {a}."


def before(a: int, b: int) -> tuple[str, str]:
    """What number comes before 7?"""
    ask = ("What number comes before {}?", "Which number is just before {}?")[b % 2]
    return ask.format(a + 1), f"{a} comes before {a + 1}."


def bigger(a: int, b: int) -> tuple[str, str]:
    """Which number is bigger, 7 or 12?"""
    if (a + b) % 2:
        return f"Which number is bigger, {a} or {b}?", f"{max(a, b)} is bigger than {min(a, b)}."
    return f"Which number is smaller, {a} or {b}?", f"{min(a, b)} is smaller than {max(a, b)}."


def between(a: int, b: int) -> tuple[str, str]:
    """Which number is between 6 and 8?"""
    ask = ("Which number is between {} and {}?", "What comes between {} and {}?")[b % 2]
    return ask.format(a, a + 2), f"{a + 1} is between {a} and {a + 2}."


def digits(a: int, b: int) -> tuple[str, str]:
    """Write seven as a number; write 7 as a word."""
    a %= len(NUMBERS)
    if b % 2:
        return f"Write {number(a)} in digits.", f"{a}"
    return f"Write {a} as a word.", f"{capital(number(a))}"


def many_of(random: Random) -> Iterator[Talk]:
    """How many legs do two dogs have: the counting of parts."""
    parts = (
        ("dog", "leg", 4),
        ("cat", "paw", 4),
        ("bird", "wing", 2),
        ("person", "hand", 2),
        ("car", "wheel", 4),
        ("triangle", "side", 3),
    )
    while True:
        (owner, part, each), owners = random.choice(parts), random.randint(1, 6)
        ask = random.choice(("How many {p} do {o} have?", "How many {p} do {o} have in all?"))
        owned = f"{number(owners)} {plural(owner)}"
        if owners > 1:
            yield single(
                "counting", ask.format(p=plural(part), o=owned), f"{capital(owned)} have {count(owners * each, part)}."
            )
