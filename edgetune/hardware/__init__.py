"""This machine: what it is, how much of it this process may use, and what makes its arithmetic fast."""

from edgetune.hardware.limits import memory_now, peak_memory, usable_memory, worker_count
from edgetune.hardware.machine import Machine, this_machine
from edgetune.hardware.speed import child_environment, reexec_for_speed

__all__ = [
    "Machine",
    "child_environment",
    "memory_now",
    "peak_memory",
    "reexec_for_speed",
    "this_machine",
    "usable_memory",
    "worker_count",
]
