"""The memory that a run takes on MLX, part by part."""

from edgetune.config import RunConfig
from edgetune.planner import numpy_memory
from edgetune.planner.facts import Facts
from edgetune.planner.numpy_memory import Form, Parts


def memory_parts(facts: Facts, config: RunConfig, form: Form) -> Parts:
    """Bytes by part at the highest moment of a run."""
    return numpy_memory.memory_parts(facts, config, form)
