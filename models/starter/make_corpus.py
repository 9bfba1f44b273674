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

from corpus import aloud, copying, feelings, numbers, reading, remembering, smalltalk, tales, things, vocabulary, yes_no
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
DRILLS: dict[Skill, float] = {
    aloud.sums: 27,
    aloud.word_sums: 5,
    numbers.counting: 8,
    numbers.many_of: 0.6,
    aloud.letters: 10,
    vocabulary.order: 4,
    vocabulary.opposites: 2,
    vocabulary.plurals: 2,
    vocabulary.sentences: 0.3,
    aloud.odd_one: 5,
    aloud.yes_or_no: 8,
    aloud.compare: 4,
    copying.copying: 8,
    reading.much_reading: 11,
    things.facts: 7,
    things.name_some: 0.5,
    feelings.sentiment: 1,
    feelings.moods: 0.6,
    tales.stories: 0.7,
    remembering.about_me: 1,
    remembering.roles: 0.6,
    smalltalk.smalltalk: 2,
    smalltalk.unknown: 2.5,
}
"""What is drilled in the end, over and over, with answers that tell the way."""
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


def drawn(seed: int, shares: dict[Skill, float]) -> Iterator[Talk]:
    """Talks without end, each skill by its share."""
    random = Random(seed)
    sources = [skill(random) for skill in shares]
    while True:
        yield next(random.choices(sources, list(shares.values()))[0])


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


def lines_of(talks: Iterable[Talk]) -> Iterator[str]:
    """Each row as a line of JSON."""
    for talk in talks:
        yield json.dumps(talk.row(), ensure_ascii=False)


def unrepeated(talks: Iterable[Talk], seen: set[str]) -> Iterator[str]:
    """Each line once; what is seen here is seen by the next caller too."""
    for line in lines_of(talks):
        if line not in seen:
            seen.add(line)
            yield line


def tested(seed: int, draws: int, per_skill: int) -> Iterator[Talk]:
    """Held-out single questions, no more than a number of every skill."""
    found: dict[str, int] = {}
    for talk in islice(drawn(seed + 2, DRILLS), draws):
        if len(talk.turns) == 1 and held_out(talk, seed) and found.get(talk.skill, 0) < per_skill:
            found[talk.skill] = found.get(talk.skill, 0) + 1
            yield talk


def write(file: Path, lines: Iterable[str]) -> None:
    """One JSON object a line."""
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def write_learned(out: Path, rows: int, seed: int) -> None:
    """What is learned first: every row once, in train.jsonl, valid.jsonl or practice.jsonl."""
    seen: set[str] = set()
    lines = unrepeated(taught(drawn(seed, SHARES), seed), seen)
    write(out / "train.jsonl", islice(lines, rows))
    write(out / "valid.jsonl", islice(lines, rows // 100))
    more = {skill: share * PRACTICE.get(skill, 1) for skill, share in SHARES.items()}
    write(out / "practice.jsonl", islice(unrepeated(taught(drawn(seed + 3, more), seed), seen), rows // 2))


def write_drilled(out: Path, rows: int, seed: int) -> None:
    """What is drilled, small worlds again and again, and what is asked of it: no row of drills_valid.jsonl is drilled."""
    seen: set[str] = set()
    write(out / "test.jsonl", unrepeated(tested(seed, draws=6 * rows, per_skill=60), seen))
    write(out / "drills_valid.jsonl", islice(unrepeated(taught(drawn(seed + 4, DRILLS), seed), seen), rows // 200))
    drilled = (line for line in lines_of(taught(drawn(seed + 5, DRILLS), seed)) if line not in seen)
    write(out / "drills.jsonl", islice(drilled, 4 * rows // 5))


def main() -> None:
    """Reads the command line and writes the six files."""
    parser = argparse.ArgumentParser(description="Write the starter model's corpus.")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the JSONL files")
    parser.add_argument("--rows", type=int, default=72_000, help="rows of train.jsonl")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_learned(options.out, options.rows, options.seed)
    write_drilled(options.out, options.rows, options.seed)


if __name__ == "__main__":
    main()
