"""safetensors: what is written is read back bit for bit, and a hostile file is refused quickly, in a sentence."""

import json
import math
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from edgetune.architecture.weights import (
    WeightFolder,
    from_bfloat16,
    load_arrays,
    read_header,
    save_arrays,
    save_safetensors,
    stored_as,
    to_bfloat16,
)
from edgetune.errors import AdapterError, InputError, ModelError

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def packed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {**ENTRY, **changes}}


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "only a length": packed(b"", length=0),
    "text": b"this is no safetensors file, but it is longer than eight bytes",
    "truncated data": packed(entry(), bytes(23)),
    "truncated header": packed(entry())[:20],
    "extra bytes": packed(entry(), bytes(25)),
    "no data": packed(entry()),
    "overlap": packed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 36]}}, bytes(36)),
    "the same bytes twice": packed({"a": ENTRY, "b": ENTRY}, bytes(24)),
    "a gap": packed({"a": ENTRY, "b": {**ENTRY, "data_offsets": [28, 52]}}, bytes(52)),
    "a gap at the start": packed(entry(data_offsets=[4, 28]), bytes(28)),
    "offsets the wrong way round": packed(entry(data_offsets=[24, 0]), bytes(24)),
    "negative shape": packed(entry(shape=[-2, -3]), bytes(24)),
    "negative offset": packed(entry(data_offsets=[-24, 0]), bytes(24)),
    "shape too large": packed(entry(shape=[2**62, 4]), bytes(24)),
    "shape of nothing": packed(entry(shape=None), bytes(24)),
    "shape of text": packed(entry(shape="23"), bytes(24)),
    "shape of fractions": packed(entry(shape=[2.0, 3.0]), bytes(24)),
    "shape of truths": packed(entry(shape=[True, 6]), bytes(24)),
    "a thousand axes": packed(entry(shape=[1] * 998 + [2, 3]), bytes(24)),
    "a million axes": packed(entry(shape=[1] * 1_000_000), bytes(24)),
    "three offsets": packed(entry(data_offsets=[0, 24, 24]), bytes(24)),
    "no offsets": packed({"a": {"dtype": "F32", "shape": [2, 3]}}, bytes(24)),
    "wrong type": packed(entry(dtype="F33"), bytes(24)),
    "type of a list": packed(entry(dtype=["F32"]), bytes(24)),
    "a type that we do not read": packed(entry(dtype="F64", data_offsets=[0, 48]), bytes(48)),
    "an entry that is a number": packed({"a": 3}, bytes(24)),
    "an entry of null": packed({"a": None}, bytes(24)),
    "a header of 2**60": packed(entry(), bytes(24), length=2**60),
    "a header of 2**63": packed(entry(), bytes(24), length=2**63),
    "a header that ends behind the file": packed(entry(), bytes(24), length=1000),
    "deep JSON": packed(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a JSON list": packed([entry()], bytes(24)),
    "no JSON": packed(b"{'a': 1}", bytes(24)),
    "no UTF-8": packed(b'{"\xff\xfe": 1}', bytes(24)),
    "a number of 5000 digits": packed(b'{"a":' + b"9" * 5000 + b"}", bytes(24)),
    "metadata of numbers": packed({"__metadata__": {"format": 3}, **entry()}, bytes(24)),
    "metadata of a list": packed({"__metadata__": ["pt"], **entry()}, bytes(24)),
    "a pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x08builtins\x94\x8c\x04exec\x94\x93\x94.",
    "a zip": b"PK\x03\x04" + bytes(100),
    "many empty lists": packed(b"{" + b'"a":[' + b"[]," * 1_600_000 + b"[]]}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_6_a_hostile_file_is_refused_quickly(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(HOSTILE[name])
    started = time.process_time()
    with pytest.raises(ModelError) as caught:
        read_header(file)
    assert time.process_time() - started < 1
    assert caught.value.hint and str(file) in str(caught.value) and len(str(caught.value)) < 1000


def test_a_type_that_is_known_but_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(HOSTILE["a type that we do not read"])
    with pytest.raises(ModelError, match=r"F64.*reads F32, F16 and BF16"):
        read_header(tmp_path / "x")


def test_absent_and_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_header(tmp_path / "absent")
    with pytest.raises(AdapterError, match="not a file"):
        read_header(tmp_path, AdapterError)


def test_names_of_tensors_are_safe_to_show(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(packed({"\x1b[31mred": ENTRY}, bytes(24)))
    assert list(read_header(tmp_path / "x")[0]) == ["\\x1b[31mred"]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["F32", "BF16", "I64"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner)
    ),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "F16", "BF16"]) | JUNK, "shape": st.lists(st.integers(-1, 3), max_size=3) | JUNK,
     "data_offsets": st.tuples(st.integers(-1, 40), st.integers(-1, 40)).map(list) | JUNK}
)  # fmt: skip


def read_or_refused(content: bytes, folder: Path) -> None:
    file = folder / "fuzzed"
    file.write_bytes(content)
    try:
        tensors, _ = read_header(file)
        loaded = load_arrays(file)
    except ModelError:
        return
    assert sum(info.stop - info.start for info in tensors.values()) <= len(content)
    assert {name: array.shape for name, array in loaded.items()} == {name: info.shape for name, info in tensors.items()}


@given(header=st.dictionaries(st.sampled_from("abc"), ENTRIES | JUNK, max_size=3), data=st.binary(max_size=40))
@example(header={"a": {"dtype": "F32", "shape": [0, 8], "data_offsets": [0, 0]}}, data=b"")
def test_any_header_is_read_or_refused(header: Any, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    read_or_refused(packed(header, data), tmp_path_factory.getbasetemp())


@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    read_or_refused(content, tmp_path_factory.getbasetemp())


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_mutated_file_is_read_or_refused(at: int, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(packed({"a": ENTRY, "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}}, bytes(32)))
    at %= len(content)
    content[at] ^= 1 << bit
    read_or_refused(bytes(content[:at] if cut else content), tmp_path_factory.getbasetemp())


# ---- exact round trips -------------------------------------------------------------------------------------------------

HALVES = arrays(np.uint16, st.integers(1, 40))


@given(HALVES)
def test_every_bfloat16_comes_back_exactly(bits: np.ndarray) -> None:
    back = to_bfloat16(from_bfloat16(bits))
    number = ~np.isnan(from_bfloat16(bits))
    assert (back[number] == bits[number]).all() and np.isnan(from_bfloat16(back[~number])).all()


@given(arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_subnormal=True)))
def test_bfloat16_is_rounded_to_the_nearest_even(values: np.ndarray) -> None:
    import ml_dtypes

    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    number = ~np.isnan(values)
    assert (to_bfloat16(values)[number] == expected[number]).all()
    assert np.isnan(from_bfloat16(to_bfloat16(values))[~number]).all()


def test_a_number_halfway_between_two_goes_to_the_even_one() -> None:
    halfway = np.array([0x3F808000, 0x3F818000, 0x3F80C000, 0x3F807FFF], np.uint32).view(np.float32)
    assert to_bfloat16(halfway).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_stored_tensor_is_read_as_it_was_written(dtype: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    stored = {name: stored_as(random.normal(0, 1, shape).astype(np.float32), dtype) for name, shape in SHAPES.items()}
    save_safetensors(
        tmp_path / "model.safetensors", [(name, dtype, array.shape) for name, array in stored.items()], stored.__getitem__
    )
    folder = WeightFolder(tmp_path)
    for name, array in stored.items():
        assert (folder.raw(name) == array).all() and not folder.raw(name).flags.writeable
        floats = from_bfloat16(array) if dtype == "BF16" else array.astype(np.float32)
        assert (folder.floats(name) == floats).all() and (folder.floats(name, slice(1, 2)) == floats[1:2]).all()
    matrix = folder.matrix("matrix")
    out = np.empty((3, 5), np.float32)
    matrix.fill(slice(1, 4), out)
    assert matrix.shape == (6, 5) and (out == folder.floats("matrix")[1:4]).all()
    assert (matrix.read(np.array([5, 0, 5])) == folder.floats("matrix")[[5, 0, 5]]).all()
    assert matrix.read(slice(0, 2)).dtype == np.float32
    assert folder.stored_bytes == sum(array.nbytes for array in stored.values())


SHAPES = {"matrix": (6, 5), "vector": (7,), "odd": (3, 1, 3)}


def test_what_we_write_is_read_by_the_safetensors_library(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    given_arrays = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in {**SHAPES, "none": (0, 4)}.items()}
    save_arrays(tmp_path / "x.safetensors", given_arrays, {"format": "pt"})
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == given_arrays.keys()
    for name, array in given_arrays.items():
        assert loaded[name].dtype == np.float32 and np.array_equal(loaded[name], array)
    with safe_open(tmp_path / "x.safetensors", "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
    for name, array in load_arrays(tmp_path / "x.safetensors").items():
        assert np.array_equal(array, given_arrays[name]) and array.flags.writeable
    with pytest.raises(FileExistsError):
        save_arrays(tmp_path / "x.safetensors", given_arrays)


def test_a_tensor_written_in_pieces_is_the_tensor(tmp_path: Path) -> None:
    whole = np.arange(40, dtype=np.float32).reshape(10, 4)
    save_safetensors(
        tmp_path / "x", [("a", "F32", (10, 4)), ("b", "F32", (2,))],
        lambda name: (whole[at : at + 3] for at in range(0, 10, 3)) if name == "a" else np.ones(2, np.float32),
    )  # fmt: skip
    assert np.array_equal(load_file(tmp_path / "x")["a"], whole) and load_file(tmp_path / "x")["b"].tolist() == [1, 1]


@pytest.mark.parametrize("padding", [0, 1, 2, 3, 5])
def test_a_header_of_any_length_is_read(padding: int, tmp_path: Path) -> None:
    """Nothing in the format aligns the data; numbers that lie askew are the same numbers."""
    values = np.arange(6, dtype=np.float32)
    header = json.dumps(entry()).encode() + b" " * padding
    (tmp_path / "model.safetensors").write_bytes(packed(header, values.tobytes()))
    folder = WeightFolder(tmp_path)
    assert np.array_equal(folder.floats("a"), values.reshape(2, 3))
    assert np.array_equal(folder.matrix("a").read(slice(None)) @ np.ones((3, 1), np.float32), [[3], [12]])


# ---- folders -----------------------------------------------------------------------------------------------------------


def shard(folder: Path, names: dict[str, list[str]], weight_map: Any = None) -> None:
    """Files that hold those tensors, and an index that says so, or something else."""
    for file, tensors in names.items():
        save_file({name: np.full((2, 2), len(name), np.float32) for name in tensors}, folder / file)
    weight_map = {name: file for file, tensors in names.items() for name in tensors} if weight_map is None else weight_map
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


TWO = {"one.safetensors": ["a", "bb"], "two.safetensors": ["ccc"]}


def test_shards_are_one_model(tmp_path: Path) -> None:
    shard(tmp_path, TWO)
    folder = WeightFolder(tmp_path)
    assert set(folder.tensors) == {"a", "bb", "ccc"} and folder.floats("ccc")[0, 0] == 3
    with pytest.raises(ModelError, match="has no tensor dddd"):
        folder.raw("dddd")


def test_one_file_comes_before_an_index(tmp_path: Path) -> None:
    """As in transformers: a model that was saved anew in one file beside its old shards is the new one."""
    shard(tmp_path, TWO)
    save_file({"a": np.full((2, 2), 9, np.float32)}, tmp_path / "model.safetensors")
    assert WeightFolder(tmp_path).floats("a")[0, 0] == 9


BAD_INDEX: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing shard": (lambda folder: (folder / "two.safetensors").unlink(), r"two\.safetensors"),
    "a truncated shard": (lambda folder: (folder / "two.safetensors").write_bytes(b"\0" * 9), r"two\.safetensors"),
    "a shard that is a folder": (lambda folder: shard(folder, {}, {"a": "sub"}), "sub"),
    "a tensor that is nowhere": (lambda folder: shard(folder, TWO, {"zz": "one.safetensors"}), "zz"),
    "a tensor in the wrong shard": (
        lambda folder: shard(folder, TWO, {"a": "two.safetensors", "bb": "one.safetensors", "ccc": "two.safetensors"}), "names a in"
    ),
    "a tensor unnamed": (lambda folder: shard(folder, TWO, {"a": "one.safetensors", "ccc": "two.safetensors"}), "does not name bb"),
    "a tensor in two shards": (lambda folder: shard(folder, {**TWO, "three.safetensors": ["a"]}), "a is in two"),
    "a path that leaves": (lambda folder: shard(folder, TWO, {"a": "../x.safetensors"}), "leaves its folder"),
    "an absolute path": (lambda folder: shard(folder, TWO, {"a": "/etc/passwd"}), "leaves its folder"),
    "an escape in a path": (lambda folder: shard(folder, TWO, {"a": "\x1b[31m"}), "leaves its folder"),
    "an empty name": (lambda folder: shard(folder, TWO, {"a": ""}), "leaves its folder"),
    "a map of numbers": (lambda folder: shard(folder, TWO, {"a": 3}), "weight_map"),
    "a map that is a list": (lambda folder: shard(folder, TWO, ["a"]), "weight_map"),
    "no JSON": (lambda folder: (folder / "model.safetensors.index.json").write_bytes(b"\xff"), "index"),
    "deep JSON": (lambda folder: (folder / "model.safetensors.index.json").write_bytes(b"[" * 10**6), "index"),
    "no map": (lambda folder: (folder / "model.safetensors.index.json").write_bytes(b"{}"), "index"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INDEX)
def test_38_a_bad_index_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    save_file({"a": np.zeros((2, 2), np.float32)}, tmp_path.parent / "x.safetensors")
    shard(tmp_path, TWO)
    damage, said = BAD_INDEX[name]
    damage(tmp_path)
    with pytest.raises(ModelError, match=said) as caught:
        WeightFolder(tmp_path)
    assert caught.value.hint and str(caught.value).isprintable()


def test_41_pickled_weights_are_refused_unopened(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        WeightFolder(tmp_path)
    canary = tmp_path / "canary"
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    with pytest.raises(ModelError, match="pickled") as caught:
        WeightFolder(tmp_path)
    assert "safetensors" in caught.value.hint and not canary.exists()


def test_another_model_has_another_fingerprint(tmp_path: Path) -> None:
    prints: set[str] = set()
    for number, value in enumerate((0.0, 1.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file({"a": np.full((300, 300), value, np.float32)}, folder / "model.safetensors")
        prints |= {WeightFolder(folder).fingerprint, WeightFolder(folder).fingerprint}
    assert len(prints) == 2


def test_errors_are_of_the_class_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(HOSTILE["overlap"])
    for kind in (ModelError, AdapterError, InputError):
        with pytest.raises(kind):
            load_arrays(tmp_path / "x", kind)


def test_infinities_survive(tmp_path: Path) -> None:
    values = np.array([math.inf, -math.inf, 0.0, -0.0, 3e38], np.float32)
    assert from_bfloat16(to_bfloat16(values))[:2].tolist() == [math.inf, -math.inf]
    assert np.signbit(from_bfloat16(to_bfloat16(values))[3]) and from_bfloat16(to_bfloat16(values))[4] == pytest.approx(
        3e38, rel=0.01
    )
