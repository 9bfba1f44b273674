"""When only the last layers learn, what the layers before them make of an example never changes: it is kept on the disk.

Epochs after the first read it there. One file holds one example, in float32, so that the numbers are those that were
computed; its name is a hash of all that they follow from. A file is whole or absent, and believed only if its checksum fits.
Examples of a packed row are computed one by one: they would not know their company of the next epoch.
"""

import os
import shutil
import threading
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from edgetune.architecture import transformer
from edgetune.architecture.transformer import Model
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_tape import Floats, Value
from edgetune.backend.ops import Row, Tokens
from edgetune.files import free_space, sweep

BUDGET = 10_000_000_000  # bytes on the disk
SHARE = 0.25  # of what is free there, at most
CHECKSUM = 4  # bytes at the end of a file

Start = Callable[[Any, Row], Value]  # the ops are NumPy's


class PrefixCache:
    """What a model's frozen layers make of examples, in a folder that `close` removes.

    `made_of`: a text that names the weights, their precision, and the versions that compute with them.
    """

    def __init__(self, folder: Path, model: Model, made_of: str, workers: int, budget: int = BUDGET):
        self.folder, self.model, self.workers = folder, model, workers
        self.made_of = blake2b(f"{made_of}\n{model.frozen_layers}".encode()).digest()
        self.lock, self.stored = threading.Lock(), 0
        if folder.is_dir():
            sweep(folder)
            self.stored = sum(file.stat().st_size for file in folder.iterdir())
        self.budget = min(budget, self.stored + int(SHARE * free_space(folder)))

    def of(self, rows: int) -> Start:
        """What gives the stream of a row after the frozen layers, where so many rows are played side by side.

        BLAS gets the cores that rows leave idle, and may round otherwise then: its threads are part of the name.
        """
        threads = max(1, self.workers // max(1, rows))

        def start(ops: NumpyOps, row: Row) -> Value:
            parts = [self.stream(ops, row.tokens[first:stop], threads) for first, stop in row.spans]
            return Value(parts[0] if len(parts) == 1 else np.concatenate(parts), wanted=False)

        return start

    def stream(self, ops: NumpyOps, tokens: Tokens, threads: int) -> Floats:
        """(time, dim) of one example: read, or computed and written down."""
        name = blake2b(tokens.tobytes(), digest_size=16, key=self.made_of, salt=threads.to_bytes(4, "little")).hexdigest()
        shape = (len(tokens), self.model.embedding.weight.shape[1])
        known = read(self.folder / name, shape)
        if known is not None:
            return known
        alone = Row(tokens, np.full(len(tokens), -1, np.int32), ((0, len(tokens)),))
        made = transformer.frozen_stream(ops, self.model, alone).data
        if self.takes(made.nbytes + CHECKSUM):
            self.write(self.folder / name, made)
        return made

    def takes(self, size: int) -> bool:
        """Whether there is room for that many bytes more, which are then taken."""
        with self.lock:
            fits = self.stored + size <= self.budget
            self.stored += size if fits else 0
            return fits

    def write(self, file: Path, stream: Floats) -> None:
        """Writes a file, which is not flushed: one that a power cut damages is computed again. A full disk ends the writing."""
        part = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.part")
        data = stream.astype("<f4", copy=False).tobytes()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data + crc32(data).to_bytes(CHECKSUM, "little"))
            os.replace(part, file)
        except OSError:
            part.unlink(missing_ok=True)
            self.budget = 0

    def close(self) -> None:
        """Removes the folder: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read(file: Path, shape: tuple[int, int]) -> Floats | None:
    """The stream in a file; None where there is none, or where it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    data, checksum = content[:-CHECKSUM], content[-CHECKSUM:]
    if len(data) != 4 * shape[0] * shape[1] or crc32(data).to_bytes(CHECKSUM, "little") != checksum:
        return None
    return np.frombuffer(data, "<f4").reshape(shape)
