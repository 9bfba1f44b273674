from collections.abc import Iterator

import pytest

from edgetune import errors
from edgetune.errors import DataError, DiskFull, DoesNotFit, EdgeTuneError, InputError, StoppedEarly, VerificationFailed


def tree(kind: type[EdgeTuneError]) -> Iterator[type[EdgeTuneError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


def test_the_place_is_part_of_the_message() -> None:
    assert DataError("not JSON", file="rows.jsonl", line=7).message == "rows.jsonl:7: not JSON"
    assert str(DataError("is empty", file="rows.jsonl")) == "rows.jsonl: is empty"
    assert DataError("nothing to learn").message == "nothing to learn"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (EdgeTuneError, 1),
        (InputError, 2),
        (DataError, 2),
        (DoesNotFit, 3),
        (DiskFull, 3),
        (StoppedEarly, 4),
        (VerificationFailed, 5),
    ],
)
def test_exit_codes_are_those_of_the_contract(kind: type[EdgeTuneError], code: int) -> None:
    assert kind("x").exit_code == code


def test_kinds_are_names_for_programs() -> None:
    assert DoesNotFit("x").kind == "does_not_fit"
    kinds = [error("x").kind for error in tree(EdgeTuneError)]
    assert len(kinds) == len(set(kinds))


def test_the_drawn_tree_shows_every_error_with_its_code() -> None:
    drawing = errors.__doc__ or ""
    branches = {each.__name__: each for each in tree(EdgeTuneError)}
    assert all(name in drawing for name in branches)
    for line in drawing.splitlines():
        words = line.replace("│", " ").replace("├─", " ").replace("└─", " ").split()
        if len(words) > 1 and words[0] in branches and words[1].isdigit():
            assert branches[words[0]].exit_code == int(words[1])
