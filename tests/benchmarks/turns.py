"""Processes that are stepped in turns: each does one step when asked, so that all of them meet the same machine.

A worker is any program that calls `serve`, also under another interpreter: only the standard library is imported.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def serve(step: Callable[[], Mapping[str, Any]]) -> None:
    """A worker's side: one step for each line that comes in, and a line of JSON with its time and peak memory."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between
    print(json.dumps({"peak_bytes": peak_memory()}), file=out, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        told = step()
        told = {"seconds": time.perf_counter() - started, "peak_bytes": peak_memory(), **told}
        print(json.dumps(told), file=out, flush=True)


def peak_memory() -> int:
    """The most bytes that this process ever had in memory; getrusage counts what its parent had at the fork."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Worker:
    """A process that waits for its turn. `ready` is what it said before the first, `last` what it said last."""

    def __init__(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None):
        self.name = name
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.seconds: list[float] = []
        self.ready = self.last = self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of the worker."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the worker ended with {self.process.wait()}")
        return json.loads(line)

    def step(self) -> float:
        """One turn; gives its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        self.last = self.answer()
        self.seconds.append(self.last["seconds"])
        return self.last["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()


def take_turns(workers: Sequence[Worker], rounds: int) -> None:
    """One round to warm up, then the rounds that count."""
    for turn in range(rounds + 1):
        for worker in workers:
            seconds = worker.step()
            print(f"  round {turn} {worker.name}: {seconds:.2f} s {worker.last.get('note', '')}", file=sys.stderr)
    for worker in workers:
        del worker.seconds[0]


def ratio(of: Worker, to: Worker) -> float:
    """How many times faster one is than another: the median over the rounds, in each of which they are neighbours."""
    return statistics.median(b / a for a, b in zip(of.seconds, to.seconds, strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line() -> str:
    """The processor, its cores, the memory and the system."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = os.getloadavg()[0]
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.platform(terse=True)}, load {load:.1f} at the end"
