"""A worker of export_speed.py: writes a GGUF, or copies a file of the same size, once for each turn."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from turns import serve

CHUNK = 1 << 20


def copy(source: Path, out: Path) -> None:
    """Reads, writes and flushes to the disk, as an export must; no shortcut of the file system."""
    with source.open("rb") as read, out.open("wb") as write:
        while chunk := read.read(CHUNK):
            write.write(chunk)
        write.flush()
        os.fsync(write.fileno())


def forget(place: Path) -> None:
    """Drops what the system keeps of files in memory: the next read comes from the disk."""
    for file in place.glob("*") if place.is_dir() else [place]:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def own_memory() -> int:
    """Bytes that the process has for itself: pages of mapped files are left out. 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@contextmanager
def watched() -> Iterator[list[int]]:
    """Gives a list whose one number becomes the most own memory that the process had meanwhile."""
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            most[0] = max(most[0], own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Waits for turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copy", type=Path, help="copy this file")
    parser.add_argument("--model", type=Path, help="export this model folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", default="F16")
    parser.add_argument("--forget", type=Path, nargs="*", default=[], help="drop these from memory after each turn")
    arguments = parser.parse_args()
    if arguments.model:
        from edgetune.export.gguf_file import write_gguf
    before = own_memory()

    def step() -> dict[str, float]:
        started = time.perf_counter()
        with watched() as most:
            if arguments.model:
                write_gguf(arguments.model, arguments.out, arguments.kind, lambda progress: None)
            else:
                copy(arguments.copy, arguments.out)
        seconds = time.perf_counter() - started
        for place in arguments.forget:
            forget(place)
        return {"seconds": seconds, "own_bytes": most[0] - before, "size": arguments.out.stat().st_size}

    serve(step)


if __name__ == "__main__":
    main()
