"""When only the last layers learn, what the layers before them make of an example never changes: it is kept on the disk.

Epochs after the first read it there. One file holds one example, in float32, so that the numbers are those that were
computed; its name is a hash of all that they follow from. A file is whole or absent, and believed only if its checksum fits.
A packed row is computed as it is first met, and its examples are kept one by one for the company of later epochs. What is
kept is flushed before each checkpoint, so that a run goes on with the same numbers even after a power cut.
"""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
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
from edgetune.backend.sizes import PREFIX_BYTES, PREFIX_SHARE
from edgetune.faults import fault
from edgetune.files import flush, free_space, move, sweep, write_file

CHECKSUM = 4  # bytes at the end of a file

Start = Callable[[Any, Row], Value]  # the ops are NumPy's


class PrefixCache:
    """What a model's frozen layers make of examples, in a folder that `close` removes.

    `made_of`: a text that names the weights, their precision, and the versions that compute with them.
    """

    def __init__(self, folder: Path, model: Model, made_of: str, budget: int = PREFIX_BYTES):
        self.folder, self.model = folder, model
        self.made_of = blake2b(f"{made_of}\n{model.frozen_layers}".encode()).digest()
        self.lock, self.stored, self.unflushed = threading.Lock(), 0, list[Path]()
        if folder.is_dir():
            sweep(folder)
            self.stored = sum(file.stat().st_size for file in folder.iterdir())
        self.budget = min(budget, self.stored + int(PREFIX_SHARE * free_space(folder)))

    def start(self, ops: NumpyOps, row: Row) -> Value:
        """(time, dim) of a row after the frozen layers: read, or computed and its examples written down."""
        dim = self.model.embedding.weight.shape[1]
        files = [self.folder / self.name(row.tokens[first:stop]) for first, stop in row.spans]
        shapes = [(stop - first, dim) for first, stop in row.spans]
        found = [read(file, shape) for file, shape in zip(files, shapes, strict=True)]
        known = [part for part in found if part is not None]
        if len(known) == len(files):
            return Value(known[0] if len(known) == 1 else np.concatenate(known), wanted=False)
        made = transformer.frozen_stream(ops, self.model, row)
        for file, part, (first, stop) in zip(files, found, row.spans, strict=True):
            if part is None:
                self.keep(file, made.data[first:stop])
        return made

    def name(self, tokens: Tokens) -> str:
        """Of the file of an example."""
        return blake2b(tokens.tobytes(), digest_size=16, key=self.made_of).hexdigest()

    def keep(self, file: Path, stream: Floats) -> None:
        """Writes one down, where there is room for it."""
        if self.takes(stream.nbytes + CHECKSUM):
            self.write(file, stream)

    def takes(self, size: int) -> bool:
        """Whether there is room for that many bytes more, which are then taken."""
        with self.lock:
            fits = self.stored + size <= self.budget
            self.stored += size if fits else 0
            return fits

    def write(self, file: Path, stream: Floats) -> None:
        """Writes a file, which is flushed later. A full disk ends the writing."""
        part = file.with_name(f".{file.name}.{threading.get_ident()}.{os.getpid()}.part")
        data = stream.astype("<f4", copy=False).tobytes()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(part, data + crc32(data).to_bytes(CHECKSUM, "little"), "prefix-content")
            move(part, file, "prefix")
            self.unflushed.append(file)
        except OSError:
            part.unlink(missing_ok=True)
            self.budget = 0

    def flush(self) -> None:
        """Makes durable what was written since the last time."""
        with suppress(OSError):
            while self.unflushed:
                fault("prefix-flush")
                flush(self.unflushed.pop())

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
