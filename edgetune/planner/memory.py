"""The memory that a run will take on the NumPy path, part by part, and what would make it smaller.

The formulas follow the backend: what each op keeps for its backward, for every row in flight; a row in flight is one
worker's. Tests compare the sum with measured peaks. The same formulas serve for MLX, where no peak was compared: its workers
are the rows that go through together.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from edgetune.adapters.lora import adapted_paths
from edgetune.architecture.load import parameter_shapes
from edgetune.architecture.spec import ModelSpec
from edgetune.backend.numpy_attention import QUERIES
from edgetune.backend.numpy_loss import VOCABULARY
from edgetune.backend.numpy_stream import BLOCK
from edgetune.config import AdapterConfig, QuantizeBase, RunConfig, apply_setting, convert
from edgetune.errors import DoesNotFit
from edgetune.units import count, size

FLOAT = 4  # bytes
INTERPRETER = 65_000_000  # Python, NumPy, the tokenizer libraries and our own code, measured
VOCABULARY_ENTRY = 600  # bytes of a tokenizer's tables for each token
ROW, TOKEN = 400, 5  # bytes of a row in memory, and of each of its tokens
ROUNDED: dict[QuantizeBase, str] = {
    "8bit": "frozen weights are rounded to 8 bits, which is hardly felt; steps are a little slower",
    "4bit": "frozen weights are rounded to 4 bits, which the smallest models feel; steps are a little slower",
}


@dataclass(frozen=True)
class Suggestion:
    """One setting that would need less memory, what it would then be, and what it costs."""

    setting: str
    peak_bytes: int
    fits: bool
    cost: str


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part at the peak of a run, and whether they fit into what is usable."""

    parts: dict[str, int]
    peak_bytes: int
    usable_bytes: int
    recompute: bool
    share_weights: bool
    suggestions: tuple[Suggestion, ...]

    @property
    def fits(self) -> bool:
        """Whether the machine can give that much."""
        return self.peak_bytes <= self.usable_bytes

    def require_fit(self) -> None:
        """Refuses a run that the machine cannot hold.

        Raises:
            DoesNotFit: with the settings that would make it fit.
        """
        if self.fits:
            return
        helpful = [f"--set {each.setting} ({size(each.peak_bytes)})" for each in self.suggestions if each.fits]
        hint = (
            "try " + " or ".join(helpful)
            if helpful
            else "close other programs, or take a smaller model: no single setting is enough"
        )
        raise DoesNotFit(f"training needs {size(self.peak_bytes)} of memory, {size(self.usable_bytes)} is usable", hint=hint)


@dataclass(frozen=True)
class Load:
    """What a run puts on the machine, besides the model: the rows' lengths in tokens, workers, stored and usable bytes.

    `quantized_bytes`: what the weights would take in fewer bits; empty where they are packed already.
    """

    lengths: Sequence[int]
    workers: int
    stored_bytes: int
    usable_bytes: int
    quantized_bytes: Mapping[QuantizeBase, int] = field(default_factory=lambda: dict[QuantizeBase, int]())

    def weight_bytes(self, precision: QuantizeBase) -> int:
        """What the frozen weights take in that precision."""
        return self.quantized_bytes.get(precision, self.stored_bytes)


def plan_memory(spec: ModelSpec, config: RunConfig, load: Load) -> MemoryPlan:
    """The peak of a run, in the fastest form that fits: activations kept before those made again (unless the config says
    which), and weights folded once for all rows of a step before those folded for each row. Folded ones are floats: who
    asked for fewer bits is not given them."""
    choices = {"auto": (False, True), "off": (False,), "layers": (True,)}[config.training.recompute]
    shares = (True, False) if config.training.quantize_base == "none" else (False,)
    plans = [formed(spec, config, load, recompute, share) for recompute in choices for share in shares]
    plan = next((plan for plan in plans if plan.fits), plans[-1])
    return plan if plan.fits else replace(plan, suggestions=suggestions(spec, config, load, plan.recompute))


def formed(spec: ModelSpec, config: RunConfig, load: Load, recompute: bool, share_weights: bool) -> MemoryPlan:
    """The plan of one form, whether it fits or not."""
    parts = memory_parts(spec, config, load, recompute, share_weights)
    return MemoryPlan(parts, sum(parts.values()), load.usable_bytes, recompute, share_weights, ())


def memory_parts(
    spec: ModelSpec, config: RunConfig, load: Load, recompute: bool, share_weights: bool = False
) -> dict[str, int]:
    """Bytes by part."""
    trained = trained_parameters(spec, config.adapter)
    full = config.adapter.method == "full"
    time = longest_sequence(config, load.lengths)
    in_flight = rows_in_flight(config, load, time)
    return {
        "weights": 0 if full else load.weight_bytes(config.training.quantize_base),
        "folded weights": FLOAT * spec.layers * block_parameters(spec) if share_weights and not full else 0,
        "trained": FLOAT * trained,
        "optimizer": 2 * FLOAT * trained,
        "gradients": FLOAT * trained * load.workers,
        "activations": FLOAT * in_flight * kept_floats(spec, config.adapter, time, recompute),
        "scratch": FLOAT * in_flight * scratch_floats(spec, time),
        "rows": ROW * len(load.lengths) + TOKEN * sum(load.lengths),
        "interpreter": INTERPRETER + VOCABULARY_ENTRY * spec.vocab,
    }


def trained_parameters(spec: ModelSpec, adapter: AdapterConfig) -> int:
    """How many numbers are trained: those of the factors, DoRA's magnitudes and rows of tokens, or all."""
    if adapter.method == "full":
        return sum(math.prod(shape) for shape in parameter_shapes(spec).values())
    shapes = adapted_paths(spec, adapter.targets, adapter.layers).values()
    besides = sum(outputs for outputs, _ in shapes) if adapter.method == "dora" else 0
    besides += len(adapter.train_tokens) * spec.dim * (1 if spec.tied else 2)
    return besides + sum(adapter.rank * (outputs + inputs) for outputs, inputs in shapes)


def block_parameters(spec: ModelSpec) -> int:
    """Numbers in the linear layers of one block."""
    return sum(math.prod(spec.linear_shape(kind)) for kind in spec.linear_kinds)


def longest_sequence(config: RunConfig, lengths: Sequence[int]) -> int:
    """Tokens of the longest row that a worker meets: packed ones are filled up to data.max_tokens."""
    limit = config.data.max_tokens
    return min(limit, sum(lengths)) if config.data.packing else min(limit, max(lengths, default=0))


def rows_in_flight(config: RunConfig, load: Load, time: int) -> int:
    """How many rows are at work at once: one for each worker, if a step has that many."""
    step = config.training.batch * config.training.accumulate
    there_are = math.ceil(sum(load.lengths) / max(1, time)) if config.data.packing else len(load.lengths)
    return max(1, min(load.workers, step, there_are))


def kept_floats(spec: ModelSpec, adapter: AdapterConfig, time: int, recompute: bool) -> int:
    """Floats that the forward of one row keeps for its backward."""
    layers, block = trained_layers(spec, adapter), block_floats(spec) + dora_floats(spec, adapter)
    return time * (layers * spec.dim + block) if recompute else time * layers * block


def trained_layers(spec: ModelSpec, adapter: AdapterConfig) -> int:
    """How many layers, from the last one down, a backward passes through."""
    if adapter.method == "full" or adapter.layers == "all" or adapter.train_tokens:
        return spec.layers
    return min(adapter.layers, spec.layers)


def block_floats(spec: ModelSpec) -> int:
    """Floats that one block keeps for each token: its input and that of its MLP; q, k, v; what attention mixed and its
    log-sum-exp; gate and up; their product. Where queries and keys, or what a block gives, are normed, also what that norm
    read."""
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    normed = queries + 2 * keys if spec.query_key_norm else 0
    normed += 2 * spec.dim if spec.post_norms else 0
    return 2 * spec.dim + 2 * queries + 2 * keys + spec.heads + 3 * spec.hidden + normed


def dora_floats(spec: ModelSpec, adapter: AdapterConfig) -> int:
    """Floats that DoRA keeps besides for each token of a block: what a joint layer gave, where nothing else keeps that.

    With dropout it is made again instead. What gate and up gave is kept anyway; so are q, k and v where a norm reads them.
    """
    if adapter.method != "dora" or adapter.dropout:
        return 0
    kinds = set(adapter.targets)
    joint = 0 if spec.query_key_norm else (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    return joint * bool(kinds & {"q_proj", "k_proj", "v_proj"}) + spec.dim * len(kinds & {"o_proj", "down_proj"})


def scratch_floats(spec: ModelSpec, time: int) -> int:
    """Floats that a worker needs for a moment: at the loss, or in the backward of a block, whichever is more."""
    tile = min(VOCABULARY, spec.vocab)
    loss = 2 * time * tile + 3 * time * spec.dim + 2 * tile * spec.dim
    joint = max(2 * spec.hidden * spec.dim, (spec.heads + 2 * spec.kv_heads) * spec.head_dim * spec.dim)
    scores = 3 * QUERIES * (spec.heads // spec.kv_heads) * time
    block = joint + time * (3 * spec.hidden + 3 * spec.dim) + scores + 4 * BLOCK * spec.hidden
    return max(loss, block)


def suggestions(spec: ModelSpec, config: RunConfig, load: Load, recompute: bool) -> tuple[Suggestion, ...]:
    """Settings that need less, each at the mildest value that fits, or at its strongest where none does."""
    best: dict[str, Suggestion] = {}
    for setting, cost in milder_to_stronger(spec, config, load, recompute):
        key = setting.partition("=")[0]
        if key not in best or not best[key].fits:
            changed = with_setting(config, setting)
            with_recompute = recompute or changed.training.recompute == "layers"
            need = sum(memory_parts(spec, changed, load, with_recompute).values())
            best[key] = Suggestion(setting, need, need <= load.usable_bytes, cost)
    return tuple(sorted(best.values(), key=lambda each: not each.fits))


def milder_to_stronger(spec: ModelSpec, config: RunConfig, load: Load, recompute: bool) -> Iterator[tuple[str, str]]:
    """Settings that may help, and what each costs."""
    if not recompute:
        yield "training.recompute=layers", "each step takes about 1.4 times as long"
    if config.adapter.method != "full":
        for precision, cost in ROUNDED.items():
            if load.weight_bytes(precision) < load.weight_bytes(config.training.quantize_base):
                yield f"training.quantize_base={precision}", cost
    longest, now = max(load.lengths, default=0), longest_sequence(config, load.lengths)
    for tokens in (1 << power for power in range(14, 6, -1)):
        if tokens < now:
            fate = {"drop": "left out", "cut": "cut", "split": "split"}[config.data.long_rows]
            long = sum(length > tokens for length in load.lengths)
            yield (
                f"data.max_tokens={tokens}",
                f"{count(long)} rows are {fate}" if longest > tokens else "steps are a little slower",
            )
    if config.adapter.method == "full":
        yield "adapter.method=lora", "an adapter learns less than all weights could"
    elif config.adapter.layers == "all" and spec.layers > 1:
        yield f"adapter.layers={spec.layers // 2}", "only the upper half of the layers learns"


def with_setting(config: RunConfig, setting: str) -> RunConfig:
    """The config as `--set` would make it."""
    values = msgspec.to_builtins(config)
    apply_setting(values, setting)
    return convert(values)
