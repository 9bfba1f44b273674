"""A run's whole plan from a few facts and its config: quick enough for a form that is changed by hand.

    facts = msgspec.json.decode(text, type=Facts)       # "facts" of `plan --json`
    plan = replan(facts, config)                        # some milliseconds; loads no library of numbers

What changes the rows themselves (model, data.train, data.valid, data.train_on) asks for new facts.
"""

from dataclasses import dataclass

import msgspec

from edgetune.backend.sizes import PREFIX_BYTES, PREFIX_SHARE
from edgetune.config import RunConfig
from edgetune.errors import DiskFull, DoesNotFit
from edgetune.planner.facts import Facts, Speed
from edgetune.planner.memory import MemoryPlan
from edgetune.planner.rows import fitted
from edgetune.planner.suggestions import Suggestion, planned, suggestions
from edgetune.planner.time import TimePlan
from edgetune.planner.trained import FLOAT, trained_layers, trained_parameters
from edgetune.units import size


@dataclass(frozen=True)
class RunPlan:
    """Memory, time and disk of a run, and what would make it smaller or quicker."""

    memory: MemoryPlan
    time: TimePlan
    disk_bytes: int
    free_bytes: int
    suggestions: tuple[Suggestion, ...]

    @property
    def fits(self) -> bool:
        """Whether the machine has the memory and the disk."""
        return self.memory.fits and self.disk_bytes <= self.free_bytes

    def require_fit(self) -> None:
        """Refuses a run that the machine cannot hold.

        Raises:
            DoesNotFit, DiskFull: with the settings that would make it fit.
        """
        require_memory(self.memory, self.suggestions)
        if self.disk_bytes > self.free_bytes:
            message = f"the run needs {size(self.disk_bytes)} of disk, {size(self.free_bytes)} are free"
            raise DiskFull(message, hint="free some space, put the run elsewhere with --run, or lower checks.keep")


def require_memory(memory: MemoryPlan, suggested: tuple[Suggestion, ...]) -> None:
    """Refuses a run that the machine's memory cannot hold.

    Raises:
        DoesNotFit: with the settings that would make it fit.
    """
    if memory.fits:
        return
    helpful = [f"--set {each.setting} ({size(each.peak_bytes)}; {each.cost})" for each in suggested if each.fits]
    nothing = "close other programs, or take a smaller model: no setting is enough"
    hint = "try " + ", or ".join(helpful[:3]) if helpful else nothing
    message = f"training needs {size(memory.peak_bytes)} of memory, {size(memory.usable_bytes)} is usable"
    raise DoesNotFit(message, hint=hint)


def replan(facts: Facts, config: RunConfig, speed: Speed | None = None) -> RunPlan:
    """The plan of a config; `speed` instead of the one that the facts hold."""
    facts = msgspec.structs.replace(facts, speed=speed) if speed else facts
    now = planned(facts, config)
    disk = disk_bytes(facts, config)
    return RunPlan(now.memory, now.time, disk, facts.free_bytes, suggestions(facts, config, now))


def disk_bytes(facts: Facts, config: RunConfig) -> int:
    """What a run folder may grow to: its checkpoints, the best one, one being written, and what it hands over; and of frozen
    layers a vector for each token."""
    floats_of_each = 4  # the trained number, two moments, and the copy that is handed over
    kept = FLOAT * floats_of_each * trained_parameters(facts.shape, config.adapter) * (config.checks.keep + 2)
    return kept + prefix_bytes(facts, config)


def prefix_bytes(facts: Facts, config: RunConfig) -> int:
    """What is kept of frozen layers on the disk, within its budget, where only the last layers learn."""
    if facts.backend != "numpy" or trained_layers(facts.shape, config.adapter) >= facts.shape.layers:
        return 0
    groups = [*fitted(facts.rows, config), *fitted(facts.valid, config)]
    tokens = sum(group.tokens * group.rows for group in groups)
    return min(FLOAT * facts.shape.dim * tokens, PREFIX_BYTES, int(PREFIX_SHARE * facts.free_bytes))
