"""How many cores and how much memory this process may use: the machine's, or its container's where that is less.

A container is a control group of Linux, version 1 or 2; a limit holds for all groups below it, so each level is asked.
"""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

PROCESS = Path("/proc/self")
GROUPS = Path("/sys/fs/cgroup")
RESERVE = 0.05  # of all memory is left to the system


def worker_count() -> int:
    """Physical cores that this process may keep busy: one worker each."""
    return min(psutil.cpu_count(logical=False) or logical_cores(), logical_cores())


def logical_cores() -> int:
    """Hardware threads that this process may keep busy."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([allowed, *(int(share) for share in core_limits())]))


def core_limits() -> Iterator[float]:
    """The cores that each control group grants."""
    for group in control_groups("cpu"):
        share = numbers(group / "cpu.max") or (numbers(group / "cpu.cfs_quota_us") + numbers(group / "cpu.cfs_period_us"))
        if len(share) == 2 and min(share) > 0:
            yield share[0] / share[1]


def total_memory() -> int:
    """Bytes of memory that this process could ever have."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in memory_limits())])


def available_memory() -> int:
    """Bytes that can be had now without pushing anything out to the disk."""
    room = [limit - used for limit, used in memory_limits()]
    own_limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if own_limit != resource.RLIM_INFINITY:
        room.append(own_limit - psutil.Process().memory_info().vms)
    return max(0, min([psutil.virtual_memory().available, *room]))


def usable_memory() -> int:
    """Bytes that a job may plan with: what is available, less a reserve for the system."""
    return max(0, available_memory() - int(RESERVE * total_memory()))


def memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of each control group that has a limit; file pages that can be dropped are not used."""
    for group in control_groups("memory"):
        limit = numbers(group / "memory.max") or numbers(group / "memory.limit_in_bytes")
        used = numbers(group / "memory.current") or numbers(group / "memory.usage_in_bytes")
        if limit and used:
            yield limit[0], max(0, used[0] - droppable(group))


def droppable(group: Path) -> int:
    """Bytes of a group that only hold copies of files."""
    with suppress(OSError, ValueError):
        values = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(values.get("total_inactive_file") or values.get("inactive_file") or 0)
    return 0


def control_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of all above it, the innermost first; only Linux has them."""
    try:
        lines = (PROCESS / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names == "" or controller in names.split(","):
            base = GROUPS / names
            inner = base / path.strip("/")
            yield from [folder for folder in (inner, *inner.parents) if folder.is_relative_to(base) and folder.is_dir()]


def numbers(file: Path) -> tuple[int, ...]:
    """The whole numbers in a file; empty where there is no such file, or no limit ("max", -1)."""
    try:
        found = tuple(int(word) for word in file.read_text().split())
    except (OSError, ValueError):
        return ()
    return () if -1 in found else found


def memory_now() -> int:
    """Bytes that this process has in memory."""
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """The most bytes that this process ever had in memory.

    getrusage counts what the parent had when it forked us; the kernel's own mark of our memory does not.
    """
    with suppress(OSError, StopIteration):
        lines = (PROCESS / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
