"""Every tensor and number gets llama.cpp's name, and what its graph cannot compute is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from edgetune.architecture.spec import ModelSpec
from edgetune.backend.rope import Rope
from edgetune.errors import ModelError, UnsupportedFamily
from edgetune.export.gguf_names import hyperparameters, interleave, named_tensors, rope_tensors

SPEC = ModelSpec(
    family="llama",
    vocab=320,
    dim=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    hidden=96,
    norm_eps=1e-5,
    tied=False,
    max_positions=256,
    rope=Rope(16, max_positions=256, original_positions=256),
    windows=(None, None),
)
QWEN3 = replace(SPEC, family="qwen3", query_key_norm=True)
SMOLLM3 = replace(SPEC, family="smollm3", layers=4, windows=(None,) * 4, layer_ropes=(SPEC.rope, SPEC.rope, SPEC.rope, None))
GRANITE = replace(SPEC, family="granite", attention_scale=0.125, residual_scale=0.25, embedding_scale=12.0, logit_scale=1 / 6)
GEMMA2 = replace(
    SPEC,
    family="gemma2",
    tied=True,
    post_norms=True,
    norm_offset=1.0,
    attention_cap=50.0,
    logit_cap=30.0,
    windows=(24, None),
)
LOCAL = replace(SPEC.rope, base=300.0)
GEMMA3 = replace(
    GEMMA2,
    family="gemma3_text",
    attention_cap=None,
    logit_cap=None,
    query_key_norm=True,
    layers=6,
    windows=(24,) * 5 + (None,),
    layer_ropes=(LOCAL,) * 5 + (SPEC.rope,),
)
LLAMA3 = Rope(16, kind="llama3", factor=8, original_positions=64, low_freq_factor=1, high_freq_factor=4)


def names(spec: ModelSpec) -> set[str]:
    return {tensor.name for tensor in named_tensors(spec)}


def test_a_llama_in_llama_cpps_names() -> None:
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")
    blocks = {f"blk.{layer}.{kind}.weight" for layer in range(2) for kind in kinds}
    assert names(SPEC) == blocks | {"token_embd.weight", "output_norm.weight", "output.weight"}


def test_a_tied_head_is_not_written_twice() -> None:
    assert names(SPEC) - names(replace(SPEC, tied=True)) == {"output.weight"}


def test_biases_and_head_norms() -> None:
    biased = names(replace(SPEC, qkv_bias=True, output_bias=True, mlp_bias=True))
    assert {"blk.1.attn_k.bias", "blk.1.attn_output.bias", "blk.1.ffn_down.bias"} <= biased
    assert {"blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"} <= names(QWEN3)


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        (replace(QWEN3, output_bias=True, qkv_bias=True), "bias on the attention's output"),
        (replace(SPEC, family="qwen2", head_dim=32, rope=Rope(32)), "heads of 32"),
        (replace(SPEC, family="qwen2", mlp_bias=True), "biases in the MLP"),
        (replace(SMOLLM3, layer_ropes=(SPEC.rope, None) * 2), "such choice of layers without rotation"),
        (replace(SMOLLM3, layer_ropes=()), "such choice of layers without rotation"),
        (replace(SPEC, layer_ropes=(SPEC.rope, None)), "such choice of layers without rotation"),
        (replace(SMOLLM3, output_bias=True), "bias on the attention's output"),
        (replace(SMOLLM3, mlp_bias=True), "biases in the MLP"),
        (replace(SMOLLM3, rope=LLAMA3), "llama3 rotation"),
        (replace(GRANITE, rope=LLAMA3), "llama3 rotation"),
        (replace(SPEC, family="phi3", fused=True, head_dim=32, rope=Rope(32)), "heads of 32"),
        (replace(GEMMA2, tied=False), "head of its own"),
        (replace(GEMMA2, attention_cap=None), "attention without a cap"),
        (replace(GEMMA2, logit_cap=None), "logits without a cap"),
        (replace(GEMMA2, windows=(None, 24)), "such choice of layers that see a window"),
        (replace(GEMMA2, windows=(None, None)), "such choice of layers that see a window"),
        (replace(GEMMA2, attention_scale=0.2), "attention scale of 0.2"),
        (replace(GEMMA2, dim=96, layers=46, windows=(24, None) * 23), "attention scale of 0.25"),
        (replace(GEMMA3, windows=(24, None) * 3), "such choice of layers that see a window"),
        (replace(GEMMA3, attention_cap=2.0), "cap on attention"),
        (replace(GEMMA3, rope=Rope(16, kind="dynamic", factor=2, max_positions=256)), "dynamic rotation"),
        (replace(GEMMA3, layer_ropes=(replace(LOCAL, kind="linear", factor=2),) * 6), "rotation of layers that see a window"),
        (replace(SPEC, logit_cap=2.0), "cap on logits"),
        (replace(SPEC, attention_scale=0.125), "attention scale of 0.125"),
        (replace(SPEC, residual_scale=0.5), "multipliers of Granite's"),
        (replace(SPEC, rope=Rope(8)), "rotation of 8 of 16 dimensions"),
        (replace(QWEN3, rope=LLAMA3), "llama3 rotation"),
        (replace(SPEC, rope=Rope(16, kind="yarn", factor=4, original_positions=64, beta_fast=16)), "yarn rotation"),
        (replace(SPEC, rope=Rope(16, kind="yarn", factor=4, original_positions=64, truncate=False)), "yarn rotation"),
        (replace(SPEC, rope=Rope(16, kind="longrope", short_factor=(1.0,) * 8, long_factor=(2.0,) * 8)), "longrope rotation"),
    ],
)
def test_what_the_graph_lacks_is_refused_by_name(spec: ModelSpec, missing: str) -> None:
    with pytest.raises(ModelError, match=f"llama.cpp's {spec.family.removesuffix('_text')} graph has no .*{missing}"):
        hyperparameters(spec)
    with pytest.raises(ModelError, match=missing):
        named_tensors(spec)


def test_a_family_without_an_entry_is_refused_with_the_list() -> None:
    with pytest.raises(UnsupportedFamily, match="mamba") as caught:
        hyperparameters(replace(SPEC, family="mamba"))
    assert "qwen3" in caught.value.hint


def test_the_numbers() -> None:
    assert hyperparameters(SPEC) == {
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": 320,
        "llama.rope.dimension_count": 16,
    }
    assert "qwen3.attention.key_length" in hyperparameters(QWEN3)
    assert "qwen3.vocab_size" not in hyperparameters(QWEN3)


def test_granite_s_multipliers() -> None:
    keys = hyperparameters(GRANITE)
    scales = {key: keys[f"granite.{key}"] for key in ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")}
    assert scales == {"attention.scale": 0.125, "embedding_scale": 12, "residual_scale": 0.25, "logit_scale": 6}
    assert "granite.vocab_size" in keys and "smollm3.vocab_size" in hyperparameters(SMOLLM3)


def test_phi3_s_fused_layers_and_long_rope() -> None:
    long = Rope(8, kind="longrope", short_factor=(1.0,) * 4, long_factor=(2.0,) * 4, original_positions=64, scale=1.2)
    spec = replace(SPEC, family="phi3", fused=True, rope=long, windows=(40, 40))
    assert {"blk.0.attn_qkv.weight", "blk.1.ffn_up.weight"} <= names(spec)
    assert not {"blk.0.attn_q.weight", "blk.0.ffn_gate.weight"} & names(spec)
    keys = hyperparameters(spec)
    assert (keys["phi3.rope.dimension_count"], keys["phi3.rope.scaling.original_context_length"]) == (8, 64)
    assert (keys["phi3.rope.scaling.attn_factor"], keys["phi3.attention.sliding_window"]) == (1.2, 40)
    assert keys["phi3.context_length"] == 40  # the graph knows the window and does not look at it
    tensors = rope_tensors(long)
    assert list(tensors) == ["rope_factors_long.weight", "rope_factors_short.weight"]
    assert tensors["rope_factors_long.weight"].tolist() == [2.0] * 4
    assert hyperparameters(replace(spec, rope=Rope(16), windows=(None,) * 2))["phi3.attention.sliding_window"] == 0


def test_gemma_s_norms_caps_and_windows() -> None:
    post = {f"blk.{layer}.{name}.weight" for layer in range(2) for name in ("post_attention_norm", "post_ffw_norm", "ffn_norm")}
    assert post <= names(GEMMA2) and "output.weight" not in names(GEMMA2)
    offsets = {tensor.name: float(tensor.offset) for tensor in named_tensors(GEMMA3)}
    assert offsets["blk.0.attn_q_norm.weight"] == offsets["output_norm.weight"] == 1 and offsets["token_embd.weight"] == 0
    keys = hyperparameters(GEMMA2)
    assert (keys["gemma2.attn_logit_softcapping"], keys["gemma2.final_logit_softcapping"]) == (50, 30)
    assert (keys["gemma2.attention.sliding_window"], keys["gemma2.context_length"]) == (24, 256)
    assert hyperparameters(replace(GEMMA2, layers=46, windows=(24, None) * 23))  # there the width's share is the head's size


def test_gemma3_s_bases_and_a_model_without_windows() -> None:
    keys = hyperparameters(GEMMA3)
    assert (keys["gemma3.rope.freq_base"], keys["gemma3.rope.freq_base_swa"]) == (10_000, 300)
    assert "gemma3.final_logit_softcapping" not in keys
    assert hyperparameters(replace(GEMMA3, logit_cap=5.0))["gemma3.final_logit_softcapping"] == 5
    everywhere = hyperparameters(replace(GEMMA3, windows=(None,) * 6, layer_ropes=(SPEC.rope,) * 6))
    assert not {"gemma3.attention.sliding_window", "gemma3.rope.freq_base_swa"} & everywhere.keys()


def test_the_context_ends_with_the_window_that_the_graph_does_not_see() -> None:
    windowed = hyperparameters(replace(SPEC, family="mistral", windows=(None, 48)))
    assert windowed["llama.context_length"] == 48


def test_linear_and_yarn_scaling() -> None:
    linear = hyperparameters(replace(SPEC, rope=Rope(16, kind="linear", factor=4)))
    assert (linear["llama.rope.scaling.type"], linear["llama.rope.scaling.factor"]) == ("linear", 4)
    papers = 0.1 * np.log(4) + 1
    yarn = Rope(16, kind="yarn", factor=4, original_positions=64, scale=papers)
    keys = hyperparameters(replace(SPEC, rope=yarn))
    assert keys["llama.rope.scaling.original_context_length"] == 64
    assert "llama.rope.scaling.attn_factor" not in keys
    own = hyperparameters(replace(SPEC, rope=replace(yarn, scale=1.0)))
    assert own["llama.rope.scaling.attn_factor"] == pytest.approx(1 / papers)


def test_llama3s_divisors_are_one_for_fast_pairs_and_the_factor_for_slow_ones() -> None:
    divisors = rope_tensors(LLAMA3)["rope_freqs.weight"]
    assert divisors.dtype == np.float32
    assert (divisors[0], divisors[-1]) == (1, 8)
    assert np.all(np.diff(divisors) >= 0)
    assert rope_tensors(Rope(16)) == {}


def test_interleaving_makes_the_halves_neighbours() -> None:
    rows = np.arange(2 * 6).reshape(12, 1)  # two heads of six
    assert interleave(rows, 6).ravel().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert interleave(np.arange(6), 6).tolist() == [0, 3, 1, 4, 2, 5]
