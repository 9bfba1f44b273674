"""All rows of a data set to look at: summaries by the page, one row in full, what is wrong with which, and search.

The rows are read once; a million short ones take no more than their tokens and a line of text each.
"""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from edgetune.text.conversation import strings
from edgetune.text.dataset import Example, Problem, RawRow, read_rows
from edgetune.text.inspect import Pair
from edgetune.text.lines import lines, text_of
from edgetune.workspace.inspection import Inspection
from edgetune.workspace.row_pieces import pieces_of

WORDS = 64  # characters of a row's first words
RAW = 1 << 20  # characters of a row as it is written
BY_LINE = (".jsonl", ".ndjson")
Key = tuple[str, int]
SIGNS = {"dropped": "✂", "cut": "✂", "split": "✂", "kinds": "~", "duplicate": "=", "leak": "!"}  # of all others: !


class Entry(NamedTuple):
    """One row of the list. `example`: where it is among those of its side; -1 for a row that cannot be learned from."""

    file: str
    line: int
    side: int
    example: int
    nth: int  # of the rows that begin in this line


class Group(NamedTuple):
    """Rows with the same problem: its kind, its sign, how many, one of the messages, and their numbers in the list."""

    kind: str
    sign: str
    rows: int
    message: str
    at: list[int]


class RowBrowser:
    """What `data --lines` answers from. Rows are numbered from 0 in the order of the files."""

    def __init__(self, found: Inspection):
        self.found = found
        self.problems: dict[Key, list[Problem]] = defaultdict(list)
        for problem in chain.from_iterable(side.problems for side in found.sides):
            self.problems[problem.file, problem.line].append(problem)
        self.pairs: dict[Key, Pair] = {(pair.file, pair.line): pair for pair in found.report.pairs}
        self.entries = list(self.listed())
        self.first = {(entry.file, entry.line, entry.nth): at for at, entry in reversed(list(enumerate(self.entries)))}
        self.words = self.first_words()
        self.held = {example.ids.tobytes() for example in found.valid}

    @property
    def files(self) -> list[Path]:
        """The files that rows are read from, in order."""
        valid = self.found.config.valid
        return [Path(name) for name in [*self.found.config.train, *(valid if isinstance(valid, list) else [])]]

    def listed(self) -> Iterator[Entry]:
        """Every row that is learned from, and in its place every one that is not."""
        for number, side in enumerate(self.found.sides):
            examples = side.examples
            keys = [(examples.names[file], line) for file, line in zip(examples.files, examples.lines, strict=True)]
            taken = set(keys)
            lost = [(one.file, one.line) for one in side.problems if (one.file, one.line) not in taken]
            order = {name: at for at, name in enumerate(map(str, self.files))}
            rows = [(order.get(file, 0), line, at, file) for at, (file, line) in enumerate(keys)]
            rows += [(order.get(file, 0), line, -1, file) for file, line in dict.fromkeys(lost)]
            seen: Counter[Key] = Counter()
            for _, line, at, file in sorted(rows, key=lambda row: row[:2]):
                nth = 0 if (file, line) in self.problems else seen[file, line]
                seen[file, line] += 1
                yield Entry(file, line, number, at, nth)

    def first_words(self) -> dict[tuple[str, int, int], str]:
        """The first words of each row, by where it stands: what the person asks, or else its first text."""
        seen: Counter[Key] = Counter()
        words: dict[tuple[str, int, int], str] = {}
        for row in read_rows(self.files):
            if isinstance(row, RawRow):
                key = row.file, row.line
                words[*key, seen[key]] = words_of(row)
                seen[key] += 1
        return words

    # ---- answers -----------------------------------------------------------------------------------------------------

    def example(self, entry: Entry) -> Example | None:
        """What is learned of a row."""
        return self.found.sides[entry.side].examples[entry.example] if entry.example >= 0 else None

    def summaries(self, first: int, count: int) -> list[list[Any]]:
        """[words, tokens, trained tokens, sign, file, line] of so many rows from `first` on."""
        return [self.summary(entry) for entry in self.entries[max(first, 0) : max(first, 0) + max(count, 0)]]

    def summary(self, entry: Entry) -> list[Any]:
        """One line of the list."""
        example = self.example(entry)
        tokens, trained = (len(example.ids), int(example.trained.sum())) if example else (0, 0)
        words = self.words.get((entry.file, entry.line, entry.nth), "")
        return [words, tokens, trained, self.sign(entry), entry.file, entry.line]

    def sign(self, entry: Entry) -> str:
        """What is wrong with a row, in one character; empty where nothing is."""
        kinds = [kind for kind, _ in self.complaints(entry)]
        return SIGNS.get(kinds[0], "!") if kinds else ""

    def complaints(self, entry: Entry) -> list[tuple[str, str]]:
        """(kind, message) of all that is wrong with a row, or was done to it."""
        key = entry.file, entry.line
        told = [(problem.kind, problem.message) for problem in self.problems.get(key, ())]
        if pair := self.pairs.get(key):
            how = "the same as" if pair.exact else "nearly the same as"
            kind, end = ("leak", ": it validates what that one teaches") if pair.leak else ("duplicate", "")
            told.append((kind, f"{how} line {pair.other_line} of {Path(pair.other_file).name}{end}"))
        return told

    def groups(self) -> list[Group]:
        """The problems by kind, the gravest first."""
        found: dict[str, Group] = {}
        for at, entry in enumerate(self.entries):
            for kind, message in self.complaints(entry):
                group = found.setdefault(kind, Group(kind, SIGNS.get(kind, "!"), 0, message, []))
                group.at.append(at)
                found[kind] = group._replace(rows=group.rows + 1)
        return sorted(found.values(), key=lambda group: ("!✂=~".index(group.sign), -group.rows))

    def bins(self) -> list[tuple[str, int]]:
        """Rows by their length in tokens, in powers of two up to what is allowed; those beyond come last."""
        most = self.found.report.longest_allowed
        limits = [limit for limit in (1 << power for power in range(5, 21)) if limit < most] + [most]
        lengths = sorted(length for side in self.found.sides for length in side.examples.lengths)
        below = [bisect_right(lengths, limit) for limit in limits]
        counts = [now - before for before, now in zip([0, *below], below, strict=False)]
        longest = max((at for at, number in enumerate(counts) if number), default=0)
        first = next((at for at, number in enumerate(counts) if number), 0)
        shown = [(f"≤{limits[at]}", counts[at]) for at in range(first, longest + 1)]
        beyond = sum(problem.kind in ("dropped", "cut", "split") for side in self.found.sides for problem in side.problems)
        return [*shown, (f">{most}", beyond)] if beyond else shown

    def places(self, wanted: Sequence[tuple[str, int]]) -> list[int | None]:
        """The numbers of the rows at (file, line)."""
        return [self.first.get((file, line, 0)) for file, line in wanted]

    def detail(self, at: int) -> dict[str, Any]:
        """One row in full."""
        entry = self.entries[at]
        example, row = self.example(entry), self.row(entry)
        parts, pieces = pieces_of(example, row, self.found.tokenizer, self.found.template) if example else ([], [])
        return {
            "at": at,
            "file": entry.file,
            "line": entry.line,
            "held_out": bool(entry.side or (example and example.ids.tobytes() in self.held)),
            "problems": self.complaints(entry),
            "parts": parts,
            "pieces": pieces,
            "raw": self.raw(entry, row)[:RAW],
        }

    def row(self, entry: Entry) -> RawRow | None:
        """The row as it was read; None for one that cannot be."""
        seen = 0
        for row in read_rows([Path(entry.file)]):
            if isinstance(row, RawRow) and row.line == entry.line:
                if seen == entry.nth:
                    return row
                seen += 1
            if row.line > entry.line:
                break
        return None

    def raw(self, entry: Entry, row: RawRow | None) -> str:
        """The row as it is written; of forms that are not lines, its values."""
        path = Path(entry.file)
        if path.suffix.lower() in BY_LINE:
            line = next((line for line in lines(path) if line.number == entry.line), None)
            return text_of(line, path).rstrip("\r\n") if line and line.data is not None else ""
        value = {key: part for key, part in row.value.items() if part} if row else {}
        return json.dumps(value, ensure_ascii=False, indent=1, default=lambda array: array.tolist())

    def find(self, text: str, after: int) -> int | None:
        """The next row after one, around the end, that holds a text; capitals do not matter."""
        wanted, seen, first = text.casefold(), Counter[Key](), None
        for row in read_rows(self.files):
            if not isinstance(row, RawRow):
                continue
            key = row.file, row.line
            nth, seen[key] = seen[key], seen[key] + 1
            if any(wanted in one.casefold() for one in strings(row.value)):
                at = self.first.get((*key, nth))
                if at is not None and at > after:
                    return at
                first = at if first is None else first
        return first


def words_of(row: RawRow) -> str:
    """The first words of a row, on one line."""
    messages = row.messages() or []
    asked = next((message.get("content", "") for message in messages if message["role"] == "user"), "")
    text = asked or next((one for one in texts(row.value) if one.strip()), "")
    return " ".join(text[: 4 * WORDS].split())[:WORDS]


def texts(value: Any) -> Iterator[str]:
    """The texts of a row's values, without its keys."""
    for part in value.values():
        yield from strings(part) if not isinstance(part, dict) else texts(part)


def page_of(text: str) -> Sequence[int] | None:
    """FIRST:COUNT, counted from 1, as (first, count) from 0; None where it is none."""
    first, colon, count = text.partition(":")
    if first.isdecimal() and (count.isdecimal() or not colon) and int(first) > 0:
        return int(first) - 1, int(count) if colon else 1
    return None


def held_out_prompts(browser: RowBrowser, most: int) -> list[dict[str, str]]:
    """What held-out rows ask and answer, as far as they ask once: {"prompt", "answer"}, in the order of the files."""
    held = {
        (entry.file, entry.line)
        for entry in browser.entries
        if entry.example >= 0 and (entry.side or browser.found.sides[0].examples[entry.example].ids.tobytes() in browser.held)
    }
    found: list[dict[str, str]] = []
    for row in read_rows(browser.files):
        chat = row.conversation() if isinstance(row, RawRow) and (row.file, row.line) in held else None
        said = [message for message in chat.messages if message["role"] != "system"] if chat else []
        if [message["role"] for message in said] == ["user", "assistant"] and len(found) < most:
            found.append({"prompt": str(said[0].get("content")), "answer": str(said[1].get("content"))})
    return found
