"""The time that a run will take on the NumPy path: products of matrices, memory traffic, and Python's own pace.

Speeds are measured on the machine in a fraction of a second, counts follow from the shapes; probe.py finds how far the run
itself is from them.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgetune.architecture.spec import ModelSpec
from edgetune.backend.numpy_attention import QUERIES
from edgetune.config import RunConfig
from edgetune.planner.memory import block_floats, block_parameters, trained_layers, trained_parameters

GEMM_SHARE = 0.9  # of the measured speed: the run's products are less square than the measured ones
PASSES = 8  # times that a kept float is written or read in forward and backward
OP_SECONDS = 0.7e-3  # Python and NumPy's calls for one block of one row, forward and backward
TILE_SECONDS = 0.1e-3  # the same for one attention tile of one key head
FORWARD_SHARE = 0.4  # of a step's time for the same tokens: what a validation costs


@dataclass(frozen=True)
class Speed:
    """What all cores together do: floating-point operations and bytes moved, per second.

    The factors say how much longer layers, and all that is outside of them, take than these numbers make it.
    """

    flops: float
    bytes: float
    layer_factor: float = 1.0
    rest_factor: float = 1.0


@dataclass(frozen=True)
class Work:
    """What goes through the model in one pass over the rows, how many steps that makes, and how many the run has."""

    tokens: int
    trained_tokens: int
    sequences: int
    spans: Sequence[int]  # lengths of the rows, which attention does not leave
    steps_per_pass: int
    total_steps: int
    valid_tokens: int


@dataclass(frozen=True)
class TimePlan:
    """Steps, tokens through the model in them, and the seconds of the whole run, validations included."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float


def measure_speed(workers: int, seconds: float = 0.1) -> Speed:
    """The best of a few float32 products and copies, on as many threads as BLAS takes here."""
    a, b = (np.ones((1024, 1024), np.float32) for _ in range(2))
    source, target = np.ones(1 << 22, np.float32), np.empty(1 << 22, np.float32)
    product = best_time(lambda: np.matmul(a, b), seconds)
    copy = best_time(lambda: np.copyto(target, source), seconds)
    return Speed(flops=2 * 1024**3 / product, bytes=min(workers, 2) * 2 * source.nbytes / copy)  # two cores fill a laptop's bus


def best_time(action: Callable[[], object], seconds: float) -> float:
    """The shortest time of an action that is repeated for that long, twice at least."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def plan_time(spec: ModelSpec, config: RunConfig, work: Work, recompute: bool, speed: Speed) -> TimePlan:
    """Seconds of all steps, and of the validations before, between and after them."""
    layers = layer_seconds(spec, config, work, recompute, speed)
    one_pass = speed.layer_factor * layers + speed.rest_factor * rest_seconds(spec, work, speed)
    passes = work.total_steps / work.steps_per_pass
    validation = one_pass * FORWARD_SHARE * work.valid_tokens / work.tokens
    validations = 1 + math.ceil(work.total_steps / (config.checks.eval_every or work.total_steps))
    seconds = one_pass * passes + validation * validations
    return TimePlan(work.total_steps, round(work.tokens * passes), seconds, work.tokens / one_pass)


def layer_seconds(spec: ModelSpec, config: RunConfig, work: Work, recompute: bool, speed: Speed) -> float:
    """Seconds of all layers in one pass, as counted: products at their speed, traffic at its own, and Python, which one thread
    at a time runs."""
    passes = 3 if recompute else 2  # of every block: forward, perhaps again, backward
    block = block_parameters(spec)
    trained, learned = trained_layers(spec, config.adapter), trained_parameters(spec, config.adapter)
    folds = passes * work.sequences if config.adapter.method != "full" else 0
    keys = sum(length * length / 2 + length * QUERIES / 2 for length in work.spans)  # of all queries, whole tiles

    flops = 2 * block * work.tokens * (spec.layers + (passes - 1) * trained)  # forwards, and the backward to the input
    flops += 2 * learned * work.tokens * (2 if config.adapter.method != "full" else 1)  # gradients of what is trained
    flops += 2 * config.adapter.rank * block * trained * folds
    flops += (4 * passes + 6) * spec.heads * spec.head_dim * keys * spec.layers
    traffic = 8 * block * trained * folds + 4 * PASSES * block_floats(spec) * spec.layers * work.tokens
    tiles = spec.kv_heads * sum(math.ceil(length / QUERIES) for length in work.spans)
    python = spec.layers * (OP_SECONDS * work.sequences + TILE_SECONDS * tiles)
    return flops / (GEMM_SHARE * speed.flops) + traffic / speed.bytes + python


def rest_seconds(spec: ModelSpec, work: Work, speed: Speed) -> float:
    """Seconds of one pass outside of the layers, as counted: the products with the head."""
    return 4 * spec.vocab * spec.dim * work.trained_tokens / (GEMM_SHARE * speed.flops)
