"""GGUF files as plain values, so that tests can write what no writer would."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

STRING, ARRAY = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
U32, F32 = 4, 6


@dataclass
class Tensor:
    """`dims` as in the file: the inputs first."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int


@dataclass
class Gguf:
    """Keys with their type and their bytes, tensors, and the tensors' data."""

    version: int = 3
    keys: dict[str, tuple[int, bytes]] = field(default_factory=lambda: dict[str, tuple[int, bytes]]())
    tensors: list[Tensor] = field(default_factory=lambda: list[Tensor]())
    data: bytes = b""
    tensor_count: int | None = None  # None: as many as there are
    key_count: int | None = None

    def put(self, key: str, number: float) -> None:
        """Sets a number, as u32 or f32."""
        whole = isinstance(number, int)
        self.keys[key] = (U32 if whole else F32, struct.pack("<I" if whole else "<f", number))

    def put_text(self, key: str, value: str) -> None:
        """Sets a string."""
        self.keys[key] = (STRING, text(value.encode()))

    def put_texts(self, key: str, values: list[bytes]) -> None:
        """Sets an array of strings."""
        self.keys[key] = (ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values)))

    def texts(self, key: str) -> list[bytes]:
        """An array of strings."""
        raw, at, found = self.keys[key][1], 12, list[bytes]()
        while at < len(raw):
            (size,) = struct.unpack_from("<Q", raw, at)
            found.append(raw[at + 8 : at + 8 + size])
            at += 8 + size
        return found

    def add_tensor(self, name: str, rows: int, columns: int, numbers: bytes) -> None:
        """Adds a float32 matrix behind the others."""
        self.data += bytes(-len(self.data) % 32)
        self.tensors.append(Tensor(name.encode(), [columns, rows], 0, len(self.data)))
        self.data += numbers

    def encode(self) -> bytes:
        """The file."""
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        out = bytearray(b"GGUF" + struct.pack("<IQQ", self.version, *counts))
        for key, (kind, raw) in self.keys.items():
            out += text(key.encode()) + struct.pack("<I", kind) + raw
        for tensor in self.tensors:
            out += text(tensor.name) + struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
            out += struct.pack("<IQ", tensor.kind, tensor.offset)
        return bytes(out) + bytes(-len(out) % 32) + self.data


def write_lora(
    file: Path, seed: int, *, inputs: int = 64, outputs: int = 32, kind: str = "adapter", architecture: str = "llama"
) -> Path:
    """A LoRA of rank 2 on the first layer's values, in GGUF form."""
    random, lora = np.random.default_rng(seed), Gguf()
    lora.put_text("general.type", kind)
    lora.put_text("general.architecture", architecture)
    lora.put_text("adapter.type", "lora")
    lora.put("adapter.lora.alpha", 2.0)
    for name, rows, columns in (("a", 2, inputs), ("b", outputs, 2)):
        numbers = random.normal(0, 1, (rows, columns)).astype(np.float32).tobytes()
        lora.add_tensor(f"blk.0.attn_v.weight.lora_{name}", rows, columns, numbers)
    file.write_bytes(lora.encode())
    return file


def text(raw: bytes) -> bytes:
    """A string as GGUF stores it."""
    return struct.pack("<Q", len(raw)) + raw


def decode(raw: bytes) -> Gguf:
    """A valid file as values."""
    at = 24

    def take(code: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, raw, at)
        at += struct.calcsize("<" + code)
        return value

    def string() -> bytes:
        nonlocal at
        size = take("Q")
        at += size
        return raw[at - size : at]

    def skip(kind: int) -> None:
        nonlocal at
        if kind == STRING:
            string()
        elif kind == ARRAY:
            inner, count = take("I"), take("Q")
            for _ in range(count):
                skip(inner)
        else:
            at += WIDTHS[kind]

    _, version, tensor_count, key_count = struct.unpack_from("<4sIQQ", raw)
    file = Gguf(version)
    for _ in range(key_count):
        key, kind = string().decode(), take("I")
        start = at
        skip(kind)
        file.keys[key] = (kind, raw[start:at])
    for _ in range(tensor_count):
        name, count = string(), take("I")
        dims = [take("Q") for _ in range(count)]
        kind, offset = take("I"), take("Q")
        file.tensors.append(Tensor(name, dims, kind, offset))
    file.data = raw[-(-at // 32) * 32 :]
    return file
