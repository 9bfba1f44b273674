"""What makes NumPy fast and must be in the environment before it is loaded: the right kernels, and malloc's habits.

NumPy's OpenBLAS may pick AVX2 kernels on an AVX-512 processor that it does not know: 250 against 460 GFLOP/s on one.
OPENBLAS_CORETYPE=SKYLAKEX mends that, but is an illegal instruction where the processor lacks them: so its flags are
read, and both are timed, once for each processor and version of NumPy.
"""

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgetune.errors import EdgeTuneError
from edgetune.files import home, whole_file, write_file
from edgetune.hardware.machine import chip, cpu_flags

KERNELS = {"OPENBLAS_CORETYPE": "SKYLAKEX"}
KERNEL_FLAGS = {"avx2", "fma", "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
AVX512_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}
LEAST_GAIN = 1.1
# glibc keeps what it has: large temporaries are then not made of fresh pages again and again.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
ALREADY = "EDGETUNE_REEXECUTED"
PROBE_SECONDS = 30
PROBE = """
import json, time, numpy, threadpoolctl
blas = [library for library in threadpoolctl.threadpool_info() if library["internal_api"] == "openblas"]
a, b = numpy.ones((768, 768), numpy.float32), numpy.ones((768, 3072), numpy.float32)
def product():
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start
product()
fastest = min(product() for _ in range(8))
print(json.dumps([blas[0].get("architecture", "") if blas else "", 2 * 768 * 768 * 3072 / fastest]))
"""


class Probe(NamedTuple):
    """Which kernels NumPy's matrix product takes, and its speed on one core in FLOP/s."""

    kernels: str
    speed: float


def child_environment() -> dict[str, str]:
    """Variables for a process that trains, to be set before it starts. What a person has set is not among them."""
    malloc = MALLOC if platform.libc_ver()[0] == "glibc" else {}
    return {name: value for name, value in (malloc | kernels()).items() if name not in os.environ}


def reexec_for_speed() -> None:
    """Begins this very command again, once, with `child_environment`; returns where there is nothing to gain.

    To be called before anything is read, written or loaded: this process is replaced, its number stays.
    """
    wanted = {} if ALREADY in os.environ else child_environment()
    if wanted:
        with suppress(OSError):  # slower is better than not at all
            arguments = [sys.executable, *sys.orig_argv[1:]]
            os.execve(sys.executable, arguments, {**os.environ, **wanted, ALREADY: "1"})


def kernels() -> dict[str, str]:
    """The variable that makes OpenBLAS take AVX-512 kernels, if that is possible, needed and faster here."""
    possible = cpu_flags() >= KERNEL_FLAGS and "OPENBLAS_CORETYPE" not in os.environ
    return KERNELS if possible and known_gain() >= LEAST_GAIN else {}


def known_gain() -> float:
    """How many times faster the AVX-512 kernels are: from an earlier measurement, or measured now."""
    file = home() / "machine.json"
    key = f"{chip()} · numpy {version('numpy')}"
    known = read_gains(file)
    if key not in known:
        known[key] = measure_gain()
        with suppress(EdgeTuneError), whole_file(file, "machine") as part:  # not kept: measured again next time
            write_file(part, json.dumps(known, indent=1, ensure_ascii=False), "machine-content")
    return known[key]


def read_gains(file: Path) -> dict[str, float]:
    """The measurements so far; none where there is no readable file."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, float])
    except (OSError, ValueError):
        return {}


def measure_gain() -> float:
    """Times both kernels in turns, each in a process of its own; 1 where there is nothing to choose."""
    plain = probe({})
    if plain is None or not plain.kernels or plain.kernels in AVX512_KERNELS:
        return 1.0
    turns = [probe(KERNELS), probe({}), probe(KERNELS)]
    forced = max((turn.speed for turn in turns[::2] if turn), default=0.0)
    return round(forced / max(plain.speed, turns[1].speed if turns[1] else 0.0), 2)


def probe(environment: dict[str, str]) -> Probe | None:
    """The kernels and the speed under an environment; None where that process dies, as on an illegal instruction."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=True,
        )
        return Probe(*msgspec.json.decode(done.stdout, type=tuple[str, float]))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
