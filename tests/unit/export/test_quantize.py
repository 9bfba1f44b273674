"""Quantising: types, sizes, fallbacks, refusals; and a file that is whole or absent whatever happens."""

import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgetune.errors import ChildFailed, ConfigError, DiskFull, InputError, ModelError
from edgetune.events import Progress
from edgetune.export.gguf_header import read_gguf_header
from edgetune.export.quantize import TYPES, expected_size, quant_type, quantize, usable_types
from edgetune.llamacpp import LlamaChild
from tests.faults.gguf_bytes import Gguf, decode

pytestmark = pytest.mark.slow  # together

ROOT = Path(__file__).resolve().parents[3]
WIDTH, VOCAB = 256, 512


@pytest.fixture(scope="module")
def story(assets: Path) -> Path:
    return assets / "weights" / "stories260K-gguf" / "stories260K.gguf"


def write_random_model(file: Path, story: Path, hidden: int) -> Path:
    """A random model of one layer whose rows divide into every type's blocks, with the story's vocabulary."""
    model, random = decode(story.read_bytes()), np.random.default_rng(0)
    model.tensors, model.data = [], b""
    model.put("llama.block_count", 1)
    model.put("llama.embedding_length", WIDTH)
    model.put("llama.feed_forward_length", hidden)
    model.put("llama.attention.head_count", 4)
    model.put("llama.attention.head_count_kv", 2)
    model.put("llama.rope.dimension_count", WIDTH // 4)
    shapes = {
        "token_embd": (VOCAB, WIDTH), "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH // 2, WIDTH),
        "blk.0.attn_v": (WIDTH // 2, WIDTH), "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (hidden, WIDTH),
        "blk.0.ffn_up": (hidden, WIDTH), "blk.0.ffn_down": (WIDTH, hidden),
    }  # fmt: skip
    for name, shape in shapes.items():
        numbers = random.normal(0, shape[1] ** -0.5, shape).astype(np.float32)
        model.add_tensor(f"{name}.weight", *shape, numbers.tobytes())
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        model.add_tensor(f"{name}.weight", 1, WIDTH, np.ones(WIDTH, np.float32).tobytes())
        model.tensors[-1].dims = [WIDTH]
    file.write_bytes(model.encode())
    return file


@pytest.fixture(scope="module")
def wide(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("wide") / "wide.gguf", story, hidden=512)


def scores(file: Path) -> np.ndarray:
    with LlamaChild(file, context=64, threads=1) as child:
        return child.score(range(1, 40), range(39))


def test_every_type_has_its_number_in_llama_cpp():
    native = pytest.importorskip("llama_cpp").llama_cpp
    for name, each in TYPES.items():
        assert getattr(native, f"LLAMA_FTYPE_MOSTLY_{name}") == each.file_type


@pytest.mark.slow
@pytest.mark.parametrize("kind", usable_types())
def test_every_type_makes_a_model_that_answers_much_like_its_source(wide: Path, tmp_path: Path, kind: str):
    result = quantize(wide, tmp_path / "out.gguf", kind, threads=1)
    tensors = read_gguf_header(result.path).tensors
    assert tensors["blk.0.attn_q.weight"].kind == TYPES[kind].base
    assert result.fallbacks == () and result.kinds["F32"] == 3
    assert result.size == result.path.stat().st_size < wide.stat().st_size / 2
    if TYPES[kind].bits > 4:
        assert np.abs(scores(result.path) - scores(wide)).mean() < 0.3


def test_bits_order_the_types_by_size(wide: Path, tmp_path: Path):
    sizes = [quantize(wide, tmp_path / f"{kind}.gguf", kind, threads=1).size for kind in ("Q8_0", "Q6_K", "Q4_K_M")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_rows_that_do_not_divide_are_reported_with_what_they_became(story: Path, tmp_path: Path):
    result = quantize(story, tmp_path / "out.gguf", "q4_k_m", threads=1)
    told = {each.tensor: each for each in result.fallbacks}
    assert told["blk.0.attn_q.weight"] == ("blk.0.attn_q.weight", 64, "Q5_0")
    assert told["blk.0.ffn_down.weight"] == ("blk.0.ffn_down.weight", 172, "F16")
    assert told["token_embd.weight"].kind == "Q5_0" and told["output.weight"].kind == "Q8_0"
    assert not any("norm" in name for name in told)


def test_rows_that_divide_are_not_reported(story: Path, tmp_path: Path):
    result = quantize(story, tmp_path / "out.gguf", "Q8_0", threads=1)
    assert {each.tensor for each in result.fallbacks} == {f"blk.{layer}.ffn_down.weight" for layer in range(5)}


def test_progress_counts_the_tensors(story: Path, tmp_path: Path):
    told = list[Progress]()
    quantize(story, tmp_path / "out.gguf", "Q8_0", told.append, threads=1)
    assert [each.done for each in told] == list(range(1, 49))
    assert {(each.total, each.unit, each.stage) for each in told} == {(48, "tensors", "quantising to Q8_0")}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "IQ4_NL", "Q2_K"])
def test_the_size_that_is_asked_of_the_disk_is_enough_and_not_much_more(story: Path, wide: Path, tmp_path: Path, kind: str):
    for source in (story, wide):
        size = quantize(source, tmp_path / "out.gguf", kind, threads=1).size
        assert size <= expected_size(read_gguf_header(source), TYPES[kind]) <= 2 * size


def test_names_are_read_as_people_write_them():
    assert quant_type("q4_k")[0] == "Q4_K_M"
    assert quant_type("iq4_xs")[0] == "IQ4_XS"
    with pytest.raises(ConfigError, match="no type Q4_K_N") as caught:
        quant_type("Q4_K_N")
    assert "Q4_K" in caught.value.hint
    with pytest.raises(ConfigError, match=r"no type \\x1b"):
        quant_type("\x1b[2J")


@pytest.mark.parametrize("kind", [name for name, each in TYPES.items() if each.needs_imatrix])
def test_types_that_need_an_importance_matrix_are_refused(story: Path, tmp_path: Path, kind: str):
    with pytest.raises(ConfigError, match="garbage without an importance matrix") as caught:
        quantize(story, tmp_path / "out.gguf", kind)
    assert "nearest type" in caught.value.hint and not list(tmp_path.iterdir())


def test_what_is_quantised_already_is_refused(story: Path, tmp_path: Path):
    once = quantize(story, tmp_path / "once.gguf", "Q8_0", threads=1).path
    with pytest.raises(ModelError, match="is quantised already \\(Q8_0\\)"):
        quantize(once, tmp_path / "twice.gguf", "Q4_K_M")
    assert not (tmp_path / "twice.gguf").exists()


def test_an_adapter_and_a_part_are_refused(story: Path, tmp_path: Path):
    for change, message in (
        ({"general.type": "adapter"}, "is an adapter"),
        ({"split.count": 3}, "one part of several"),
    ):
        model = decode(story.read_bytes())
        for key, value in change.items():
            model.put_text(key, value) if isinstance(value, str) else model.put(key, value)
        (tmp_path / "odd.gguf").write_bytes(model.encode())
        with pytest.raises(ModelError, match=message):
            quantize(tmp_path / "odd.gguf", tmp_path / "out.gguf", "Q8_0")


def test_the_source_is_never_overwritten(story: Path, tmp_path: Path):
    source = tmp_path / "model.gguf"
    source.write_bytes(story.read_bytes())
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    hard = tmp_path / "hard.gguf"
    hard.hardlink_to(source)
    for out in (source, link, hard, tmp_path / "." / "model.gguf"):
        with pytest.raises(InputError, match="read and overwritten"):
            quantize(source, out, "Q8_0")
    with pytest.raises(InputError, match="is a folder"):
        quantize(source, tmp_path, "Q8_0")
    assert source.read_bytes() == story.read_bytes()


def test_an_older_result_is_replaced_only_by_a_whole_one(story: Path, tmp_path: Path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"older")
    assert quantize(story, out, "Q8_0", threads=1).size == out.stat().st_size > 100_000


def test_too_small_a_disk_is_refused_before_anything_is_written(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edgetune.files.free_space", lambda path: 1000)
    with pytest.raises(DiskFull, match="free"):
        quantize(story, tmp_path / "out.gguf", "Q8_0")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100 kB, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
def test_46_a_disk_that_fills_up_leaves_nothing_behind(story: Path, tmp_path: Path):
    with pytest.raises(DiskFull, match="no room left"):
        quantize(story, tmp_path / "out.gguf", "Q8_0", threads=1)
    assert not list(tmp_path.iterdir())


def test_46_a_quantiser_that_is_killed_leaves_nothing_behind(story: Path, tmp_path: Path):
    def kill(_: Progress) -> None:
        for child in psutil.Process().children():
            child.send_signal(signal.SIGKILL)

    (tmp_path / "out").mkdir()
    model = write_random_model(tmp_path / "large.gguf", story, hidden=8192)
    with pytest.raises(ChildFailed, match="was killed"):
        quantize(model, tmp_path / "out" / "out.gguf", "IQ4_XS", kill, threads=1)
    assert not list((tmp_path / "out").iterdir())


def test_46_a_parent_that_is_killed_leaves_no_file_of_that_name(story: Path, tmp_path: Path):
    out = tmp_path / "out.gguf"
    code = "import sys, pathlib, edgetune.export.quantize as q; q.quantize(*map(pathlib.Path, sys.argv[1:]), 'Q8_0')"
    command = [sys.executable, "-c", code, str(story), str(out)]
    for point in ("quantize-open:1", "quantize-tensor:9", "quantize-written:1", "quantize-flushed:1"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGETUNE_FAULT": f"{point}:kill"}
        assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
        assert not out.exists()


def test_46_a_source_that_is_damaged_is_refused_before_llama_cpp_sees_it(story: Path, tmp_path: Path):
    raw = bytearray(story.read_bytes())
    raw[8:16] = struct.pack("<Q", 1 << 40)
    (tmp_path / "bad.gguf").write_bytes(raw)
    with pytest.raises(ModelError):
        quantize(tmp_path / "bad.gguf", tmp_path / "out.gguf", "Q8_0")


def test_46_numbers_that_are_not_finite_are_refused(story: Path, tmp_path: Path):
    model: Gguf = decode(story.read_bytes())
    model.data = model.data[:-4] + struct.pack("<f", float("nan"))
    (tmp_path / "nan.gguf").write_bytes(model.encode())
    with pytest.raises((ChildFailed, ModelError)):
        quantize(tmp_path / "nan.gguf", tmp_path / "out.gguf", "Q8_0", threads=1)
    assert not (tmp_path / "out.gguf").exists()
