import numpy as np
import pytest

from edgetune.text.dataset import Example, Examples, Problem
from edgetune.text.inspect import inspect, measure, signature

random = np.random.default_rng(3)


def example(ids: list[int], line: int = 1) -> Example:
    return Example(np.array(ids, np.int32), np.arange(len(ids)) > 0, "f", line)


def words(size: int) -> list[int]:
    return random.integers(0, 1000, size).tolist()


def test_the_numbers_add_up() -> None:
    problems = [
        Problem("f", at, kind, "m") for at, kind in enumerate(["dropped", "cut", "cut", "split", "row", "json", "kinds"])
    ]
    train, valid = Examples(example(words(size)) for size in (5, 10, 40)), Examples([example(words(6))])
    report = inspect(train, valid, problems, rows=9, max_tokens=64, fingerprint="abc")
    assert (report.rows, report.train_rows, report.valid_rows, report.tokens, report.trained_tokens) == (9, 3, 1, 61, 57)
    assert (report.dropped, report.cut, report.split, report.bad, report.longest_allowed) == (1, 2, 1, 2, 64)
    assert report.problems == tuple(problems) and report.fingerprint == "abc"
    assert (report.exact_duplicates, report.near_duplicates, report.leaks, report.pairs) == (0, 0, 0, ())
    with pytest.raises(AttributeError):
        report.rows = 5  # pyright: ignore


def test_lengths() -> None:
    found = measure([*range(1, 101)])
    assert (found.shortest, found.median, found.p90, found.p99, found.longest) == (1, 50, 90, 99, 100)
    assert sum(found.counts) == 100 and len(found.edges) == len(found.counts) + 1
    assert found.edges[0] == 0 and found.edges[-1] > 100
    assert sum(measure([7]).counts) == 1 and measure([]).counts == ()


def test_duplicates_and_leaks() -> None:
    base, other = words(60), words(60)
    nearly = [*base[:30], 5000, *base[31:]]
    train = Examples([example(base, 1), example(other, 2), example(base, 3), example(nearly, 4)])
    valid = Examples([example(words(60), 5), example(other, 6), example([*nearly, 7], 7)])
    report = inspect(train, valid, [], rows=7, max_tokens=64)
    assert [(pair.line, pair.other_line, pair.exact, pair.leak) for pair in report.pairs] == [
        (3, 1, True, False),
        (4, 1, False, False),
        (6, 2, True, True),
        (7, 1, False, True),
    ]
    assert (report.exact_duplicates, report.near_duplicates, report.leaks) == (1, 1, 2)


def test_rows_that_only_begin_alike_are_different() -> None:
    head = words(20)
    rows = Examples(example([*head, *words(60)], at) for at in range(200))
    assert inspect(rows, Examples(), [], rows=200, max_tokens=99).near_duplicates == 0


def test_short_rows() -> None:
    rows = Examples([example([1]), example([2]), example([1, 2]), example([1])])
    report = inspect(rows, Examples(), [], rows=4, max_tokens=9)
    assert (report.exact_duplicates, report.near_duplicates) == (1, 0)


def test_a_signature_estimates_the_share_of_common_shingles() -> None:
    base = np.array(words(400), np.int32)
    half = np.concatenate([base[:266], np.array(words(134), np.int32)])
    none = np.zeros(0, np.uint64)
    share = float(np.mean(signature(base, none) == signature(half, none)))
    assert 0.2 < share < 0.8 and np.array_equal(signature(base, none), signature(base, none))


def test_what_a_template_writes_in_every_row_makes_no_duplicates() -> None:
    head, tail = words(60), words(10)
    rows = Examples(example([*head, *words(8), *tail], at) for at in range(100))
    assert inspect(rows, Examples(), [], rows=100, max_tokens=99).near_duplicates == 0
    again = Examples([*rows, example([*rows[7].ids.tolist(), 3], 500)])
    assert [(pair.line, pair.other_line) for pair in inspect(again, Examples(), [], rows=101, max_tokens=99).pairs] == [
        (500, 7)
    ]
