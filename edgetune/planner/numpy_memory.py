"""The memory that a run takes on the NumPy path, part by part, at each moment when it may be at its highest.

The formulas follow the backend: what each op keeps for its backward, for every row in flight (a row in flight is one worker's),
and what is there for a moment besides. tests/benchmarks/plan_memory.py compares the sums with measured peaks.
"""

from collections.abc import Iterator
from typing import NamedTuple

from edgetune.backend.sizes import BLOCK, QUERIES, VOCABULARY
from edgetune.config import AdapterConfig, RunConfig
from edgetune.planner.facts import Facts, ModelShape
from edgetune.planner.rows import fitted, longest_sequences
from edgetune.planner.trained import FLOAT, trained_kinds, trained_layers, trained_parameters

PANELS = 4_700_000  # bytes into which OpenBLAS copies panels of what it multiplies, on each thread, measured
Parts = dict[str, int]


class Flight(NamedTuple):
    """A sequence that a worker has in hand: its tokens, and how many of them have a target."""

    time: int
    kept: int


class Form(NamedTuple):
    """How a run is computed: whether activations are made again, and whether folded weights are shared by all rows."""

    recompute: bool
    share_weights: bool


def memory_parts(facts: Facts, config: RunConfig, form: Form) -> Parts:
    """Bytes by part at the highest moment of a run."""
    lasting = lasting_parts(facts, config, form)
    moments = [*step_moments(facts, config, form), update_moment(facts, config)]
    highest = max(moments, key=lambda moment: sum(moment.values()))
    return lasting | {name: FLOAT * floats for name, floats in highest.items()}


def lasting_parts(facts: Facts, config: RunConfig, form: Form) -> Parts:
    """Bytes that are there from the first step to the last."""
    trained = FLOAT * trained_parameters(facts.shape, config.adapter)
    full = config.adapter.method == "full"
    return {
        "program": facts.base_bytes + PANELS * facts.workers,
        "weights": 0 if full else facts.weight_bytes(config.training.quantize_base),
        "folded weights": FLOAT * folded_floats(facts, config) if form.share_weights and not full else 0,
        "trained": trained,
        "optimizer": 2 * trained,
        "gradients": trained * facts.workers,
    }


def folded_floats(facts: Facts, config: RunConfig) -> int:
    """Floats of the weights that are made once for all rows. A layer alone, stored as floats and without adapter, is read
    where it lies."""
    shape, adapter = facts.shape, config.adapter
    adapted, layers = trained_kinds(shape, adapter), trained_layers(shape, adapter)
    total = 0
    for joint in shape.joints:
        floats = sum(shape.linears[kind][0] * shape.linears[kind][1] for kind in joint)
        if len(joint) > 1 or not facts.stored_floats:
            total += floats * shape.layers
        elif set(joint) & adapted:
            total += floats * layers
    return total


# ---- a step ------------------------------------------------------------------------------------------------------------


def step_moments(facts: Facts, config: RunConfig, form: Form) -> Iterator[Parts]:
    """Floats of the rows in flight, at each moment when a worker may have most."""
    rows = in_flight(facts, config)
    for moment in (at_the_loss, in_the_last_block, in_the_block_before):
        yield added(moment(facts, config, form, row) for row in rows)


def in_flight(facts: Facts, config: RunConfig) -> list[Flight]:
    """The longest sequences: one for each worker, if a step has that many."""
    rows = fitted(facts.rows, config)
    step = config.training.batch * config.training.accumulate
    longest = longest_sequences(rows, config, min(facts.workers, step)) or [1]
    share = {group.tokens: group.trained / (group.tokens * group.rows) for group in rows}
    mean = sum(group.trained for group in rows) / max(1, sum(group.tokens * group.rows for group in rows))
    return [Flight(time, max(1, round(time * (mean if config.data.packing else share.get(time, mean))))) for time in longest]


def added(parts: Iterator[Parts]) -> Parts:
    """The sums by part."""
    total: Parts = {}
    for each in parts:
        for name, number in each.items():
            total[name] = total.get(name, 0) + number
    return total


def at_the_loss(facts: Facts, config: RunConfig, form: Form, row: Flight) -> Parts:
    """All blocks are behind the row. A new tile of logits is made while the one before it is still there, and so is a tile of
    the head where that is not stored as floats; the stream, normed; its gradient, and what is added to that; the targets' rows.
    """
    shape = facts.shape
    tiles = (4 if shape.caps_logits else 2) * row.kept * min(VOCABULARY, shape.vocab)
    head = 0 if facts.stored_floats else 2 * min(VOCABULARY, shape.vocab) * shape.dim
    stream = 5 * row.kept * shape.dim
    return {"activations": kept_floats(shape, config.adapter, form, row), "logits": tiles + head + stream}


def in_the_last_block(facts: Facts, config: RunConfig, form: Form, row: Flight) -> Parts:
    """The backward of the last block begins: nothing before it has gone yet."""
    kept = kept_floats(facts.shape, config.adapter, form, row)
    return {"activations": kept, "scratch": scratch_floats(facts, config.adapter, form, row)}


def in_the_block_before(facts: Facts, config: RunConfig, form: Form, row: Flight) -> Parts:
    """The backward of the block before the last one: there every token goes through the MLP."""
    shape, layers = facts.shape, trained_layers(facts.shape, config.adapter)
    if layers < 2:
        return {"activations": 0, "scratch": 0}
    whole = Flight(row.time, row.time)
    last = shape.dim * row.time if form.recompute else block_floats(shape, config.adapter, row)
    kept = kept_floats(shape, config.adapter, form, row) - last
    return {"activations": kept, "scratch": scratch_floats(facts, config.adapter, form, whole)}


def kept_floats(shape: ModelShape, adapter: AdapterConfig, form: Form, row: Flight) -> int:
    """Floats that the forward of a row keeps for its backward."""
    layers = trained_layers(shape, adapter)
    if form.recompute:
        return layers * row.time * shape.dim
    whole = block_floats(shape, adapter, Flight(row.time, row.time))
    return (layers - 1) * whole + block_floats(shape, adapter, row)


def block_floats(shape: ModelShape, adapter: AdapterConfig, row: Flight) -> int:
    """Floats that one block keeps. For each token its input; q, k, v; what attention mixed and its log-sum-exp; for each
    token that goes on the MLP's input, gate and up, their product. Where queries and keys, or what a block gives, are normed,
    also what that norm read. DoRA keeps what a joint layer gave, where nothing else does; with dropout it is made again."""
    dora = set[str]() if adapter.dropout else trained_kinds(shape, adapter) if adapter.method == "dora" else set[str]()
    attention, output, _, down = shape.joints
    before = shape.dim + 2 * shape.queries + 2 * shape.keys + shape.heads
    if shape.query_key_norm:
        before += shape.joint_outputs + shape.heads + shape.kv_heads
    elif dora & set(attention):
        before += shape.joint_outputs
    after = shape.dim + 3 * shape.hidden + (2 * shape.dim if shape.post_norms else 0)
    after += shape.dim * sum(bool(dora & set(joint)) for joint in (output, down))
    picked = row.kept * shape.queries if row.kept < row.time else 0
    return row.time * before + row.kept * after + picked


def scratch_floats(facts: Facts, adapter: AdapterConfig, form: Form, row: Flight) -> int:
    """Floats that the backward of a block needs besides what was kept, at its highest moment."""
    shape = facts.shape
    folds = 0 if form.share_weights or adapter.method == "full" else 1
    again = block_floats(shape, adapter, row) - row.time * shape.dim if form.recompute else 0
    gone = shape.hidden * row.kept  # the product of gate and up, once the down projection is behind
    gated = row.kept * (shape.dim + 3 * shape.hidden) - gone + 6 * BLOCK * shape.hidden
    down = row.kept * (shape.dim + shape.hidden) + folds * shape.hidden * shape.dim
    gate_up = row.kept * (5 * shape.dim + 2 * shape.hidden) - 3 * gone + folds * 2 * shape.hidden * shape.dim
    forward = row.time * shape.joint_outputs * (not shape.query_key_norm) + 2 * row.kept * shape.dim
    mlp = 3 * gone + row.kept * shape.dim
    scores = (6 if shape.caps_scores else 3) * QUERIES * (shape.heads // shape.kv_heads) * row.time
    attention = row.time * (shape.dim + shape.queries + shape.joint_outputs) + scores - mlp
    return again + max(gated, down, gate_up, forward, attention)


def update_moment(facts: Facts, config: RunConfig) -> Parts:
    """The optimiser at the largest array: its gradient in float64, for the norm."""
    shape, adapter = facts.shape, config.adapter
    sides = [side for kind in trained_kinds(shape, adapter) for side in shape.linears[kind]]
    largest = shape.largest if adapter.method == "full" else adapter.rank * max(sides)
    return {"scratch": 2 * largest}
