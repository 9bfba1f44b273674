"""The time that a run will take: products of matrices, memory traffic, and Python's own pace.

Counts follow from the shapes, the machine's speed is measured in a fraction of a second; probe.py finds how far the run itself
is from them.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from edgetune.backend.sizes import QUERIES
from edgetune.config import RunConfig
from edgetune.planner.facts import Facts, ModelShape, Speed
from edgetune.planner.numpy_memory import Flight, Form, block_floats
from edgetune.planner.rows import Work, work_of
from edgetune.planner.trained import FLOAT, trained_layers, trained_parameters

GEMM_SHARE = 0.9  # of the measured speed: the run's products are less square than the measured ones
PASSES = 8  # times that a kept float is written or read in forward and backward
OP_SECONDS = 0.7e-3  # Python and NumPy's calls for one block of one row, forward and backward
TILE_SECONDS = 0.1e-3  # the same for one attention tile of one key head
UPDATE_PASSES = 24  # times that a trained float is written or read by the norm and AdamW
SAMPLE_TOKENS = 120  # of a sample, at most
FILES = 3  # floats of a checkpoint for each trained number: the number and two moments


@dataclass(frozen=True)
class TimePlan:
    """Steps, tokens through the model in them, and the seconds of the whole run: `parts` are its start, the steps, the
    validations, the samples and the checkpoints."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    parts: dict[str, float]


def plan_time(facts: Facts, config: RunConfig, form: Form, work: Work | None = None) -> TimePlan:
    """Seconds of a run. Where only the last layers learn, what the others make of a row is kept after the first pass."""
    work, shape, speed = work or work_of(facts, config), facts.shape, facts.speed
    first = pass_seconds(shape, config, form, work, speed)
    passes = work.total_steps / work.steps_per_pass
    later = first
    if keeps_prefix(facts, config):
        later = pass_seconds(without_frozen(shape, config), config, form, work, speed)
    steps = first * min(1.0, passes) + later * max(0.0, passes - 1)
    validation = first * speed.forward_share * work.valid_tokens / max(1, work.tokens)
    looks = 1 + times(work.total_steps, config.checks.eval_every)
    parts = {
        "start": speed.start_seconds,
        "steps": steps,
        "validations": validation * looks,
        "samples": sample_seconds(facts, config) * looks,
        "checkpoints": save_seconds(shape, config, speed) * saves(work, config),
    }
    pace = work.tokens * passes / steps if steps else 0.0
    return TimePlan(work.total_steps, round(work.tokens * passes), sum(parts.values()), pace, parts)


def times(steps: int, every: int) -> int:
    """How often something happens that happens every so many steps, and at the end."""
    return math.ceil(steps / every) if every else 1


def saves(work: Work, config: RunConfig) -> int:
    """How many checkpoints are written: one before the first step, those that are due, and those of better validations, of
    which each is taken to be better than the one before."""
    every, looks = config.checks.save_every, config.checks.eval_every
    due = times(work.total_steps, every)
    if not work.valid_tokens:
        return 1 + due
    common = times(work.total_steps, math.lcm(every, looks)) if every and looks else 1
    return 1 + due + times(work.total_steps, looks) - common


def save_seconds(shape: ModelShape, config: RunConfig, speed: Speed) -> float:
    """Of one checkpoint."""
    return speed.save_seconds + FLOAT * FILES * trained_parameters(shape, config.adapter) / speed.save_bytes


def sample_seconds(facts: Facts, config: RunConfig) -> float:
    """Of the answers at one validation, each as long as it may get: every weight is read for every token."""
    if not config.checks.samples:
        return 0.0
    shape = facts.shape
    read = FLOAT * (shape.layers * shape.block_parameters + shape.vocab * shape.dim)
    token = facts.speed.answer_seconds or read / facts.speed.bytes + shape.layers * OP_SECONDS
    return len(config.checks.samples) * SAMPLE_TOKENS * token


def keeps_prefix(facts: Facts, config: RunConfig) -> bool:
    """Whether what frozen layers make of a row is kept for later passes."""
    return facts.backend == "numpy" and trained_layers(facts.shape, config.adapter) < facts.shape.layers


def without_frozen(shape: ModelShape, config: RunConfig) -> ModelShape:
    """The shape of the layers that learn."""
    return msgspec.structs.replace(shape, layers=trained_layers(shape, config.adapter))


def pass_seconds(shape: ModelShape, config: RunConfig, form: Form, work: Work, speed: Speed) -> float:
    """Seconds of the steps of one pass."""
    if not speed.factors:
        layers = speed.layer_factor * layer_seconds(shape, config, form, work, speed)
        return layers + speed.rest_factor * rest_seconds(shape, config, work, speed)
    return sum(factor_at(speed, length) * counted_seconds(shape, config, form, part, speed) for length, part in by_length(work))


def by_length(work: Work) -> list[tuple[int, Work]]:
    """A pass in parts, each of the sequences of one length."""
    total = sum(length * number for length, number in work.lengths)
    packed = [length for length, _ in work.lengths] != [length for length, _ in work.spans]
    parts: list[tuple[int, Work]] = []
    for length, number in work.lengths:
        share = length * number / total
        spans = [(span, many * share) for span, many in work.spans] if packed else [(length, number)]
        parts.append((length, part_of(work, share, number, spans)))
    return parts


def part_of(work: Work, share: float, sequences: float, spans: Sequence[tuple[int, float]]) -> Work:
    """A share of the tokens of a pass."""
    return replace(
        work,
        tokens=work.tokens * share,
        trained_tokens=work.trained_tokens * share,
        sequences=sequences,
        spans=spans,
        steps_per_pass=work.steps_per_pass * share,
    )


def factor_at(speed: Speed, length: int) -> float:
    """How much longer sequences of that length take than counted: between the lengths that were timed, a line."""
    known = speed.factors
    at = bisect_left([each for each, _ in known], length)
    if at in (0, len(known)):
        return known[min(at, len(known) - 1)][1]
    (low, below), (high, above) = known[at - 1], known[at]
    return below + (above - below) * (length - low) / (high - low)


def counted_seconds(shape: ModelShape, config: RunConfig, form: Form, work: Work, speed: Speed) -> float:
    """Seconds of one pass, as counted."""
    return layer_seconds(shape, config, form, work, speed) + rest_seconds(shape, config, work, speed)


def layer_seconds(shape: ModelShape, config: RunConfig, form: Form, work: Work, speed: Speed) -> float:
    """Seconds of all layers in one pass, as counted: products at their speed, traffic at its own, and Python, which one thread
    at a time runs. Layers that nothing is learned in have a forward only."""
    passes = 3 if form.recompute else 2  # of every trained block: forward, perhaps again, backward
    block, adapter = shape.block_parameters, config.adapter
    trained = trained_layers(shape, adapter)
    frozen = shape.layers - trained
    folds = 0.0 if adapter.method == "full" else work.steps_per_pass if form.share_weights else passes * work.sequences
    keys = sum(number * (length * length + length * QUERIES) / 2 for length, number in work.spans)  # of all queries
    learned = block * trained if adapter.method == "full" else 2 * trained_parameters(shape, adapter)

    flops = 2 * block * work.tokens * (frozen + passes * trained)  # forwards, and the backward to the input
    flops += 2 * learned * work.tokens  # gradients of what is trained
    flops += 2 * adapter.rank * block * trained * folds
    flops += ((4 * passes + 6) * trained + 4 * frozen) * shape.heads * shape.head_dim * keys
    kept = block_floats(shape, adapter, Flight(1, 1)) * (trained + 0.5 * frozen)
    updated = block * trained if adapter.method == "full" else trained_parameters(shape, adapter)
    traffic = 8 * block * trained * folds + FLOAT * PASSES * kept * work.tokens
    traffic += FLOAT * UPDATE_PASSES * updated * work.steps_per_pass
    tiles = shape.kv_heads * sum(number * math.ceil(length / QUERIES) for length, number in work.spans)
    python = (trained + 0.4 * frozen) * (OP_SECONDS * work.sequences + TILE_SECONDS * tiles)
    return flops / (GEMM_SHARE * speed.flops) + traffic / speed.bytes + python


def rest_seconds(shape: ModelShape, config: RunConfig, work: Work, speed: Speed) -> float:
    """Seconds of one pass outside of the layers, as counted: the products with the head, and where that learns its update."""
    products = 4 * shape.vocab * shape.dim * work.trained_tokens
    if config.adapter.method != "full":
        return products / (GEMM_SHARE * speed.flops)
    updates = FLOAT * UPDATE_PASSES * (shape.parameters - shape.layers * shape.block_parameters) * work.steps_per_pass
    return 2 * products / (GEMM_SHARE * speed.flops) + updates / speed.bytes
