"""A GGUF header is believed only within the file's bounds; hostile ones cost neither memory nor time."""

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetune.errors import ModelError
from edgetune.export.gguf_header import GgufHeader, check_gguf, read_gguf_header
from tests.faults.gguf_bytes import ARRAY, STRING, Gguf, decode, text

HUGE = (1 << 64) - 1
NO_SUCH_TYPE = 99


@pytest.fixture(scope="module")
def content(tiny_gguf: Path) -> bytes:
    return tiny_gguf.read_bytes()


def read(folder: Path, content: bytes) -> GgufHeader:
    file = folder / "x.gguf"
    file.write_bytes(content)
    return read_gguf_header(file)


def test_what_the_file_says(tiny_gguf: Path) -> None:
    header = read_gguf_header(tiny_gguf)
    check_gguf(header)
    assert (header.architecture, header.number("block_count"), header.size) == ("llama", 2, tiny_gguf.stat().st_size)
    assert header.parameters == sum(
        {"token_embd": 400 * 32, "norms": 5 * 32, "attention": 2 * 3 * 32 * 32, "mlp": 2 * 3 * 64 * 32}.values()
    )
    embedding = header.tensors["token_embd.weight"]
    assert (embedding.kind, embedding.shape, embedding.size) == ("F16", (400, 32), 400 * 32 * 2)
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert tokens[:3] == ["<unk>", "<s>", "</s>"]
    assert header.number("no_such_key") is None


def test_bytes_that_are_no_utf8_are_shown(tmp_path: Path, content: bytes) -> None:
    model = decode(content)
    model.keys["general.name"] = (STRING, text(b"caf\xe9\x1b"))
    assert read(tmp_path, model.encode()).metadata["general.name"] == "caf\\xe9\x1b"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin with GGUF"),
        (b"GGUF", "ends early"),
        (b"GGML" + bytes(100), "does not begin with GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", HUGE), "ends early"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, 0, HUGE), "ends early"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, STRING, HUGE), "strings"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, STRING, 10**6), "ends early"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, ARRAY, 1), "unknown type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<I", NO_SUCH_TYPE), "unknown type 99"),
    ],
)
def test_hostile_beginnings(tmp_path: Path, content: bytes, words: str) -> None:
    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(ModelError, match=words):
        read(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert time.monotonic() - started < 1


def first(model: Gguf, **changes: object) -> None:
    for name, value in changes.items():
        setattr(model.tensors[0], name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.keys.update({"general.alignment": (4, struct.pack("<I", 0))}), "alignment of 0"),
        (lambda model: model.keys.update({"general.alignment": (4, struct.pack("<I", 48))}), "alignment of 48"),
        (lambda model: model.put_text("general.alignment", "32"), "alignment of 32"),
        (lambda model: first(model, dims=[0, 1]), "is \\(1, 0\\)"),
        (lambda model: first(model, dims=[HUGE, HUGE]), "is \\(1844"),
        (lambda model: first(model, dims=[32, 1 << 38]), "lies at"),
        (lambda model: first(model, dims=[1] * 5), "5 dimensions"),
        (lambda model: first(model, dims=[]), "0 dimensions"),
        (lambda model: first(model, kind=NO_SUCH_TYPE), "unknown type 99"),
        (lambda model: first(model, kind=8, dims=[33, 2]), "in Q8_0"),
        (lambda model: first(model, offset=64), "lies at 64"),
        (lambda model: first(model, offset=HUGE), "lies at"),
        (lambda model: first(model, name=model.tensors[1].name), "is there twice"),
        (lambda model: first(model, name=b"n" * 64), "dimensions"),
        (lambda model: setattr(model, "data", model.data[:-64]), "its tensors need"),
        (lambda model: setattr(model, "tensor_count", 10**4), "ends early|dimensions|unknown type"),
    ],
)
def test_hostile_tensors(tmp_path: Path, content: bytes, change: Callable[[Gguf], None], words: str) -> None:
    model = decode(content)
    change(model)
    with pytest.raises(ModelError, match=words):
        read(tmp_path, model.encode())


def test_a_key_twice(tmp_path: Path, content: bytes) -> None:
    model = decode(content)
    twice = model.encode().replace(text(b"llama.block_count"), text(b"llama.vocab_size_"), 1)
    twice = twice.replace(text(b"llama.vocab_size_"), text(b"llama.block_coun_"), 1)
    assert read(tmp_path, twice).metadata["llama.block_coun_"] == 2
    repeated = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text(b"k") + struct.pack("<II", 4, 1))
    with pytest.raises(ModelError, match="the key k is there twice"):
        read(tmp_path, repeated)


def test_a_name_as_long_as_the_file_is_not_repeated(tmp_path: Path, content: bytes) -> None:
    long = "n" * 3_000_000
    model = decode(content)
    model.put(long, 1)
    first(model, name=long.encode())
    with pytest.raises(ModelError) as caught:
        read(tmp_path, model.encode())
    assert len(str(caught.value)) < 500
    model = decode(content)
    model.put_text("llama.rope.scaling.type", long)
    with pytest.raises(ModelError) as caught:
        check_gguf(read(tmp_path, model.encode()))
    assert len(str(caught.value)) < 500


def retoken(model: Gguf, at: int, token: bytes) -> None:
    tokens = model.texts("tokenizer.ggml.tokens")
    tokens[at] = token
    model.put_texts("tokenizer.ggml.tokens", tokens)


# Each of these ends llama.cpp's process, or is none of its models.
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.keys.pop("general.architecture"), "names no architecture"),
        (lambda model: model.put("llama.block_count", 0), "block_count is 0"),
        (lambda model: model.put("llama.block_count", 10**9), "block_count is 1000000000"),
        (lambda model: model.put_text("llama.block_count", "2"), "block_count is missing"),
        (lambda model: model.put("llama.embedding_length", 0), "embedding_length is 0"),
        (lambda model: model.keys.pop("llama.context_length"), "context_length is missing"),
        (lambda model: model.put("llama.attention.head_count", 0), "head_count is 0"),
        (lambda model: model.put("llama.attention.layer_norm_rms_epsilon", -1.0), "epsilon is -1"),
        (lambda model: model.put("llama.attention.layer_norm_rms_epsilon", float("nan")), "epsilon is nan"),
        (lambda model: model.put_text("llama.rope.scaling.type", "y\0rn"), "rope.scaling.type is y"),
        (lambda model: model.put_texts("llama.rope.scaling.type", [b"a", b"b"]), "rope.scaling.type"),
        (lambda model: model.keys.pop("tokenizer.ggml.tokens"), "no vocabulary"),
        (lambda model: model.put_texts("tokenizer.ggml.tokens", []), "no vocabulary"),
        (lambda model: retoken(model, 5, b"<s>"), "1 tokens of its vocabulary are there twice"),
        (lambda model: retoken(model, 5, b"<s>\0more"), "1 tokens of its vocabulary are there twice"),
        (lambda model: retoken(model, 100, b"<"), "the token '<' stands for no byte"),
        (lambda model: setattr(model.tensors[0], "name", b"token_embd.weighs"), "no embedding"),
    ],
)
def test_what_llama_cpp_would_die_of_is_refused(
    tmp_path: Path, content: bytes, change: Callable[[Gguf], object], words: str
) -> None:
    model = decode(content)
    change(model)
    header = read(tmp_path, model.encode())
    with pytest.raises(ModelError, match=words):
        check_gguf(header)


def test_a_norm_that_is_not_in_float32_is_refused(tmp_path: Path, content: bytes) -> None:
    model = decode(content)
    norm = next(tensor for tensor in model.tensors if tensor.name == b"output_norm.weight")
    norm.kind = 1
    header = read(tmp_path, model.encode())
    with pytest.raises(ModelError, match=r"output_norm\.weight is not in float32"):
        check_gguf(header)


def test_no_such_file_and_no_file(tmp_path: Path) -> None:
    for place in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(ModelError, match="no such file"):
            read_gguf_header(place)


def test_every_truncation_is_refused(tmp_path: Path, content: bytes) -> None:
    for length in [*range(0, 2000, 37), *range(2000, len(content), 997), len(content) - 1]:
        with pytest.raises(ModelError):
            read(tmp_path, content[:length])


@settings(max_examples=150, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_never_crash_or_hang(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 14_000))
        value = data.draw(
            st.sampled_from([b"\0", b"\1", b"\xff", b"\x7f", b"\xff" * 8, b"\0" * 8, b"\x80"])
            | st.binary(min_size=1, max_size=8)
        )
        changed[at : at + len(value)] = value
    started = time.monotonic()
    try:
        header = read(tmp_path, bytes(changed))
        check_gguf(header)
    except ModelError as error:
        assert error.hint
    assert time.monotonic() - started < 1
