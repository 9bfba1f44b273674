"""Generating with our own decoder: a key-value cache beside the same ops, a sampler, a stream of tokens.

It serves samples while training, tasks, and chats with a model that has not been exported yet.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture import transformer
from edgetune.architecture.transformer import Model
from edgetune.backend.numpy_cache import CachedOps
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.backend.numpy_tape import Floats
from edgetune.backend.ops import Cached, Row
from edgetune.errors import DataError


class Sampling(NamedTuple):
    """How the next token is chosen. Temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0


class Memory:
    """What a generator has read of a conversation, so that the next turn does not read it again."""

    def __init__(self) -> None:
        self.ops: Cached | None = None
        self.ids: list[int] = []

    def recall(self, ids: Sequence[int], new: Callable[[], Cached]) -> Cached:
        """The ops that have read the longest beginning of `ids` that is known; one token is always left to be read."""
        known = next((at for at, (old, now) in enumerate(zip(self.ids, ids, strict=False)) if old != now), len(self.ids))
        if self.ops is None:
            self.ops = new()
        self.ops.rewind(min(known, self.ops.position, len(ids) - 1))
        self.ids = list(ids)
        return self.ops


class Generator:
    """One model and one set of trained arrays, ready to continue token sequences.

    On NumPy, where `folded` keeps every layer's weight from token to token: much faster, at float32's size. Elsewhere
    `new_ops` makes what remembers a text (Runner.cached_ops), and has the trained arrays.
    """

    def __init__(
        self,
        model: Model,
        parameters: Mapping[str, Floats],
        folded: FoldedWeights | None = None,
        new_ops: Callable[[], Cached] | None = None,
    ):
        self.model, self.parameters, self.folded = model, parameters, folded
        self.new_ops = new_ops or (lambda: CachedOps(parameters, folded))
        ropes = {layer.shape.rope for layer in model.layers}
        self.long_ropes = [rope for rope in ropes if rope is not None and rope.kind == "longrope"]

    def stream(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        end_ids: Collection[int] = (),
        memory: Memory | None = None,
    ) -> Iterator[int]:
        """Yields the tokens that follow `ids`, up to `max_tokens`; one of `end_ids` ends it and is not given.

        What `memory` knows of `ids` is not read again.

        Raises:
            DataError: there is no token to begin with.
        """
        if not len(ids):
            raise DataError("the prompt has no token, and the model has none to begin with", hint="write something")
        sampling = sampling or Sampling()
        random = np.random.default_rng(sampling.seed)
        memory = memory or Memory()
        ops = memory.recall(ids, self.new_ops)
        new = np.array(ids[ops.position :], np.int32)
        for _ in range(max_tokens):
            if self.turns_otherwise(ops.length, len(memory.ids)):
                ops.rewind(0)
                new = np.array(memory.ids, np.int32)
            token = sample(self.next_logits(ops, new), sampling, random)
            if token in end_ids:
                return
            memory.ids.append(token)
            yield token
            new = np.array([token], np.int32)

    def turns_otherwise(self, before: int, now: int) -> bool:
        """Whether LongRoPE turns so many tokens by other frequencies: the keys in the cache were turned by the old ones."""
        return before > 0 and any(rope.regime(before) != rope.regime(now) for rope in self.long_ropes)

    def next_logits(self, ops: Cached, tokens: NDArray[np.int32]) -> Floats:
        """(vocab,) of what follows those tokens, which join the cache."""
        row = Row(tokens, np.full(len(tokens), -1, np.int32), ((0, len(tokens)),))
        logits = transformer.logits(ops, self.model, row, np.array([len(tokens) - 1]))
        ops.advance(len(tokens))
        return np.asarray(logits)[0]


def sample(logits: Floats, sampling: Sampling, random: np.random.Generator) -> int:
    """A token by temperature, the top_k likeliest, and the fewest that hold top_p of the probability (arXiv:1904.09751)."""
    if sampling.temperature <= 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    p = np.exp(scaled - scaled[0])
    p /= p.sum()
    if sampling.top_p < 1:
        count = int(np.searchsorted(np.cumsum(p), sampling.top_p)) + 1
        order, p = order[:count], p[:count] / p[:count].sum()
    return int(random.choice(order, p=p))
