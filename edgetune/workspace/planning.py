"""What a run will take, before it starts: memory, time and disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgetune.architecture.quantized_base import BASE_PACKINGS, base_bytes
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.choice import NUMPY, Backend
from edgetune.config import QuantizeBase
from edgetune.events import Event, Progress
from edgetune.files import free_space
from edgetune.hardware import usable_memory, worker_count
from edgetune.planner.memory import FLOAT, Load, MemoryPlan, plan_memory, trained_parameters
from edgetune.planner.probe import calibrated
from edgetune.planner.time import TimePlan, Work, measure_speed, plan_time
from edgetune.training.order import StepOrder
from edgetune.training.prefix import BUDGET, SHARE
from edgetune.training.session import Prepared, Resources

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class RunPlan:
    """Memory, time and disk of a run, and what the trainer is given."""

    memory: MemoryPlan
    time: TimePlan
    disk_bytes: int
    free_bytes: int
    resources: Resources

    @property
    def fits(self) -> bool:
        """Whether the machine has the memory and the disk."""
        return self.memory.fits and self.disk_bytes <= self.free_bytes


def plan_resources(prepared: Prepared, workers: int | None = None, backend: Backend = NUMPY) -> tuple[MemoryPlan, Resources]:
    """The memory that a run takes, and what the trainer is given. `workers`: as many as the run was begun with.

    Left out, there is one for each core; on MLX they are the rows of a micro-batch, which go through together.

    Raises:
        AdapterError: the adapter does not fit the model.
    """
    workers = workers or (worker_count() if backend.name == "numpy" else prepared.config.training.batch)
    weights = prepared.weights
    stored = weights.stored_bytes if weights else 0
    load = Load(prepared.lengths, workers, stored, usable_memory(), packed_bytes(weights) if weights else {})
    memory = plan_memory(prepared.spec, prepared.config, load)
    return memory, Resources(workers, memory.recompute, memory.share_weights, memory.peak_bytes, backend)


def packed_bytes(weights: WeightFolder) -> dict[QuantizeBase, int]:
    """What the weights would take in memory in each of the precisions that training.quantize_base offers."""
    return {precision: base_bytes(weights, precision) for precision in BASE_PACKINGS}


def plan_run(prepared: Prepared, place: Path, on_event: OnEvent, backend: Backend = NUMPY) -> RunPlan:
    """Everything that can be said of a run before it starts, from a few timed steps; `place` is where its folder will lie."""
    memory, resources = plan_resources(prepared, backend=backend)
    speed = measure_speed(resources.workers)
    if memory.fits:

        def tell(done: int, total: int) -> None:
            on_event(Progress(stage="timing a few steps", done=done, total=total, unit="steps"))

        speed = calibrated(prepared, resources, speed, tell)
    time = plan_time(prepared.spec, prepared.config, work_of(prepared), resources.recompute, speed)
    free = free_space(place.absolute())
    kept = prefix_bytes(prepared, free) if backend == NUMPY else 0
    return RunPlan(memory, time, disk_bytes(prepared) + kept, free, resources)


def work_of(prepared: Prepared) -> Work:
    """What goes through the model in a run."""
    order = StepOrder(prepared.lengths, prepared.config)
    return Work(
        tokens=sum(prepared.lengths),
        trained_tokens=sum(int(example.trained.sum()) for example in prepared.train),
        sequences=sum(len(step) for step in order.epoch(0)),
        spans=prepared.lengths,
        steps_per_pass=len(order.epoch(0)),
        total_steps=order.total,
        valid_tokens=sum(len(example.ids) for example in prepared.valid),
    )


def disk_bytes(prepared: Prepared) -> int:
    """What a run folder may grow to: its checkpoints, the best one, one being written, and what it hands over."""
    floats_of_each = 4  # the trained number, two moments, and the copy that is handed over
    trained = trained_parameters(prepared.spec, prepared.config.adapter)
    return FLOAT * floats_of_each * trained * (prepared.config.checks.keep + 2)


def prefix_bytes(prepared: Prepared, free: int) -> int:
    """What is kept of frozen layers: a vector for each token, within the budget, where only the last layers learn."""
    layers = prepared.config.adapter.layers
    if prepared.config.adapter.method == "full" or layers == "all" or layers >= prepared.spec.layers:
        return 0
    tokens = sum(prepared.lengths) + sum(len(example.ids) for example in prepared.valid)
    return min(FLOAT * prepared.spec.dim * tokens, BUDGET, int(SHARE * free))
