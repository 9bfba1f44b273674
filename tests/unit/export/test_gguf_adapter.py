"""An adapter as GGUF: what llama.cpp reads, back again bit for bit, and nothing that is hostile or cannot be meant."""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgetune.adapters.dora import matrices_of, with_magnitudes
from edgetune.adapters.lora import LoraAdapter, LoraFactors
from edgetune.adapters.mlx_lm import read_mlx_lm, write_mlx_lm
from edgetune.adapters.peft import read_peft, write_peft
from edgetune.architecture.load import load_model
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.errors import AdapterError, InputError, ModelError
from edgetune.export.gguf_adapter import read_gguf_adapter, side_by_side, write_gguf_adapter
from edgetune.export.gguf_names import interleave

QUERY, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SHAPES = {QUERY: (32, 32), "model.layers.1.self_attn.k_proj": (16, 32), DOWN: (32, 64)}


@pytest.fixture(scope="session")
def spec(tiny_model: Path) -> ModelSpec:
    return read_spec(tiny_model)


def factors(path: str, rank: int, scale: float) -> LoraFactors:
    outputs, inputs = SHAPES[path]
    random = np.random.default_rng([rank, outputs])
    a, b = (random.normal(0, 1, shape).astype(np.float32) for shape in ((rank, inputs), (outputs, rank)))
    return LoraFactors(a, b, scale)


def three(ranks: list[int], scales: list[float]) -> LoraAdapter:
    made = {path: factors(path, rank, scale) for path, rank, scale in zip(SHAPES, ranks, scales, strict=True)}
    return LoraAdapter(made, "someone/base")


def same(one: LoraAdapter, other: LoraAdapter) -> bool:
    return one.trained_arrays().keys() == other.trained_arrays().keys() and all(
        array.tobytes() == other.trained_arrays()[name].tobytes() for name, array in one.trained_arrays().items()
    )


# ---- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_says_what_llama_cpp_asks_for(spec: ModelSpec, tmp_path: Path) -> None:
    """Read by the gguf package. q_proj's rows are in the order of a llama graph; others are as they were."""
    adapter = three([2, 2, 2], [4.0, 4.0, 4.0])
    write_gguf_adapter(tmp_path / "a.gguf", adapter, spec)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    said = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert said == {
        "general.type": "adapter", "general.architecture": "llama", "general.file_type": 0, "adapter.type": "lora",
        "adapter.lora.alpha": 8.0, "general.base_model.count": 1, "general.base_model.0.name": "someone/base",
    }  # fmt: skip
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert set(tensors) == {
        f"blk.{name}.weight.lora_{side}" for name in ("0.attn_q", "1.attn_k", "1.ffn_down") for side in "ab"
    }
    for path, name in ((QUERY, "blk.0.attn_q"), (DOWN, "blk.1.ffn_down")):
        one = adapter.factors[path]
        assert np.array_equal(tensors[f"{name}.weight.lora_a"], one.a)
        turned = one.b.reshape(4, 2, 4, 2).swapaxes(1, 2).reshape(32, 2)  # 4 heads of 8: halves become pairs
        assert np.array_equal(tensors[f"{name}.weight.lora_b"], turned if path == QUERY else one.b)


def test_no_path_of_this_machine_is_in_it(spec: ModelSpec, tmp_path: Path) -> None:
    write_gguf_adapter(tmp_path / "a.gguf", replace(three([1, 1, 1], [1.0] * 3), base_model="/home/alice/secret/base"), spec)
    content = (tmp_path / "a.gguf").read_bytes()
    assert b"alice" not in content and b"secret" not in content and b"base" in content


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([2, 4, 8]))
def test_pairs_become_halves_again(heads: int, rank: int, head_dim: int) -> None:
    rows = np.arange(heads * head_dim * rank, dtype=np.float32).reshape(-1, rank)
    assert np.array_equal(side_by_side(interleave(rows, head_dim), head_dim), rows)


# ---- round trips -------------------------------------------------------------------------------------------------------


def around(adapter: LoraAdapter, spec: ModelSpec, place: Path) -> LoraAdapter:
    """PEFT -> mlx-lm -> GGUF -> PEFT."""
    for name in ("peft", "mlx", "again"):
        (place / name).mkdir()
    write_peft(place / "peft", adapter)
    write_mlx_lm(place / "mlx", read_peft(place / "peft"))
    write_gguf_adapter(place / "a.gguf", read_mlx_lm(place / "mlx"), spec)
    write_peft(place / "again", read_gguf_adapter(place / "a.gguf", spec))
    return read_peft(place / "again")


@given(rank=st.integers(1, 8), alpha=st.integers(1, 1 << 20), divisor=st.sampled_from([1, 2, 64]))
def test_one_scale_goes_around_bit_for_bit(
    rank: int, alpha: int, divisor: int, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of every alpha that a float32 holds."""
    adapter = three([rank] * 3, [alpha / divisor / rank] * 3)
    back = around(adapter, spec, tmp_path_factory.mktemp("around"))
    assert same(adapter, back) and back.base_model == "someone/base"
    assert all(one.scale == adapter.factors[path].scale for path, one in back.factors.items())


@given(ranks=st.lists(st.integers(1, 4), min_size=3, max_size=3), scales=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3))
@example(ranks=[2, 2, 2], scales=[0.1, 0.1, 0.1])
def test_any_scales_and_ranks_go_around_to_a_last_bit(
    ranks: list[int], scales: list[float], spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    adapter = three(ranks, scales)
    back = around(adapter, spec, tmp_path_factory.mktemp("around"))
    for path, one in adapter.factors.items():
        rank, other = len(one.a), back.factors[path]
        assert np.array_equal(other.a[:rank], one.a) and not other.b[:, rank:].any()
        before, after = one.b.astype(np.float64) * one.scale, other.b[:, :rank].astype(np.float64) * other.scale
        assert (np.abs(after - before) <= np.spacing(np.abs(before).astype(np.float32))).all()


def test_one_alpha_with_several_ranks_needs_no_folding(spec: ModelSpec, tmp_path: Path) -> None:
    adapter = three([1, 2, 4], [12.0, 6.0, 3.0])
    write_gguf_adapter(tmp_path / "a.gguf", adapter, spec)
    back = read_gguf_adapter(tmp_path / "a.gguf", spec)
    assert same(adapter, back) and [one.scale for one in back.factors.values()] == [12.0, 6.0, 3.0]


@pytest.mark.parametrize("kind", [np.float16, "bfloat16"])
def test_half_precision_is_read_exactly(kind: Any, spec: ModelSpec, tmp_path: Path) -> None:
    write = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    write.add_string("general.type", "adapter")
    write.add_string("adapter.type", "lora")
    write.add_float32("adapter.lora.alpha", 4.0)
    one = factors(DOWN, 2, 2.0)
    for leaf, array in (("lora_a", one.a), ("lora_b", one.b)):
        if kind == np.float16:
            write.add_tensor(f"blk.1.ffn_down.weight.{leaf}", array.astype(np.float16))
        else:
            bits = (array.view(np.uint32) >> 16).astype(np.uint16)
            stored = gguf.GGMLQuantizationType.BF16
            write.add_tensor(f"blk.1.ffn_down.weight.{leaf}", bits.view(np.uint8), raw_dtype=stored)
    write.write_header_to_file()
    write.write_kv_data_to_file()
    write.write_tensors_to_file()
    write.close()
    back = read_gguf_adapter(tmp_path / "a.gguf", spec).factors[DOWN]
    shorter = (
        (lambda x: x.astype(np.float16))
        if kind == np.float16
        else (lambda x: (x.view(np.uint32) & 0xFFFF0000).view(np.float32))
    )
    assert np.array_equal(back.a, shorter(one.a)) and np.array_equal(back.b, shorter(one.b)) and back.scale == 2.0


# ---- what has no form there --------------------------------------------------------------------------------------------


def refused(adapter: LoraAdapter, spec: ModelSpec, place: Path) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        write_gguf_adapter(place / "a.gguf", adapter, spec)
    assert caught.value.hint and not list(place.iterdir())
    return caught.value


def test_what_llama_cpp_cannot_add_is_to_be_merged(spec: ModelSpec, tiny_model: Path, tmp_path: Path) -> None:
    adapter = three([1, 1, 1], [1.0] * 3)
    matrices = matrices_of(load_model(tiny_model))
    for other, said in (
        (with_magnitudes(adapter, matrices), "DoRA"),
        (LoraAdapter({"lm_head": adapter.factors[QUERY]}), "lm_head, which is the embedding"),
        (LoraAdapter({"model.layers.0.self_attn.qkv_proj": adapter.factors[QUERY]}), "qkv_proj"),
    ):
        error = refused(other, spec, tmp_path)
        assert said in str(error) and "merge" in error.hint


def test_another_base_and_another_place(spec: ModelSpec, tmp_path: Path) -> None:
    adapter = three([1, 1, 1], [1.0] * 3)
    assert "made for another base" in str(refused(LoraAdapter({QUERY: adapter.factors[DOWN]}), spec, tmp_path))
    with pytest.raises(InputError, match="no name for a GGUF"):
        write_gguf_adapter(tmp_path / "adapter.bin", adapter, spec)


# ---- hostile files -----------------------------------------------------------------------------------------------------


def file_of(place: Path, keys: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """An adapter's GGUF as somebody else may have written it."""
    values: dict[str, Any] = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0, **(keys or {})}
    write = gguf.GGUFWriter(place, values.pop("architecture", "llama"))
    for key, value in values.items():
        if isinstance(value, float):
            write.add_float32(key, value)
        elif isinstance(value, list):
            write.add_array(key, value)
        elif value is not None:
            write.add_string(key, value)
    one = factors(DOWN, 2, 2.0)
    pair = {"blk.1.ffn_down.weight.lora_a": one.a, "blk.1.ffn_down.weight.lora_b": one.b}
    for name, array in (pair if tensors is None else tensors).items():
        write.add_tensor(name, array)
    write.write_header_to_file()
    write.write_kv_data_to_file()
    write.write_tensors_to_file()
    write.close()
    return place


ZERO = np.zeros((2, 64), np.float32)


@pytest.mark.parametrize(
    ("keys", "tensors", "said"),
    [({"general.type": "model"}, None, "no LoRA adapter: model lora"), ({"adapter.type": "control\x1b[31m"}, None, "control"),
     ({"general.type": None}, None, "None lora"), ({"adapter.lora.alpha": None}, None, "alpha is None"),
     ({"adapter.lora.alpha": math.nan}, None, "alpha is nan"), ({"adapter.lora.alpha": -1.0}, None, "alpha is -1"),
     ({"adapter.lora.alpha": math.inf}, None, "alpha is inf"), ({"adapter.lora.alpha": "4"}, None, "alpha is 4"),
     ({"architecture": "qwen3"}, None, "for a qwen3, the base is a llama"), ({"adapter.alora.invocation_tokens": [1, 2]}, None, "activated"),
     (None, {"blk.1.ffn_down.weight.lora_a": ZERO}, "None"), (None, {"blk.1.ffn_down.weight.lora_b": ZERO}, "half of one"), (None, {}, "no adapter"),
     (None, {"blk.9.ffn_down.weight.lora_a": ZERO}, "blk.9"), (None, {"token_embd.weight.lora_a": ZERO, "token_embd.weight.lora_b": ZERO}, "(2, 64)"),
     (None, {"blk.0.attn_norm.weight": ZERO[0]}, "attn_norm"), (None, {"lora_a": ZERO}, "lora_a"),
     (None, {"blk.1.ffn_down.weight.lora_a": ZERO, "blk.1.ffn_down.weight.lora_b": np.zeros((32, 3), np.float32)}, "(32, 3)"),
     (None, {"blk.1.ffn_down.weight.lora_a": ZERO, "blk.1.ffn_down.weight.lora_b": np.full((32, 2), np.nan, np.float32)}, "not finite"),
     (None, {"blk.1.ffn_down.weight.lora_a": ZERO.astype(np.int32)}, "type I32")],
)  # fmt: skip
def test_files_that_are_no_adapter_of_this_base(
    keys: dict[str, Any] | None, tensors: dict[str, np.ndarray] | None, said: str, spec: ModelSpec, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError) as caught:
        read_gguf_adapter(file_of(tmp_path / "a.gguf", keys, tensors), spec)
    assert said in str(caught.value) and caught.value.hint and str(caught.value).isprintable()


def test_truncated_and_flipped_files_are_read_or_refused(spec: ModelSpec, tmp_path: Path) -> None:
    content = file_of(tmp_path / "a.gguf").read_bytes()
    random, file = np.random.default_rng(0), tmp_path / "b.gguf"
    damaged = [content[:size] for size in random.integers(0, len(content), 100)]
    for place in random.integers(0, 700, 300):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    damaged.append(content[:8] + struct.pack("<QQ", 2**62, 2**62) + content[24:])
    refusals = 0
    for each in damaged:
        file.write_bytes(each)
        try:
            assert all(0 < one.scale < math.inf for one in read_gguf_adapter(file, spec).factors.values())
        except (AdapterError, ModelError) as error:
            refusals += 1
            assert error.hint and json.dumps(str(error))
    assert refusals > 200
