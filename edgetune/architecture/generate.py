"""Generating with our own decoder: a key-value cache beside the same ops, a sampler, a stream of tokens.

It serves samples while training, tasks, and chats with a model that has not been exported yet.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture import transformer
from edgetune.architecture.transformer import Model
from edgetune.backend.numpy_attention import QUERIES, rotation, scores
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_stream import blocks
from edgetune.backend.numpy_tape import Floats, Value
from edgetune.backend.ops import HeadShape, Row, Spans
from edgetune.errors import DataError


class Sampling(NamedTuple):
    """How the next token is chosen. Temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0


class CachedOps(NumpyOps):
    """The ops for tokens that continue what was seen before: keys and values of every layer are kept."""

    def __init__(self, parameters: Mapping[str, Floats], folded: FoldedWeights | None = None):
        super().__init__({}, folded=folded)
        self.parameters, self.learning = parameters, False
        self.keys: list[Floats] = []
        self.values: list[Floats] = []
        self.position = self.layer = 0
        self.length = 0  # of the text when its keys were last turned

    def rotation(self, spans: Spans, shape: HeadShape) -> tuple[Floats, Floats]:
        """Positions go on from those in the cache."""
        return rotation(spans, shape.rope, self.dtype, self.position)

    def attention(self, q: Value, k: Value, v: Value, spans: Spans, window: int | None, cap: float | None) -> Value:
        """The new queries over all keys, old and new."""
        if self.layer == len(self.keys):
            self.keys.append(k.data)
            self.values.append(v.data)
        else:
            self.keys[self.layer] = np.concatenate([self.keys[self.layer], k.data], axis=1)
            self.values[self.layer] = np.concatenate([self.values[self.layer], v.data], axis=1)
        keys, values = self.keys[self.layer], self.values[self.layer]
        self.layer += 1
        kv_heads, time, group, head_dim = q.data.shape
        mixed = np.empty((time, kv_heads, group, head_dim), self.dtype)
        for head in range(kv_heads):
            for rows in blocks(time, QUERIES):
                last = self.position + rows.stop
                first = max(0, self.position + rows.start + 1 - window) if window else 0
                p, _ = scores(q.data[head, rows], keys[head, first:last], self.position + rows.start - first, window, cap)
                p -= p.max(-1, keepdims=True)
                np.exp(p, out=p)
                p /= p.sum(-1, keepdims=True)
                mixed[rows, head] = (p @ values[head, first:last]).reshape(-1, group, head_dim)
        return Value(mixed.reshape(time, -1), wanted=False)

    def advance(self, time: int) -> None:
        """The tokens that just went through are behind us now."""
        self.position, self.layer = self.position + time, 0
        self.length = self.position

    def rewind(self, position: int) -> None:
        """Forgets the tokens from that position on."""
        self.keys = [keys[:, :position] for keys in self.keys]
        self.values = [values[:, :position] for values in self.values]
        self.position = position


class Memory:
    """What a generator has read of a conversation, so that the next turn does not read it again."""

    def __init__(self) -> None:
        self.ops: CachedOps | None = None
        self.ids: list[int] = []

    def recall(self, ids: Sequence[int], new: Callable[[], CachedOps]) -> CachedOps:
        """The ops that have read the longest beginning of `ids` that is known; one token is always left to be read."""
        known = next((at for at, (old, now) in enumerate(zip(self.ids, ids, strict=False)) if old != now), len(self.ids))
        if self.ops is None:
            self.ops = new()
        self.ops.rewind(min(known, self.ops.position, len(ids) - 1))
        self.ids = list(ids)
        return self.ops


class Generator:
    """One model and one set of trained arrays, ready to continue token sequences.

    `folded` keeps every layer's weight from token to token: much faster, at float32's size.
    """

    def __init__(self, model: Model, parameters: Mapping[str, Floats], folded: FoldedWeights | None = None):
        self.model, self.parameters, self.folded = model, parameters, folded
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
        ops = memory.recall(ids, lambda: CachedOps(self.parameters, self.folded))
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

    def next_logits(self, ops: CachedOps, tokens: NDArray[np.int32]) -> Floats:
        """(vocab,) of what follows those tokens, which join the cache."""
        row = Row(tokens, np.full(len(tokens), -1, np.int32), ((0, len(tokens)),))
        logits = transformer.logits(ops, self.model, row, np.array([len(tokens) - 1]))
        ops.advance(len(tokens))
        return logits[0]


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
