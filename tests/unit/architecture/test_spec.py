"""config.json: both forms mean the same, a family says what its config leaves unsaid, and wrong values are named."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.architecture.spec import SUPPORTED_FAMILIES, ModelSpec, read_spec
from edgetune.errors import ModelError, UnsupportedFamily

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
STRETCHED = {"original_max_position_embeddings": 64, "factor": 2.0}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 4.0},
    "llama3": {**STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {**STRETCHED, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
    "longrope": {**STRETCHED, "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]},
}


def spec_of(folder: Path, values: object) -> ModelSpec:
    (folder / "config.json").write_text(json.dumps(values))
    return read_spec(folder)


def refused(folder: Path, values: object) -> ModelError:
    with pytest.raises(ModelError) as caught:
        spec_of(folder, values)
    assert caught.value.hint and caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("kind", ROPES)
def test_both_forms_of_the_rope_are_one_spec(kind: str, tmp_path: Path) -> None:
    scaling = {"rope_type": kind, **ROPES[kind]}
    older = spec_of(tmp_path, {**LLAMA, "rope_theta": 5e5, "rope_scaling": scaling if kind != "default" else None})
    newer = spec_of(tmp_path, {**LLAMA, "rope_parameters": {**scaling, "rope_theta": 5e5}})
    oldest = spec_of(tmp_path, {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": kind, **ROPES[kind]}})
    assert older == newer == oldest
    assert (newer.rope.kind, newer.rope.base, newer.rope.dim) == (kind, 5e5, 8)


def test_a_theta_beside_rope_parameters_is_used_where_they_have_none(tmp_path: Path) -> None:
    assert spec_of(tmp_path, {**LLAMA, "rope_theta": 7e4, "rope_parameters": {"rope_type": "default"}}).rope.base == 7e4
    both = {**LLAMA, "rope_theta": 7e4, "rope_parameters": {"rope_type": "default", "rope_theta": 9e4}}
    assert spec_of(tmp_path, both).rope.base == 9e4


def test_what_a_small_config_leaves_unsaid(tmp_path: Path) -> None:
    small = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "rms_norm_eps")}
    spec = spec_of(tmp_path, {**small, "head_dim": None, "sliding_window": 8})
    assert (spec.kv_heads, spec.head_dim, spec.norm_eps, spec.rope.base) == (4, 8, 1e-6, 10_000)
    assert not spec.tied and not spec.qkv_bias and spec.windows == (None,) * 4  # Llama knows no window


@pytest.mark.parametrize(
    ("family", "qkv_bias", "output_bias", "query_key_norm", "head_dim", "window"),
    [("llama", False, False, False, 8, None), ("mistral", False, False, False, 8, 4096),
     ("qwen2", True, False, False, 8, None), ("qwen3", False, False, True, 128, None),
     ("smollm3", False, False, False, 8, None), ("granite", False, False, False, 8, None),
     ("phi3", False, False, False, 8, None)],
)  # fmt: skip
def test_each_family_implies_its_switches(
    family: str, qkv_bias: bool, output_bias: bool, query_key_norm: bool, head_dim: int, window: int | None, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, {**LLAMA, "model_type": family})
    assert (spec.qkv_bias, spec.output_bias, spec.query_key_norm) == (qkv_bias, output_bias, query_key_norm)
    assert (spec.head_dim, spec.windows) == (head_dim, (window,) * 4)


def test_switches_that_a_config_sets(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True})
    assert spec.qkv_bias and spec.output_bias and spec.mlp_bias and spec.tied
    assert spec_of(tmp_path, {**LLAMA, "model_type": "mistral", "sliding_window": None}).windows == (None,) * 4
    assert spec_of(tmp_path, {**LLAMA, "model_type": "mistral", "sliding_window": 6}).windows == (6,) * 4


QWEN = {**LLAMA, "model_type": "qwen2", "sliding_window": 5, "max_window_layers": 3}


def test_windows_begin_at_max_window_layers_or_are_named_layer_by_layer(tmp_path: Path) -> None:
    assert spec_of(tmp_path, QWEN).windows == (None,) * 4  # not in use
    used = {**QWEN, "use_sliding_window": True}
    assert spec_of(tmp_path, used).windows == (None, None, None, 5)
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    assert spec_of(tmp_path, {**used, "layer_types": kinds}).windows == (5, None, 5, None)
    assert "layer_types" in refused(tmp_path, {**used, "layer_types": kinds[:3]}).message
    assert "linear_attention" in refused(tmp_path, {**used, "layer_types": [*kinds[:3], "linear_attention"]}).message


SMOLLM3 = {**LLAMA, "model_type": "smollm3", "sliding_window": 6}


def turned(spec: ModelSpec) -> list[bool]:
    return [spec.head_shape(layer).rope is not None for layer in range(spec.layers)]


def test_smollm3_does_not_turn_every_fourth_layer_or_those_that_are_named(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SMOLLM3)
    assert turned(spec) == [True, True, True, False] and spec.tied and spec.rope.base == 2e6
    assert spec.head_shape(0).rope == spec.rope and spec.windows == (None,) * 4  # not in use
    assert turned(spec_of(tmp_path, {**SMOLLM3, "no_rope_layer_interval": 2})) == [True, False, True, False]
    named = {**SMOLLM3, "no_rope_layers": [0, 1, 1, 0, 1], "use_sliding_window": True}
    assert turned(spec_of(tmp_path, named)) == [False, True, True, False]
    assert spec_of(tmp_path, named).windows == (6, None, None, 6)
    kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    assert spec_of(tmp_path, {**named, "layer_types": kinds}).windows == (None, 6, None, None)
    for wrong in ([1, 0, 1], [1, 0, 2, 1], "1111", [None] * 4):
        assert "no_rope_layers" in refused(tmp_path, {**SMOLLM3, "no_rope_layers": wrong}).message


def test_granite_s_multipliers(tmp_path: Path) -> None:
    granite = {**LLAMA, "model_type": "granite"}
    plain = spec_of(tmp_path, granite)
    assert (plain.query_scale, plain.embedding_scale, plain.residual_scale, plain.logit_scale) == (1, 1, 1, 1)
    given = {"attention_multiplier": 0.25, "embedding_multiplier": 12, "residual_multiplier": 0.5, "logits_scaling": 8}
    spec = spec_of(tmp_path, {**granite, **given})
    assert (spec.query_scale, spec.embedding_scale, spec.residual_scale, spec.logit_scale) == (0.25, 12, 0.5, 1 / 8)
    for key in given:
        for wrong in (0, -1.0, "1", math.inf):
            assert key in refused(tmp_path, {**granite, key: wrong}).message


PHI3 = {**LLAMA, "model_type": "phi3", "original_max_position_embeddings": 64}


def test_phi3_s_layers_are_fused_and_a_part_of_a_head_turns(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {**PHI3, "partial_rotary_factor": 0.5, "sliding_window": 9})
    assert (spec.rope.dim, spec.head_dim, spec.windows) == (4, 8, (9,) * 4)
    assert spec.linear_kinds == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert spec.linear_shape("qkv_proj") == (64, 32) and spec.linear_shape("gate_up_proj") == (96, 32)
    assert spec.kinds_of(["v_proj", "gate_proj", "down_proj"]) == ("qkv_proj", "gate_up_proj", "down_proj")
    assert spec.parameters == spec_of(tmp_path, LLAMA).parameters
    newer = {**PHI3, "sliding_window": 9, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}
    assert spec_of(tmp_path, newer) == spec
    for share in (0, -0.5, 1.5, 0.1, 0.4, "half"):
        assert "partial_rotary_factor" in refused(tmp_path, {**PHI3, "partial_rotary_factor": share}).message


def test_phi3_s_long_rope_by_its_first_name(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}
    old = spec_of(tmp_path, {**PHI3, "rope_scaling": {"type": "su", **factors}})
    assert old == spec_of(tmp_path, {**PHI3, "rope_parameters": {"rope_type": "longrope", **factors}})
    assert old.rope.kind == "longrope" and old.rope.scale == math.sqrt(1 + math.log(2) / math.log(64))
    assert "linear" in refused(tmp_path, {**PHI3, "rope_scaling": {"type": "linear", "factor": 2.0}}).message


GEMMA2 = {**LLAMA, "model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 16, "sliding_window": 6}
GEMMA3 = {**GEMMA2, "model_type": "gemma3_text"}


def test_gemma2_s_switches_and_what_its_config_leaves_unsaid(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, GEMMA2)
    assert spec.tied and spec.post_norms and spec.norm_offset == 1 and spec.activation == "gelu"
    assert (spec.query_scale, spec.embedding_scale) == (0.25, math.sqrt(32))
    assert (spec.attention_cap, spec.logit_cap, spec.windows) == (50, 30, (6, None, 6, None))
    without = spec_of(tmp_path, {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None})
    assert (without.attention_cap, without.logit_cap) == (None, None)
    wrong = {"final_logit_softcapping": 0, "attn_logit_softcapping": -1.0, "query_pre_attn_scalar": 0, "sliding_window": None,
             "hidden_activation": "gelu", "use_bidirectional_attention": True}  # fmt: skip
    for key, value in wrong.items():
        assert key in refused(tmp_path, {**GEMMA2, key: value}).message


def test_gemma3_s_two_rotations_in_both_forms(tmp_path: Path) -> None:
    older = {**GEMMA3, "sliding_window_pattern": 2, "rope_theta": 7e5, "rope_local_base_freq": 300.0}
    spec = spec_of(tmp_path, {**older, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert spec.query_key_norm and spec.logit_cap is None and spec.windows == (6, None, 6, None)
    bases = [spec.head_shape(layer).rope for layer in range(4)]
    assert [rope and (rope.base, rope.kind) for rope in bases] == [(300.0, "default"), (7e5, "linear")] * 2
    sets = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 7e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    }
    kinds = ["sliding_attention", "full_attention"] * 2
    assert spec_of(tmp_path, {**GEMMA3, "rope_parameters": sets, "layer_types": kinds}) == spec
    plain = spec_of(tmp_path, GEMMA3)
    assert (plain.rope.base, plain.windows) == (1e6, (6,) * 4)
    flat = {"rope_type": "default", "rope_theta": 1e4}
    assert "rope_parameters" in refused(tmp_path, {**GEMMA3, "rope_parameters": flat}).message


def test_the_readme_names_every_family() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    row = next(line for line in readme.splitlines() if line.startswith("| **Models** |"))
    assert [family for family in SUPPORTED_FAMILIES if family not in row] == []


def test_an_unsupported_family_is_named_with_those_that_are(tmp_path: Path) -> None:
    error = refused(tmp_path, {**LLAMA, "model_type": "mamba2", "auto_map": {"AutoModel": "modeling.Mamba"}})
    assert isinstance(error, UnsupportedFamily) and error.kind == "unsupported_family"
    assert "mamba2" in error.message and "auto_map" in error.message
    assert all(family in error.hint for family in SUPPORTED_FAMILIES)
    assert "model_type" in refused(tmp_path, {}).message


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4"])
def test_weights_quantised_in_a_foreign_form_are_refused_by_name(method: str, tmp_path: Path) -> None:
    error = refused(tmp_path, {**LLAMA, "quantization_config": {"quant_method": method, "bits": 4, "group_size": 64}})
    assert method in error.message and "un-quantised" in error.hint


def test_a_wrapper_s_text_config_is_read(tmp_path: Path) -> None:
    wrapped = {"model_type": "llava", "vocab_size": 7, "vision_config": {"hidden_size": 9}, "text_config": LLAMA}
    assert spec_of(tmp_path, wrapped) == spec_of(tmp_path, LLAMA)


WRONG: list[tuple[str, Any]] = [
    *((key, value) for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
      for value in (0, -1, "8", 1.5, True, None, 10**8, [])),
    ("num_key_value_heads", 3), ("num_key_value_heads", 8), ("num_hidden_layers", 1001), ("head_dim", 7), ("head_dim", -2),
    ("rms_norm_eps", -1e-5), ("rms_norm_eps", "x"), ("rms_norm_eps", math.nan), ("rms_norm_eps", math.inf),
    ("rms_norm_eps", {"__float__": "Infinity"}), ("rms_norm_eps", 10**400), ("rms_norm_eps", True), ("rms_norm_eps", []),
    ("hidden_act", "gelu"), ("hidden_act", 3), ("attention_bias", "yes"), ("attention_bias", 1), ("mlp_bias", []),
    ("tie_word_embeddings", "true"), ("max_position_embeddings", 0), ("max_position_embeddings", 2.5), ("dtype", 16),
    ("rope_theta", 0), ("rope_theta", 1), ("rope_theta", -5.0), ("rope_theta", math.nan), ("rope_theta", "10000"),
    ("partial_rotary_factor", 0.5), ("rope_scaling", "linear"), ("rope_scaling", {"rope_type": "spiral"}),
    ("original_max_position_embeddings", 0),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_named_by_its_key(key: str, value: Any, tmp_path: Path) -> None:
    error = refused(tmp_path, {**LLAMA, key: value})
    assert (key if key != "rope_scaling" else "rope_") in error.message and str(tmp_path / "config.json") in error.message


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [("linear", "factor", None), ("linear", "factor", 0), ("llama3", "factor", None), ("dynamic", "factor", -1),
     ("llama3", "high_freq_factor", 1.0), ("yarn", "beta_fast", -1.0), ("yarn", "beta_slow", 0),
     ("yarn", "truncate", "no"), ("yarn", "original_max_position_embeddings", 0), ("longrope", "short_factor", [1.0]),
     ("longrope", "long_factor", [1.0, 0.0, 1.0, 1.0]), ("longrope", "long_factor", None),
     ("longrope", "original_max_position_embeddings", 1), ("longrope", "short_factor", [1, 1, 1, 10**400])],
)  # fmt: skip
def test_a_wrong_number_of_a_rope_is_named(kind: str, key: str, value: Any, tmp_path: Path) -> None:
    parameters = {"rope_type": kind, "rope_theta": 1e4, **ROPES[kind], key: value}
    assert key in refused(tmp_path, {**LLAMA, "rope_parameters": parameters}).message


def test_ropes_that_differ_by_the_kind_of_layer_are_refused(tmp_path: Path) -> None:
    nested = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default"}}
    assert "rope_parameters" in refused(tmp_path, {**LLAMA, "model_type": "qwen3", "rope_parameters": nested}).message


def test_a_wrong_window_is_named(tmp_path: Path) -> None:
    for window in (0, -3, "8", 2.5):
        assert "sliding_window" in refused(tmp_path, {**LLAMA, "model_type": "mistral", "sliding_window": window}).message


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"{", b"\xff\xfe\x00", b'{"a":' * 100_000, b'{"model_type": "\\ud800"}', b"9" * 5000]
)
def test_what_is_no_config_is_told_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_spec(tmp_path)
    assert str(caught.value).encode() and len(str(caught.value)) < 600


def test_no_folder_no_config_and_a_config_that_is_a_folder(tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "absent", "no such model folder"), (tmp_path, "no config.json")):
        with pytest.raises(ModelError, match=said):
            read_spec(folder)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_spec(tmp_path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["yarn", "linear", "longrope"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["factor", "rope_type", "type", "beta_fast", "mscale", "mscale_all_dim", "__float__"]), inner
        )
    ),
    max_leaves=6,
)
KEYS = [
    *LLAMA,
    "no_rope_layers",
    "logits_scaling",
    "attention_multiplier",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "head_dim",
    "sliding_window",
    "layer_types",
    "text_config",
]


@given(changed=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), family=st.sampled_from(SUPPORTED_FAMILIES))
def test_no_config_ends_in_anything_but_a_spec_or_a_model_error(
    changed: dict[str, Any], family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        spec = spec_of(folder, {**LLAMA, "model_type": family, **changed})
    except ModelError as error:
        assert str(error)
    else:
        assert spec.heads % spec.kv_heads == 0 and len(spec.windows) == spec.layers and math.isfinite(spec.rope.scale)
