"""A few real steps of a run on the model's first layers, timed: how this machine keeps up with the counts of time.py.

What the counts cannot know is in them: dropout, short rows, how Python and memory get along with several workers. One and
two layers tell what a layer costs and what is there once; rows are cut so that it stays a matter of seconds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgetune.architecture.spec import ModelSpec
from edgetune.backend.ops import Row
from edgetune.planner.facts import Speed, shape_of
from edgetune.planner.numpy_memory import Form
from edgetune.planner.rows import Work
from edgetune.planner.time import counted_seconds, layer_seconds, rest_seconds
from edgetune.text.batches import to_row
from edgetune.training.loss import row_loss
from edgetune.training.order import StepOrder
from edgetune.training.session import Prepared, Resources, build

STEP_SECONDS = 0.4  # about as long as a probed step may take
STEPS = 3  # or rounds of short ones, timed of each kind, after one that warms up
LEAST_SECONDS = 0.25  # a step that is shorter is made again and again: one alone may meet anything
LEAST_TOKENS = 16  # of a row
LEAST_FACTOR = 0.05


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


def calibrated(prepared: Prepared, resources: Resources, speed: Speed, tell: Callable[[int, int], None]) -> Speed:
    """The speed with what was found on the real model. `tell` hears how many steps of how many are timed.

    Raises:
        ModelError: the weights are damaged.
    """
    total = 2 * (STEPS + 1)
    one, two = first_layers(prepared, 1), first_layers(prepared, min(2, prepared.spec.layers))
    rows = probe_rows(two, resources, speed)
    work, form, shape = work_of_rows(rows), form_of(resources), shape_of(one.spec)
    times = [
        step_seconds(part, resources, rows, lambda done, n=n: tell(n * (STEPS + 1) + done, total))
        for n, part in enumerate((one, two))
    ]
    layer = max(times[1] - times[0], 0.0) if prepared.spec.layers > 1 else times[0] / 2
    counted = layer_seconds(shape, one.config, form, work, speed)
    rest = rest_seconds(shape, one.config, work, speed)
    return msgspec.structs.replace(
        speed,
        layer_factor=max(layer / counted, LEAST_FACTOR),
        rest_factor=max((times[0] - layer) / rest, LEAST_FACTOR),
    )


def form_of(resources: Resources) -> Form:
    """How a run with these resources is computed."""
    return Form(resources.recompute, resources.share_weights)


def first_layers(prepared: Prepared, count: int) -> Prepared:
    """The same run on a model of the first layers only."""
    changes: dict[str, Any] = {}
    config = prepared.config
    if config.adapter.layers != "all":
        changes["layers"] = min(config.adapter.layers, count)
    if config.adapter.init_from not in ("", "random"):
        changes["init_from"] = ""
    adapter = msgspec.structs.replace(config.adapter, **changes)
    return replace(prepared, spec=cut(prepared.spec, count), config=msgspec.structs.replace(config, adapter=adapter))


def cut(spec: ModelSpec, count: int) -> ModelSpec:
    """A spec of that many layers: what is told layer by layer is told of those."""
    by_layer = {
        name: value[:count] for name, value in vars(spec).items() if isinstance(value, tuple) and len(value) == spec.layers
    }
    return replace(spec, layers=count, **by_layer)


def probe_rows(prepared: Prepared, resources: Resources, speed: Speed) -> list[Row]:
    """Rows of a step in the middle of the first epoch, fewer and shorter where the whole would take long."""
    epoch = StepOrder(prepared.lengths, prepared.config).epoch(0)
    rows = [to_row([prepared.train[index] for index in sequence]) for sequence in epoch[len(epoch) // 2]]
    while len(rows) > resources.workers and seconds_of(prepared, rows, resources, speed) > STEP_SECONDS:
        rows = rows[: max(resources.workers, len(rows) // 2)]
    length = max(len(row.tokens) for row in rows)
    while length > LEAST_TOKENS and seconds_of(prepared, rows, resources, speed) > STEP_SECONDS:
        length = max(LEAST_TOKENS, length // 2)
        rows = [shortened(row, length) for row in rows]
    return rows


def seconds_of(prepared: Prepared, rows: Sequence[Row], resources: Resources, speed: Speed) -> float:
    """What a step of these rows should take by the counts."""
    return counted_seconds(shape_of(prepared.spec), prepared.config, form_of(resources), work_of_rows(rows), speed)


def shortened(row: Row, length: int) -> Row:
    """The first tokens of a row. One target is always there to be learned."""
    targets = row.targets[:length].copy()
    if not (targets >= 0).any():
        targets[-1] = row.tokens[0]
    spans = tuple((start, min(stop, length)) for start, stop in row.spans if start < length)
    return Row(row.tokens[:length], targets, spans)


def work_of_rows(rows: Sequence[Row]) -> Work:
    """One pass over these rows, in one step."""
    spans = [(stop - start, 1.0) for row in rows for start, stop in row.spans]
    lengths = [(len(row.tokens), 1.0) for row in rows]
    trained = sum(row.trained_tokens for row in rows)
    return Work(sum(length for length, _ in lengths), trained, len(rows), spans, lengths, steps_per_pass=1, total_steps=1)


def step_seconds(prepared: Prepared, resources: Resources, rows: Sequence[Row], tell: Callable[[int], None]) -> float:
    """The median time of a whole step: loss, gradients and update."""
    run = build(prepared, Path(), resources)
    loss, times = row_loss(run.model, run.recompute), list[float]()
    for done in range(STEPS + 1):
        tell(done)
        started, count = time.perf_counter(), 0
        while not count or time.perf_counter() - started < LEAST_SECONDS:
            _, gradients = run.runner.loss_and_gradients(loss, rows, 0, 0)
            run.optimizer.update(gradients, rate=0.0)
            count += 1
        times.append((time.perf_counter() - started) / count)
    return statistics.median(times[1:])
