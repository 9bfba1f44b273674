"""Our decoder gives transformers' log-probabilities, to 1e-4, on random models of every switch.

From both forms of config.json. What transformers computed is stored (make_transformers_fixtures.py); the weights are
drawn anew.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from random_model import tokens, write_model

from edgetune.architecture.load import load_model
from edgetune.architecture.transformer import logits
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row

STORED = json.loads((Path(__file__).parent / "fixtures" / "transformers.json").read_text("utf-8"))
CASES, SEED = STORED["cases"], STORED["seed"]


def log_probabilities(folder: Path, ids: np.ndarray, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(time, vocab) log p of what follows each token."""
    row = Row(ids, np.full(len(ids), -1, np.int32), spans)
    table = logits(NumpyOps({}), load_model(folder), row, np.arange(len(ids))).astype(np.float64)
    table -= table.max(-1, keepdims=True)
    return table - np.log(np.exp(table).sum(-1, keepdims=True))


def difference(table: np.ndarray, ids: np.ndarray, stored: dict) -> float:
    """The greatest difference from what transformers computed, anywhere in a sequence and after its end."""
    following = table[np.arange(len(ids) - 1), ids[1:]] - stored["following"]
    return max(np.abs(following).max(), np.abs(table[-1] - stored["after_the_last"]).max())


@pytest.mark.parametrize("form", ["v4", "v5"])
@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_are_those_of_transformers(name: str, form: str, tmp_path: Path) -> None:
    case = CASES[name]
    write_model(tmp_path, case[form], SEED, case["dtype"])
    for stored in case["sequences"]:
        ids = tokens(SEED, "tokens", stored["length"], case[form]["vocab_size"])
        table = log_probabilities(tmp_path, ids, ((0, len(ids)),))
        assert difference(table, ids, stored) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_sequences_packed_in_one_row_do_not_touch(name: str, tmp_path: Path) -> None:
    """A short and a long sequence lie end to end: positions, windows and stretched ropes begin anew in each."""
    case = CASES[name]
    write_model(tmp_path, case["v5"], SEED, case["dtype"])
    parts = [tokens(SEED, "tokens", stored["length"], case["v5"]["vocab_size"]) for stored in case["sequences"]]
    ends = np.cumsum([len(part) for part in parts])
    spans = tuple((int(end) - len(part), int(end)) for end, part in zip(ends, parts, strict=True))
    table = log_probabilities(tmp_path, np.concatenate(parts), spans)
    for (start, stop), ids, stored in zip(spans, parts, case["sequences"], strict=True):
        assert difference(table[start:stop], ids, stored) < 1e-4


def test_the_switches_matter() -> None:
    """The cases are worth something only if no two of them agree: then each of their switches changed the outcome."""
    same = {("llama", "mistral")}  # without a window a Mistral is a Llama
    for (one, a), (other, b) in itertools.combinations(CASES.items(), 2):
        x, y = (case["sequences"][1]["following"] for case in (a, b))
        assert ((one, other) in same) == bool(np.abs(np.subtract(x, y)).max() < 1e-2), (one, other)
