"""safetensors files: headers verified before anything is read, tensors mapped from the disk, files written in a stream.

Format: https://github.com/huggingface/safetensors. A header is believed only if its tensors have known types, cover the
file's data without gap or overlap, and end where the file ends.
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from edgetune.architecture.config_json import read_config
from edgetune.architecture.quantization import read_quantization, with_packed
from edgetune.architecture.shards import check_index, shards, whole_weights
from edgetune.architecture.tensor_info import ITEM_SIZES, PACKED_SIZES, STORED, TensorInfo
from edgetune.backend.numpy_weights import BFloat16, FrozenMatrix, Plain, Quantized, as_floats, from_bfloat16
from edgetune.backend.quantized import Packing
from edgetune.errors import InputError, ModelError
from edgetune.files import NewFile, Written, clean

HEADER_LIMIT = 5_000_000  # bytes, forty thousand tensors: a hostile header of that length is read in a second
SAMPLE, SAMPLES = 1 << 16, 64  # bytes of one sample of a file, and how many are taken
OTHER_TYPES = {
    "F64",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "I64",
    "I32",
    "I16",
    "I8",
    "U64",
    "U32",
    "U16",
    "U8",
    "BOOL",
}


def read_header(
    file: Path, reject: type[InputError] = ModelError, sizes: Mapping[str, int] = ITEM_SIZES
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors of one safetensors file and its metadata, all bounds verified. `sizes`: the types that may be there.

    Raises:
        ModelError, or the class given as `reject`: the file is absent, truncated, damaged or hostile, or holds a type that
            we do not read.
    """
    again = "the file is damaged: get it again"
    if file.exists() and not file.is_file():
        raise reject("is not a file", file=file, hint="is the folder complete?")
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            prefix = opened.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise reject(f"is no safetensors file, or truncated: {size} bytes, header of {length}", file=file, hint=again)
            # Raw: nothing is built of a hostile header before each of its entries is looked at.
            header = msgspec.json.decode(opened.read(length), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str] | None)
    except OSError as error:
        raise reject(f"cannot be read: {error.strerror}", file=file, hint="is the folder complete?") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise reject("its header is not a JSON object of tensors and texts", file=file, hint=again) from None
    try:
        tensors = {clean(name): tensor_info(entry, file, 8 + length, sizes) for name, entry in header.items()}
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise reject(f"a tensor's entry is wrong: {clean(str(error)[:200])}", file=file, hint=again) from None
    end = 8 + length
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.stop)):
        if info.start != end:
            raise reject("its tensors overlap or leave gaps", file=file, hint=again)
        end = info.stop
    if end != size:
        raise reject(f"holds {size} bytes, its header says {end}", file=file, hint="the download was cut: get it again")
    return tensors, metadata or {}


class Entry(Struct, frozen=True):
    """What a header says of one tensor."""

    dtype: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=8)]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]


def tensor_info(raw: msgspec.Raw, file: Path, data: int, sizes: Mapping[str, int]) -> TensorInfo:
    """One entry of a header. ValueError or msgspec's DecodeError where it is wrong."""
    entry = msgspec.json.decode(raw, type=Entry)
    start, stop = entry.data_offsets
    if entry.dtype not in sizes:
        known = "this version reads F32, F16 and BF16" if entry.dtype in OTHER_TYPES else "unknown"
        raise ValueError(f"type {entry.dtype} ({known})")
    if stop - start != math.prod(entry.shape) * sizes[entry.dtype]:
        raise ValueError(f"shape {entry.shape} does not fill bytes {start} to {stop}")
    return TensorInfo(entry.dtype, entry.shape, file, data + start, data + stop)


class WeightFolder:
    """A model folder's tensors, mapped from model.safetensors or from the shards that its index names.

    A quantised matrix is one tensor here, X.weight in the shape that it has as floats.

    Raises:
        ModelError: no weights, only pickled ones, a missing shard, an index that disagrees with its shards, a bad header,
            or quantised weights that are not what config.json says.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        has_config = (folder / "config.json").is_file()  # weights alone are floats
        quantization = read_quantization(read_config(folder)) if has_config else None
        self.tensors: dict[str, TensorInfo] = {}
        index = folder / "model.safetensors.index.json"
        is_sharded = index.exists() and not (folder / "model.safetensors").exists()  # transformers, too, takes one file first
        self.files = sorted(shards(index)) if is_sharded else [whole_weights(folder)]
        for file in self.files:
            tensors, _ = read_header(file, sizes=PACKED_SIZES if quantization else ITEM_SIZES)
            twice = self.tensors.keys() & tensors.keys()
            if twice:
                raise ModelError(f"{min(twice)} is in two shards", file=file, hint="the folder is damaged: get it again")
            self.tensors |= tensors
        self.maps: dict[Path, NDArray[np.uint8]] = {}
        if is_sharded:
            check_index(index, {name: info.file for name, info in self.tensors.items()})
        if quantization is not None:
            self.tensors = with_packed(self.tensors, quantization, folder)

    @property
    def stored_bytes(self) -> int:
        """The size of all tensors as they are stored."""
        return sum(info.stored_bytes for info in self.tensors.values())

    @property
    def packing(self) -> Packing | None:
        """How the first quantised matrix is packed; None: all are floats."""
        return next((info.packed.packing for info in self.tensors.values() if info.packed), None)

    @property
    def fingerprint(self) -> str:
        """A hash of every header and of samples from every file: another model, or a changed one, has another."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.stat().st_size
            with file.open("rb") as opened:
                for start in (0, *range(SAMPLE, size, max(SAMPLE, size // SAMPLES))):
                    opened.seek(start)
                    digest.update(opened.read(SAMPLE))
            digest.update(f"{file.name} {size}".encode())
        return digest.hexdigest()

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies.

        Raises:
            ModelError: there is no tensor of that name.
        """
        info = self.tensors.get(name)
        if info is None:
            raise ModelError(f"has no tensor {name}", file=self.folder, hint="the weights do not belong to this config.json")
        return info

    def raw(self, name: str) -> NDArray[Any]:
        """A tensor as it is stored, mapped and read-only: float32, float16, or uint16 that holds bfloat16.

        Raises:
            ModelError: there is no tensor of that name.
        """
        return self.mapped(self.info(name))

    def mapped(self, info: TensorInfo) -> NDArray[Any]:
        """What lies there."""
        if info.file not in self.maps:
            self.maps[info.file] = np.memmap(info.file, np.uint8, "r")
        # A header's length need not be a multiple of the item size, and views need not be aligned.
        return self.maps[info.file][info.start : info.stop].view(STORED[info.dtype]).reshape(info.shape)

    def floats(self, name: str, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Rows of a tensor as float32, in memory of their own."""
        if self.info(name).packed:
            return self.matrix(name).read(rows).astype(np.float32, copy=False)
        raw = self.raw(name)[rows]
        return as_floats(raw) if raw.dtype == np.uint16 else raw.astype(np.float32)

    def matrix(self, name: str) -> FrozenMatrix:
        """A matrix that stays in its stored precision and on the disk until its rows are read."""
        info = self.info(name)
        if info.packed:
            return Quantized(info.packed.packing, *(self.mapped(part) for part in info.packed.parts))
        raw = self.raw(name)
        return BFloat16(raw) if raw.dtype == np.uint16 else Plain(raw)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest, ties to even; not-a-number stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def stored_as(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """float32 cast once to the stored form of F32, F16 or BF16."""
    return to_bfloat16(values) if dtype == "BF16" else values.astype(STORED[dtype])


def save_safetensors(
    file: Path,
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    data: Callable[[str], NDArray[Any] | Iterable[NDArray[Any]]],
    metadata: Mapping[str, str] | None = None,
    *,
    point: str = "tensor",
    hashed: bool = False,
) -> Written:
    """Writes (name, dtype, shape) tensors one after the other; data(name) gives a stored form, whole or in pieces.

    Only one piece is in memory at a time. The caller makes the file whole or absent (files.whole_file, whole_folder).
    `point` names the writing for the fault tests; the file's hash is made on the way where it is wanted.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    names: list[str] = []
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + math.prod(shape) * ITEM_SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        names.append(name)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with NewFile(file, point, hashed) as opened:
        opened.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            pieces = data(name)
            for piece in [pieces] if isinstance(pieces, np.ndarray) else pieces:
                opened.write(np.ascontiguousarray(piece).data)
    return opened.written


def save_arrays(
    file: Path,
    arrays: Mapping[str, NDArray[np.float32]],
    metadata: Mapping[str, str] | None = None,
    *,
    point: str = "tensor",
    hashed: bool = False,
) -> Written:
    """Writes float32 arrays. `point`, `hashed`: as save_safetensors."""
    return save_safetensors(
        file,
        [(name, "F32", array.shape) for name, array in arrays.items()],
        lambda name: np.asarray(arrays[name], "<f4"),
        metadata,
        point=point,
        hashed=hashed,
    )


def load_arrays(file: Path, reject: type[InputError] = ModelError) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a file as float32, in memory of its own.

    Raises:
        ModelError, or the class given as `reject`: the file is damaged.
    """
    tensors, _ = read_header(file, reject)
    arrays: dict[str, NDArray[np.float32]] = {}
    with file.open("rb") as opened:
        for name, info in tensors.items():
            opened.seek(info.start)
            raw: NDArray[Any] = np.fromfile(opened, STORED[info.dtype], math.prod(info.shape)).reshape(info.shape)
            arrays[name] = from_bfloat16(raw) if info.dtype == "BF16" else raw.astype(np.float32, copy=False)
    return arrays
