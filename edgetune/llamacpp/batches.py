"""How a sequence is cut into what llama.cpp evaluates at once, and what is made of its logits."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BATCH = 512
"""Tokens that are evaluated at once."""
OUTPUTS = 64
"""Rows of logits that one batch may give: llama.cpp reserves memory for OUTPUTS x vocab."""


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens two sequences share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def parts(positions: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Cuts a sequence up to its last asked position into batches: start, stop, and the asked positions within it.

    A part has at most BATCH tokens, of which at most OUTPUTS are asked for.
    """
    start, asked = 0, list[int]()
    for position in positions:
        while position - start >= BATCH or len(asked) == OUTPUTS:
            stop = start + BATCH if position - start >= BATCH else start + asked[-1] + 1
            yield start, stop, asked
            start, asked = stop, []
        asked.append(position - start)
    if asked:
        yield start, start + asked[-1] + 1, asked


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(vocab) -> (vocab): log-probabilities; the sum is taken in float64."""
    shifted = logits - logits.max()
    return shifted - np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))
