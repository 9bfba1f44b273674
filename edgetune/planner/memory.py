"""The memory that a run will take, part by part, and whether the machine has it: on either backend."""

from dataclasses import dataclass

from edgetune.config import RunConfig
from edgetune.planner import mlx_memory, numpy_memory
from edgetune.planner.facts import Facts
from edgetune.planner.numpy_memory import Form


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part at the peak of a run, and whether they fit into what is usable."""

    parts: dict[str, int]
    peak_bytes: int
    usable_bytes: int
    recompute: bool
    share_weights: bool

    @property
    def fits(self) -> bool:
        """Whether the machine can give that much."""
        return self.peak_bytes <= self.usable_bytes


def plan_memory(facts: Facts, config: RunConfig) -> MemoryPlan:
    """The peak of a run, in the fastest form that fits: activations kept before those made again (unless the config says
    which), and weights folded once for all rows of a step before those folded for each row. Folded ones are floats: who
    asked for fewer bits is not given them."""
    choices = {"auto": (False, True), "off": (False,), "layers": (True,)}[config.training.recompute]
    shares = (True, False) if config.training.quantize_base == "none" and facts.backend == "numpy" else (False,)
    plans = (formed(facts, config, Form(recompute, share)) for recompute in choices for share in shares)
    last: MemoryPlan | None = None
    for last in plans:
        if last.fits:
            break
    assert last is not None
    return last


def formed(facts: Facts, config: RunConfig, form: Form) -> MemoryPlan:
    """The plan of one form, whether it fits or not."""
    parts = memory_parts(facts, config, form)
    return MemoryPlan(parts, sum(parts.values()), facts.usable_bytes, form.recompute, form.share_weights)


def memory_parts(facts: Facts, config: RunConfig, form: Form) -> dict[str, int]:
    """Bytes by part."""
    backend = numpy_memory if facts.backend == "numpy" else mlx_memory
    return backend.memory_parts(facts, config, form)
