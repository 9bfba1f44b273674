"""What a run will take, before it starts: the facts of its model, rows and machine, and the plan that follows from them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgetune.adapters.lora import adapted_paths
from edgetune.architecture.quantized_base import BASE_PACKINGS, base_bytes
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.choice import NUMPY, Backend
from edgetune.config import QuantizeBase
from edgetune.events import Event, Progress
from edgetune.files import free_space
from edgetune.hardware import memory_now, usable_memory, worker_count
from edgetune.planner.facts import Counted, Facts, RowGroup, shape_of
from edgetune.planner.memory import MemoryPlan
from edgetune.planner.plan import RunPlan, replan, require_memory
from edgetune.planner.probe import calibrated, measure_speed
from edgetune.planner.rows import grouped, settings_of
from edgetune.text.dataset import Example
from edgetune.training.order import StepOrder
from edgetune.training.session import Prepared, Resources

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Planned:
    """A plan, what it follows from, and what the trainer is given."""

    facts: Facts
    plan: RunPlan
    resources: Resources


def plan_run(prepared: Prepared, place: Path, on_event: OnEvent, backend: Backend = NUMPY) -> Planned:
    """Everything that can be said of a run before it starts, from a few timed steps; `place` is where its folder will lie.

    Raises:
        AdapterError: the adapter does not fit the model.
    """
    facts = facts_of(prepared, backend, place=place)
    plan = replan(facts, prepared.config)
    if plan.memory.fits:

        def tell(done: int, total: int) -> None:
            on_event(Progress(stage="timing a few steps", done=done, total=total, unit="steps"))

        speed = measure_speed(facts.workers)
        speed = calibrated(prepared, resources_of(facts, plan.memory, backend), speed, tell)
        facts = msgspec.structs.replace(facts, speed=speed)
        plan = replan(facts, prepared.config)
    return Planned(facts, plan, resources_of(facts, plan.memory, backend))


def plan_resources(prepared: Prepared, workers: int | None = None, backend: Backend = NUMPY) -> Resources:
    """What the trainer is given. `workers`: as many as the run was begun with; left out, there is one for each core, and on
    MLX they are the rows of a micro-batch, which go through together.

    Raises:
        AdapterError: the adapter does not fit the model.
        DoesNotFit: the machine cannot hold it.
    """
    facts = facts_of(prepared, backend, workers)
    plan = replan(facts, prepared.config)
    require_memory(plan.memory, plan.suggestions)
    return resources_of(facts, plan.memory, backend)


def resources_of(facts: Facts, memory: MemoryPlan, backend: Backend) -> Resources:
    """What the trainer is given by a plan."""
    return Resources(facts.workers, memory.recompute, memory.share_weights, memory.peak_bytes, backend)


# ---- facts -------------------------------------------------------------------------------------------------------------


def facts_of(prepared: Prepared, backend: Backend = NUMPY, workers: int | None = None, place: Path | None = None) -> Facts:
    """What a plan of this run follows from. To be asked before the model is touched: what the process has in memory by then
    is counted as it is.

    Raises:
        AdapterError: the adapter does not fit the model.
    """
    config, spec, weights = prepared.config, prepared.spec, prepared.weights
    if config.adapter.method != "full":
        adapted_paths(spec, config.adapter.targets, config.adapter.layers)
    return Facts(
        shape=shape_of(spec),
        rows=whole_rows(prepared),
        valid=grouped(measures(prepared.valid)),
        backend="numpy" if backend.name == "numpy" else "mlx",
        workers=workers or (worker_count() if backend.name == "numpy" else config.training.batch),
        stored_bytes=weights.stored_bytes if weights else 0,
        stored_floats=weights is None or weights.info("model.embed_tokens.weight").dtype == "F32",
        quantized_bytes=packed_bytes(weights) if weights else {},
        base_bytes=memory_now(),
        usable_bytes=usable_memory(),
        free_bytes=free_space((place or Path()).absolute()),
        counted=counted(prepared),
    )


def counted(prepared: Prepared) -> Counted:
    """One pass over the rows."""
    first = StepOrder(prepared.lengths, prepared.config).epoch(0)
    return Counted(
        settings=settings_of(prepared.config),
        tokens=sum(prepared.lengths),
        trained=sum(trained for _, trained in measures(prepared.train)),
        sequences=sum(map(len, first)),
        steps=len(first),
    )


def packed_bytes(weights: WeightFolder) -> dict[QuantizeBase, int]:
    """What the weights would take in memory in each of the precisions that training.quantize_base offers."""
    return {precision: base_bytes(weights, precision) for precision in BASE_PACKINGS}


def measures(examples: Iterable[Example]) -> Iterable[tuple[int, int]]:
    """(tokens, trained tokens) of each."""
    return ((len(example.ids), int(np.count_nonzero(example.trained))) for example in examples)


def whole_rows(prepared: Prepared) -> tuple[RowGroup, ...]:
    """The rows by length, those that were left out, cut or split because of it in the length that they have in the files."""
    files = set(prepared.config.data.train)
    long = {(each.file, each.line): each for each in prepared.problems if each.tokens and each.file in files}
    kept = prepared.train if not long else (each for each in prepared.train if (each.file, each.line) not in long)
    return grouped([*measures(kept), *((each.tokens, each.trained) for each in long.values())])
