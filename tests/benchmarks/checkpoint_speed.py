"""How long a checkpoint of a 50 MB adapter with AdamW's moments takes, and where the time goes: wanted is less than 1 s.

    python tests/benchmarks/checkpoint_speed.py [--folder ON_THE_DISK_TO_MEASURE] [--megabytes 50] [--rounds 5]

Parts are timed by themselves, on the same arrays and the same disk: the bytes written to the page cache, their SHA-256, and
the flush to the disk, which is the disk's own speed. What a save does besides is the difference.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import machine_line, table

from edgetune.architecture.weights import save_arrays
from edgetune.training import checkpoint
from edgetune.training.checkpoint import TrainingState

RANK, DIM = 16, 2048


def arrays_of(megabytes: float, prefix: str = "") -> dict[str, np.ndarray]:
    """A and B of so many layers as fill that size."""
    chance = np.random.default_rng(0)
    pairs = round(megabytes * 1e6 / (4 * 2 * RANK * DIM))
    shapes = {"lora_A": (RANK, DIM), "lora_B": (DIM, RANK)}
    return {
        f"{prefix}model.layers.{n}.mlp.up_proj.{name}": chance.normal(0, 1, shape).astype(np.float32)
        for n in range(pairs)
        for name, shape in shapes.items()
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def flushed(file: Path) -> None:
    """To the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def parts(folder: Path, arrays: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """Seconds of writing, hashing and flushing these arrays."""
    file = folder / "parts.safetensors"
    written = timed(lambda: save_arrays(file, arrays))
    digest = hashlib.sha256()
    hashed = timed(lambda: [digest.update(array.data) for array in arrays.values()])
    on_disk = timed(lambda: flushed(file))
    file.unlink()
    return written, hashed, on_disk


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="edgetune-checkpoint-", dir=wanted.folder))
    parameters = arrays_of(wanted.megabytes)
    moments = arrays_of(wanted.megabytes, "mean.") | arrays_of(wanted.megabytes, "square.")
    made_of = {"config_hash": "c", "data_fingerprint": "d", "base_fingerprint": "b", "workers": 1, "versions": {}}
    seconds: list[tuple[float, ...]] = []
    try:
        for step in range(wanted.rounds + 1):  # the first one warms up
            state = TrainingState(step=step, **made_of)
            whole = timed(lambda state=state: checkpoint.save(folder, state, parameters, moments, keep=2))
            seconds.append((whole, *parts(folder, parameters | moments)))
    finally:
        shutil.rmtree(folder)
    size = sum(array.nbytes for array in (*parameters.values(), *moments.values()))
    names = ("checkpoint", "written", "hashed", "flushed")
    rows = [
        [name, f"{1000 * statistics.median(each):.0f} ms"]
        for name, each in zip(names, zip(*seconds[1:], strict=True), strict=True)
    ]
    print(f"{size / 1e6:.0f} MB in {len(parameters) + len(moments)} arrays, medians of {wanted.rounds}; {machine_line()}")
    print(table(["", "time"], rows))


if __name__ == "__main__":
    main()
