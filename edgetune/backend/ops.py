"""What the transformer needs of a backend: the operations, and the small records that they are told about.

Axes, everywhere in this project: `time` tokens of a row · `dim` model width · `inputs` and `outputs` of a linear layer ·
`heads` query heads · `kv_heads` key and value heads · `group` = heads / kv_heads · `head_dim` · `hidden` width of the MLP ·
`vocab` · `rank` of an adapter · `kept` positions of a row that a loss is asked for. There is no batch axis: a backend may
run rows side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.rope import Rope
from edgetune.backend.trained_rows import TrainedRows

Value = Any  # an array in flight: a lazy MLX array, or a node of the NumPy tape
Array = Any  # an array of the backend
Frozen = Any  # a matrix as the backend keeps it, in its stored precision
Tokens = NDArray[np.int32]
Spans = tuple[tuple[int, int], ...]  # start and stop of each sequence of a row


class Norm(NamedTuple):
    """RMS norm (arXiv:1910.07467). Gemma's "1 + weight" is applied on load: a weight is what the input is multiplied with."""

    name: str  # Hugging Face parameter name; its gradient is kept if that is trained
    weight: Array  # (dim,), (head_dim,) or (heads * head_dim,)
    eps: float
    scale: float = 1.0  # what comes out is multiplied by it, too: Granite's way to divide its logits


class Adapter(NamedTuple):
    """A low-rank update (arXiv:2106.09685): W + scale * B @ A. B and A are the trained arrays NAME.lora_B and NAME.lora_A.

    DoRA (arXiv:2402.09353) brings each row of that sum to the length in NAME.lora_magnitude_vector, which is trained too; the
    row's present length counts as a constant in the backward.
    """

    scale: float
    dropout: float = 0.0
    dora: bool = False


Place = Adapter | TrainedRows  # what is trained at a module


class Linear(NamedTuple):
    """One linear layer of the model; also the embedding and the head, which are matrices of the same kind.

    Only of these two, single rows may be trained: they are the array NAME.trainable_tokens_delta (tokens, dim).
    """

    name: str  # Hugging Face module path, "model.layers.0.self_attn.q_proj"
    weight: Frozen  # (outputs, inputs)
    bias: Array | None = None  # (outputs,)
    adapter: Adapter | None = None
    rows: TrainedRows | None = None


class Joint(NamedTuple):
    """Linear layers that read the same input, computed as one: their outputs are laid side by side."""

    parts: tuple[Linear, ...]
    stacked: Array | None = None  # all the weights, where they lie behind each other in memory as floats


@dataclass(frozen=True)
class HeadShape:
    """How one layer's attention reads its projections. Without a rope nothing is rotated (NoPE)."""

    heads: int
    kv_heads: int
    head_dim: int
    query_scale: float
    rope: Rope | None

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads


class Row(NamedTuple):
    """Sequences laid end to end. None of them sees another."""

    tokens: Tokens  # (time,)
    targets: Tokens  # (time,) the token to predict after each, or -1 where nothing is learned
    spans: Spans

    @property
    def trained_tokens(self) -> int:
        """How many positions have a target."""
        return int(np.count_nonzero(self.targets >= 0))

    @property
    def kept(self) -> NDArray[np.intp]:
        """(kept,) the positions that have a target."""
        return np.flatnonzero(self.targets >= 0)

    @property
    def kept_targets(self) -> Tokens:
        """(kept,) their targets."""
        return self.targets[self.kept]


class Ops(Protocol):
    """The operations, each on one row."""

    def embed(self, table: Linear, tokens: Tokens, scale: float) -> Value:
        """tokens (time,) -> (time, dim): rows of the table, scaled."""
        ...

    def project(self, x: Value, joint: Joint, norm: Norm | None = None) -> Value:
        """(time, inputs) -> (time, outputs): the joint linear layers of norm(x), their biases and adapters included."""
        ...

    def heads(
        self, qkv: Value, shape: HeadShape, query_norm: Norm | None, key_norm: Norm | None, spans: Spans
    ) -> tuple[Value, Value, Value]:
        """(time, (heads + 2 kv_heads) head_dim) -> q (kv_heads, time, group, head_dim), k and v (kv_heads, time, head_dim).

        q and k are normed, then rotated by their position in their span (the first half of the turned dimensions against
        the second, Hugging Face's layout); q is scaled.
        """
        ...

    def attention(self, q: Value, k: Value, v: Value, spans: Spans, window: int | None, cap: float | None) -> Value:
        """-> (time, heads head_dim). Causal, within each span, over the last `window` tokens; scores bent by `cap`.

        Computed in tiles with a running log-sum-exp (arXiv:2205.14135); bent means cap * tanh(score / cap).
        """
        ...

    def gated(self, gate_up: Value, activation: str) -> Value:
        """(time, 2 hidden) -> (time, hidden): activation(gate) * up (arXiv:2002.05202)."""
        ...

    def add(self, x: Value, y: Value, norm: Norm | None = None, scale: float = 1.0) -> Value:
        """x + scale * norm(y), both (time, dim)."""
        ...

    def keep(self, x: Value, positions: NDArray[np.intp]) -> Value:
        """(time, dim) -> (kept, dim): only the positions that a loss is asked for go on."""
        ...

    def loss(self, x: Value, norm: Norm, head: Linear, targets: Tokens, cap: float | None) -> Value:
        """Sum of the cross-entropy of norm(x) @ head.T, (kept, dim) against (kept,). No array of kept x vocab is made."""
        ...

    def log_probabilities(self, x: Value, norm: Norm, head: Linear, targets: Tokens, cap: float | None) -> Value:
        """(kept,) log p(target), natural logarithm. No gradient goes through it."""
        ...

    def logits(self, x: Value, norm: Norm, head: Linear, cap: float | None) -> Value:
        """(kept, dim) -> (kept, vocab), for generating and comparing: a few positions at a time."""
        ...

    def recompute(self, run: Callable[["Ops", Value], Value], x: Value) -> Value:
        """run(self, x), keeping only x: the backward runs it again (arXiv:1604.06174)."""
        ...

    def frozen(self, run: Callable[["Ops", Value], Value], x: Value) -> Value:
        """run(self, x) as a constant: no gradient goes through it, and nothing is kept for one."""
        ...


class Cached(Ops, Protocol):
    """The operations for tokens that continue what was seen before: keys and values of every layer are kept."""

    position: int  # how many tokens were seen
    length: int  # of the text when its keys were last turned

    def advance(self, time: int) -> None:
        """The tokens that just went through are behind us now."""
        ...

    def rewind(self, position: int) -> None:
        """Forgets the tokens from that position on."""
        ...
