"""Writes the starter model's corpus: chat rows in plain English about a small world. Same seed, same bytes.

python models/starter/make_corpus.py --out DIR [--rows 72000] [--seed 7]
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

from corpus import copying, feelings, numbers, reading, remembering, smalltalk, tales, things, vocabulary, yes_no
from corpus.talk import Skill, Talk

SHARES: dict[Skill, float] = {
    things.facts: 26,
    yes_no.yes_no: 9,
    things.compare: 2.5,
    things.name_some: 2,
    things.odd_one: 2,
    numbers.sums: 8,
    numbers.word_sums: 4,
    numbers.counting: 3,
    numbers.many_of: 0.3,
    vocabulary.opposites: 2,
    vocabulary.plurals: 2,
    vocabulary.letters: 2,
    vocabulary.spelling: 1,
    vocabulary.order: 1.5,
    vocabulary.sentences: 0.7,
    feelings.sentiment: 4,
    feelings.moods: 1,
    tales.stories: 4,
    reading.reading: 16,
    remembering.about_me: 2.5,
    remembering.roles: 1.5,
    copying.copying: 4,
    smalltalk.smalltalk: 3,
    smalltalk.unknown: 1.5,
}
PRACTICE: dict[Skill, float] = {
    numbers.sums: 4,
    numbers.word_sums: 4,
    numbers.counting: 3,
    vocabulary.letters: 3,
    vocabulary.order: 3,
    things.odd_one: 4,
    yes_no.yes_no: 1.5,
    copying.copying: 2,
    reading.reading: 1.2,
}
"""What the practice rows have how many times more of: what is learned last. The other skills come along."""
NEVER_HELD_OUT = ("small talk", "stories", "lists", "sentences")
"""Skills of many right answers, or of fixed phrases: nothing to hold out by key."""
HELD_OUT = 0.04
MIXED = 0.25
"""The share of rows that another skill's row continues."""


def held_out(talk: Talk, seed: int) -> bool:
    """Whether a turn's knowledge is kept for the test: a pure function of its key."""
    if talk.skill in NEVER_HELD_OUT:
        return False
    digests = (hashlib.sha256(f"{seed}:{turn.key}".encode()).digest() for turn in talk.turns)
    return any(int.from_bytes(digest[:4]) < HELD_OUT * 2**32 for digest in digests)


def drawn(seed: int, more: dict[Skill, float] | None = None) -> Iterator[Talk]:
    """Talks without end, each skill by its share; of some there is more."""
    random = Random(seed)
    sources = [skill(random) for skill in SHARES]
    shares = [share * (more or {}).get(skill, 1) for skill, share in SHARES.items()]
    while True:
        yield next(random.choices(sources, shares)[0])


def taught(talks: Iterable[Talk], seed: int) -> Iterator[Talk]:
    """What may be trained on: nothing held out, some talks continued by the next one."""
    random, before = Random(seed + 1), None
    for talk in talks:
        if held_out(talk, seed):
            continue
        if before and not talk.system:
            yield before.then(talk)
            before = None
        elif random.random() < MIXED and len(talk.turns) < 3:
            before = talk
        else:
            yield talk


def unrepeated(talks: Iterable[Talk], seen: set[str]) -> Iterator[str]:
    """Each row once, as a line of JSON; what is seen here is seen by the next caller too."""
    for talk in talks:
        line = json.dumps(talk.row(), ensure_ascii=False)
        if line not in seen:
            seen.add(line)
            yield line


def tested(seed: int, draws: int, per_skill: int) -> Iterator[Talk]:
    """Held-out single questions, no more than a number of every skill."""
    found: dict[str, int] = {}
    for talk in islice(drawn(seed + 2), draws):
        if len(talk.turns) == 1 and held_out(talk, seed) and found.get(talk.skill, 0) < per_skill:
            found[talk.skill] = found.get(talk.skill, 0) + 1
            yield talk


def write(file: Path, lines: Iterable[str]) -> None:
    """One JSON object a line."""
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def main() -> None:
    """Reads the command line and writes the four files."""
    parser = argparse.ArgumentParser(description="Write the starter model's corpus.")
    parser.add_argument("--out", type=Path, required=True, help="the folder for train, valid, test and practice.jsonl")
    parser.add_argument("--rows", type=int, default=72_000, help="rows of train.jsonl")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    lines = unrepeated(taught(drawn(options.seed), options.seed), seen)
    write(options.out / "train.jsonl", islice(lines, options.rows))
    write(options.out / "valid.jsonl", islice(lines, options.rows // 100))
    write(options.out / "test.jsonl", unrepeated(tested(options.seed, draws=6 * options.rows, per_skill=60), seen))
    practice = taught(drawn(options.seed + 3, PRACTICE), options.seed)
    write(options.out / "practice.jsonl", islice(unrepeated(practice, seen), options.rows // 2))


if __name__ == "__main__":
    main()
