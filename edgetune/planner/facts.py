"""What a plan stands on besides the config: the model's shape, the rows' lengths, the machine, its measured speed.

The record is small and goes through JSON (`plan --json` has it under "facts"): a process that holds it plans anew for another
config in a moment, without the model, the rows, or any library of numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from edgetune.config import LINEAR_KINDS, QuantizeBase

if TYPE_CHECKING:
    from edgetune.architecture.spec import ModelSpec

BackendName = Literal["numpy", "mlx"]


class ModelShape(Struct, frozen=True, kw_only=True):
    """What of a model counts in a plan. Names as in architecture/spec.py; layers' values stand in the layers' order."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    tied: bool
    windows: tuple[int | None, ...]
    query_key_norm: bool = False
    post_norms: bool = False
    caps_scores: bool = False
    caps_logits: bool = False
    scales_stream: bool = False  # what blocks give is multiplied before it joins the stream
    joints: tuple[tuple[str, ...], ...]  # kinds of linear layers that read the same input
    linears: dict[str, tuple[int, int]]  # (outputs, inputs) of each kind
    names: dict[str, str]  # the kind that a target of the config stands for
    parameters: int  # all numbers of the model
    largest: int  # numbers of the largest array

    @property
    def queries(self) -> int:
        """Numbers in the queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Numbers in the keys of a token; as many are in the values."""
        return self.kv_heads * self.head_dim

    @property
    def joint_outputs(self) -> int:
        """What queries, keys and values are together."""
        return self.queries + 2 * self.keys

    @property
    def block_parameters(self) -> int:
        """Numbers in the linear layers of one block."""
        return sum(outputs * inputs for outputs, inputs in self.linears.values())


class RowGroup(Struct, frozen=True, array_like=True):
    """Rows of one length: their tokens each, how many they are, and the trained tokens of all of them."""

    tokens: int
    rows: int
    trained: int


class Counted(Struct, frozen=True, kw_only=True):
    """What one pass over the rows is, counted exactly, and the settings for which that holds (rows.settings_of)."""

    settings: tuple[str, ...]
    tokens: int
    trained: int
    sequences: int
    steps: int


class Speed(Struct, frozen=True, kw_only=True):
    """What all cores together do: floating-point operations and bytes moved, per second, and how a run was found to differ.

    The factors say how much longer things take than these numbers make them: layers and what is outside of them, as timed on
    the first layers; or `factors`, (tokens of a sequence, factor) of whole steps, where those were timed (`plan --probe`).
    """

    flops: float
    bytes: float
    layer_factor: float = 1.0
    rest_factor: float = 1.0
    factors: tuple[tuple[int, float], ...] = ()
    spread: float = 0.0  # of the times of one step: half of the distance from the fastest to the slowest, by the median
    forward_share: float = 0.4  # of a step's time for the same tokens: what a validation costs
    start_seconds: float = 0.0  # until the first step: rows, model, adapter
    save_bytes: float = 200e6  # a second that a checkpoint writes, hashed and flushed
    save_seconds: float = 0.05  # of every checkpoint besides
    answer_seconds: float = 0.0  # of one sample's token; 0: by the counts

    @property
    def probed(self) -> bool:
        """Whether whole steps were timed."""
        return bool(self.factors)


class Facts(Struct, frozen=True, kw_only=True):
    """Everything that a plan follows from, but the config."""

    shape: ModelShape
    rows: tuple[RowGroup, ...]  # whole rows, also those that are longer than data.max_tokens
    valid: tuple[RowGroup, ...] = ()
    backend: BackendName = "numpy"
    workers: int = 1  # threads on NumPy; on MLX the rows of a micro-batch go through together
    stored_bytes: int = 0
    stored_floats: bool = False  # the matrices are stored in float32
    quantized_bytes: dict[QuantizeBase, int] = {}  # empty: they are packed already
    base_bytes: int = 0  # of the process once the rows are read, before it touches the model
    usable_bytes: int = 0
    free_bytes: int = 0  # on the disk of the run
    speed: Speed = Speed(flops=1e11, bytes=1e10)
    counted: Counted | None = None

    def weight_bytes(self, precision: QuantizeBase) -> int:
        """What the frozen weights take in that precision."""
        return self.quantized_bytes.get(precision, self.stored_bytes)


def shape_of(spec: ModelSpec) -> ModelShape:
    """What of a spec counts in a plan."""
    norms = spec.layers * spec.dim * (4 if spec.post_norms else 2) + spec.dim
    norms += 2 * spec.layers * spec.head_dim if spec.query_key_norm else 0
    linears = {kind: spec.linear_shape(kind) for kind in spec.linear_kinds}
    biased = {"q_proj": spec.qkv_bias, "k_proj": spec.qkv_bias, "v_proj": spec.qkv_bias, "o_proj": spec.output_bias}
    biases = spec.layers * sum(outputs for kind, (outputs, _) in linears.items() if biased.get(kind, spec.mlp_bias))
    return ModelShape(
        vocab=spec.vocab,
        dim=spec.dim,
        layers=spec.layers,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        hidden=spec.hidden,
        tied=spec.tied,
        windows=spec.windows,
        query_key_norm=spec.query_key_norm,
        post_norms=spec.post_norms,
        caps_scores=spec.attention_cap is not None,
        caps_logits=spec.logit_cap is not None,
        scales_stream=spec.residual_scale != 1,
        joints=spec.joints,
        linears=linears,
        names={kind: spec.kinds_of([kind])[0] for kind in LINEAR_KINDS},
        parameters=spec.parameters + norms + biases,
        largest=max(spec.vocab * spec.dim, *(outputs * inputs for outputs, inputs in linears.values())),
    )
