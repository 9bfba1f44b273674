"""RELIABILITY.md, 6: a bad safetensors file is refused by name before anything is made of it: no crash, under 1 s and 100 MB."""

import json
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetune.adapters.open import open_adapter
from edgetune.architecture.weights import WeightFolder, load_arrays
from edgetune.errors import AdapterError, CheckpointError, EdgeTuneError, ModelError
from edgetune.files import clean
from tests.faults.forks import Child

ONE = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def file_of(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(**changes: Any) -> bytes:
    return file_of({"w": ONE | changes})


BAD = {
    "zero length": b"",
    "seven bytes": bytes(7),
    "truncated header": file_of({"w": ONE})[:20],
    "truncated data": file_of({"w": ONE})[:-4],
    "extra bytes": file_of({"w": ONE}, bytes(17)),
    "a gap before the data": entry(data_offsets=[4, 20]),
    "overlapping tensors": file_of({"v": ONE, "w": ONE}),
    "half overlapping tensors": file_of({"v": ONE, "w": ONE | {"data_offsets": [8, 24]}}, bytes(24)),
    "negative shape": entry(shape=[-4]),
    "shape of 2^60": entry(shape=[1 << 60]),
    "shape whose product overflows": entry(shape=[1 << 33, 1 << 33]),
    "offsets backwards": entry(data_offsets=[16, 0]),
    "offsets of 2^63": entry(data_offsets=[0, 1 << 63]),
    "a header of 2^60 bytes": file_of({"w": ONE}, length=1 << 60),
    "a header of 2^64 - 1 bytes": file_of({"w": ONE}, length=(1 << 64) - 1),
    "deep JSON": file_of(b'{"w":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "no object": file_of(b"[1, 2, 3]     "),
    "not UTF-8": file_of(b'{"\xff\xfe": 1}'),
    "a type that does not exist": entry(dtype="F31\x1b[2J"),
    "a shape of a million axes": entry(shape=[1] * 1_000_000),
    "a million empty tensors that lie": file_of(b"{" + b",".join(b'"%d":0' % n for n in range(300_000)) + b"}"),
}
ROOM = 100_000_000


def model(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    WeightFolder(folder)


def adapter(folder: Path, content: bytes) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}')
    (folder / "adapter_model.safetensors").write_bytes(content)
    open_adapter(folder)


def arrays(folder: Path, content: bytes) -> None:
    (folder / "parameters.safetensors").write_bytes(content)
    load_arrays(folder / "parameters.safetensors", CheckpointError)


READERS: dict[type[EdgeTuneError], Callable[[Path, bytes], None]] = {
    ModelError: model,
    AdapterError: adapter,
    CheckpointError: arrays,
}


def refused(name: str, kind: type[EdgeTuneError], folder: Path) -> int:
    """In a child whose memory may grow by no more than that: 0 where it is refused as it should be."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    began = time.process_time()
    try:
        READERS[kind](folder, BAD[name])
    except kind as error:
        assert error.hint and ".safetensors" in error.message, error.message
        assert clean(error.message) == error.message and len(error.message) < 1000
        assert time.process_time() - began < 1
        return 0
    return 1


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", BAD)
def test_6_a_bad_file_is_refused(name: str, kind: type[EdgeTuneError], tmp_path: Path) -> None:
    ended = Child(lambda: refused(name, kind, tmp_path)).wait()
    assert ended.code == 0, ended.err


def test_6_a_good_file_is_read(tmp_path: Path) -> None:
    arrays(tmp_path, file_of({"w": ONE}))
