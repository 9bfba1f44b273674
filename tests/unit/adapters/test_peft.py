"""PEFT's folder: what is written is read back exactly, a scale is never guessed, and hostile files are refused quickly."""

import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edgetune.adapters import folder as folder_module
from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter, LoraFactors
from edgetune.adapters.peft import UNUSED_IF, read_peft, write_peft
from edgetune.errors import AdapterError

QUERY, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"]}


def factors(rank: int = 2, scale: float = 2.0, inputs: int = 32, outputs: int = 32, seed: int = 0) -> LoraFactors:
    random = np.random.default_rng(seed)
    a, b = random.normal(0, 1, (rank, inputs)), random.normal(0, 1, (outputs, rank))
    return LoraFactors(a.astype(np.float32), b.astype(np.float32), scale)


def folder_of(folder: Path, config: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """A PEFT folder as somebody else may have written it."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    if tensors is None:
        tensors = {}
        for path, inputs, outputs in ((QUERY, 32, 32), (UP, 32, 64)):
            one = factors(2, 1, inputs, outputs)
            tensors |= {f"base_model.model.{path}.lora_A.weight": one.a, f"base_model.model.{path}.lora_B.weight": one.b}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def refused(folder: Path) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        read_peft(folder)
    assert caught.value.hint and str(folder) in str(caught.value) and len(str(caught.value)) < 700
    assert str(caught.value).isprintable()
    return caught.value


# ---- round trips -------------------------------------------------------------------------------------------------------


@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    alphas=st.lists(st.one_of(st.integers(1, 64), st.floats(0.01, 100)), min_size=4, max_size=4),
    rslora=st.booleans(),
)
def test_what_is_written_is_read(
    ranks: list[int], alphas: list[float], rslora: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    scales = [alpha / math.sqrt(rank) if rslora else alpha / rank for rank, alpha in zip(ranks, alphas, strict=False)]
    modules = {
        f"model.layers.{number}.mlp.up_proj": factors(rank, scale, seed=number)
        for number, (rank, scale) in enumerate(zip(ranks, scales, strict=True))
    }
    write_peft(folder, LoraAdapter(modules, "someone/base", 0.125, rslora))
    back = read_peft(folder)
    assert (back.base_model, back.dropout, back.rslora) == (
        "someone/base",
        0.125,
        rslora,
    ) and back.factors.keys() == modules.keys()
    for path, one in modules.items():
        assert np.array_equal(back.factors[path].a, one.a) and np.array_equal(back.factors[path].b, one.b)
        assert back.factors[path].scale == pytest.approx(one.scale, rel=1e-15, abs=0)


def test_the_folder_holds_what_peft_reads(tmp_path: Path) -> None:
    write_peft(tmp_path, LoraAdapter({QUERY: factors(4, 2.0), UP: factors(4, 2.0, 32, 64)}, "someone/base"))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 4, 8)
    assert isinstance(config["lora_alpha"], int) and config["target_modules"] == ["q_proj", "up_proj"]
    assert config["rank_pattern"] == config["alpha_pattern"] == {} and config["layers_to_transform"] is None
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        f"base_model.model.{path}.lora_{side}.weight" for path in (QUERY, UP) for side in "AB"
    }


def test_the_last_layers_alone_are_named(tmp_path: Path) -> None:
    write_peft(tmp_path, LoraAdapter({f"model.layers.{number}.mlp.up_proj": factors() for number in (2, 3)}))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["layers_to_transform"], config["layers_pattern"]) == ([2, 3], "layers")
    assert set(read_peft(tmp_path).factors) == {"model.layers.2.mlp.up_proj", "model.layers.3.mlp.up_proj"}


@pytest.mark.parametrize("base", ["/home/alice/secret/my-base", "~/my-base", "./my-base", "../x/my-base"])
def test_no_local_path_is_written_down(base: str, tmp_path: Path) -> None:
    write_peft(tmp_path, LoraAdapter({QUERY: factors()}, base))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "my-base"
    assert "alice" not in (tmp_path / "adapter_config.json").read_text()


# ---- scales ------------------------------------------------------------------------------------------------------------

PATTERNS: list[tuple[dict[str, float], float]] = [  # alpha_pattern, and the alpha of QUERY that PEFT's rule gives
    ({}, 4),
    ({"q_proj": 6}, 6),
    ({"self_attn.q_proj": 6}, 6),
    ({QUERY: 6}, 6),
    ({"layers.0.self_attn.q_proj": 6, "q_proj": 8}, 6),
    ({"q_proj": 8, "layers.0.self_attn.q_proj": 6}, 8),  # the first one wins
    ({"_proj": 6}, 4),  # a whole part of the path, not a part of a part
    ({"proj": 6}, 4),
    ({r"layers\.\d+\.self_attn\..*": 6}, 6),
    ({r".*\.(q|k)_proj": 6}, 6),
    ({"q_proj|k_proj": 6}, 6),
    ({"(?:k_proj|q_proj)": 6}, 6),
    ({r"layers\.[1-9]\.self_attn\.q_proj": 6}, 4),
    ({f"^{QUERY}": 6}, 6),
    ({"^q_proj": 6}, 4),
    ({"q_proj$": 6}, 6),
]


@pytest.mark.parametrize(("patterns", "alpha"), PATTERNS)
def test_patterns_are_matched_as_peft_matches_them(patterns: dict[str, float], alpha: float, tmp_path: Path) -> None:
    adapter = read_peft(folder_of(tmp_path, {"alpha_pattern": patterns}))
    assert adapter.factors[QUERY].scale == alpha / 2


def test_ranks_and_rslora_make_the_scale(tmp_path: Path) -> None:
    settings = {"r": 16, "rank_pattern": {"q_proj": 2, "up_proj": 2}, "alpha_pattern": {"up_proj": 10.5}, "use_rslora": True}
    adapter = read_peft(folder_of(tmp_path, settings))
    assert adapter.factors[QUERY].scale == 4 / 2**0.5 and adapter.factors[UP].scale == 10.5 / 2**0.5


@pytest.mark.parametrize(
    ("config", "said"),
    [({"r": 3}, "rank 3"), ({"r": None}, "rank None"), ({"r": "2"}, "rank 2"), ({"lora_alpha": 0}, "alpha 0"),
     ({"lora_alpha": -4}, "alpha -4"), ({"lora_alpha": None}, "alpha None"), ({"lora_alpha": "4"}, "alpha 4"),
     ({"lora_alpha": math.nan}, "alpha nan"), ({"lora_alpha": math.inf}, "alpha inf"), ({"lora_alpha": True}, "alpha True"),
     ({"lora_alpha": 10**400}, "alpha 1000"), ({"lora_alpha": []}, "alpha"), ({"rank_pattern": {"q_proj": 8}}, "rank 8"),
     ({"rank_pattern": ["q_proj"]}, "rank_pattern is not a table"), ({"alpha_pattern": "q"}, "alpha_pattern is not a table"),
     ({"alpha_pattern": {"q_proj": {"a": 1}}}, "alpha"), ({"lora_dropout": "x"}, "lora_dropout is x"),
     ({"lora_dropout": [1]}, "lora_dropout"), ({"lora_dropout": math.nan}, "lora_dropout"), ({"lora_dropout": 3}, "lora_dropout is 3"),
     ({"use_rslora": "false"}, "use_rslora is false"), ({"use_rslora": [1]}, "use_rslora")],
)  # fmt: skip
def test_39_a_scale_is_never_guessed(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in str(refused(folder_of(tmp_path, config)))


# ---- refusals ----------------------------------------------------------------------------------------------------------

USED = {
    "peft_type": "IA3", "bias": "lora_only", "init_lora_weights": "pissa", "modules_to_save": ["lm_head"],
    "trainable_token_indices": [1], "layer_replication": [[0, 2]], "target_parameters": ["x"], "exclude_modules": ["lm_head"],
    "alora_invocation_tokens": [3], "use_bdlora": {"x": 1},
}  # fmt: skip


@pytest.mark.parametrize("key", UNUSED_IF)
def test_39_a_feature_that_changes_the_arithmetic_is_refused_by_name(key: str, tmp_path: Path) -> None:
    assert key in str(refused(folder_of(tmp_path, {key: USED.get(key, True)})))
    for unused in UNUSED_IF[key]:
        assert read_peft(folder_of(tmp_path, {key: unused})).factors


def test_a_key_that_nobody_knows_is_refused_only_where_it_is_in_use(tmp_path: Path) -> None:
    assert "use_newlora" in str(refused(folder_of(tmp_path, {"use_newlora": True})))
    assert "\\x1b" in str(refused(folder_of(tmp_path, {"\x1b[31m": 5})))
    for unused in (None, False, [], {}, ""):
        read_peft(folder_of(tmp_path, {"use_newlora": unused, "peft_version": "9", "runtime_config": {"x": 1}}))


def extra(name: str, shape: tuple[int, ...] = (2, 32)) -> dict[str, np.ndarray]:
    one = factors()
    return {
        f"base_model.model.{QUERY}.lora_A.weight": one.a, f"base_model.model.{QUERY}.lora_B.weight": one.b,
        name: np.zeros(shape, np.float32),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [f"base_model.model.{QUERY}.lora_magnitude_vector.weight", "base_model.model.model.embed_tokens.lora_embedding_A",
     f"base_model.model.{QUERY}.lora_B.bias", "base_model.model.lm_head.weight", f"base_model.model.{QUERY}.base_layer.weight",
     f"{QUERY}.lora_A.weight", "base_model.model..lora_A.weight", f"base_model.model.{'a.' * 50}b.lora_A.weight",
     f"base_model.model.{'a' * 5000}.lora_A.weight"],
)  # fmt: skip
def test_a_tensor_of_another_kind_is_named(name: str, tmp_path: Path) -> None:
    assert name[:100] in str(refused(folder_of(tmp_path, tensors=extra(name))))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [({}, "no adapter"), (extra(f"base_model.model.{UP}.lora_A.weight"), UP), (extra(f"base_model.model.{UP}.lora_B.weight"), "half"),
     ({f"base_model.model.{UP}.lora_A.weight": np.zeros((2, 4), np.float32), f"base_model.model.{UP}.lora_B.weight": np.zeros((4, 3), np.float32)}, UP),
     ({f"base_model.model.{UP}.lora_A.weight": np.zeros((2,), np.float32), f"base_model.model.{UP}.lora_B.weight": np.zeros((4, 2), np.float32)}, UP),
     ({f"base_model.model.{UP}.lora_A.weight": np.zeros((0, 4), np.float32), f"base_model.model.{UP}.lora_B.weight": np.zeros((4, 0), np.float32)}, "rank 0"),
     ({f"base_model.model.{UP}.lora_A.weight": np.full((2, 4), np.nan, np.float32), f"base_model.model.{UP}.lora_B.weight": np.zeros((4, 2), np.float32)}, "not finite"),
     ({f"base_model.model.{UP}.lora_A.weight": np.zeros((2, 4), np.float32), f"base_model.model.{UP}.lora_B.weight": np.full((4, 2), np.inf, np.float32)}, "not finite")],
)  # fmt: skip
def test_factors_that_do_not_belong_together(tensors: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    config = {"r": 0} if said == "rank 0" else {}
    assert said in str(refused(folder_of(tmp_path, config, tensors)))


def dora_tensors(**changed: np.ndarray | None) -> dict[str, np.ndarray]:
    """A DoRA adapter's file with one module; `magnitude` is what its vector is, or None."""
    tensors = extra(f"base_model.model.{QUERY}.lora_magnitude_vector", (32,))
    vector = changed.get("magnitude", np.ones(32, np.float32))
    if vector is None:
        del tensors[f"base_model.model.{QUERY}.lora_magnitude_vector"]
    else:
        tensors[f"base_model.model.{QUERY}.lora_magnitude_vector"] = vector
    return tensors


def test_magnitudes_are_read_and_written(tmp_path: Path) -> None:
    magnitude = np.linspace(0.5, 2, 32, dtype=np.float32)
    lora = read_peft(folder_of(tmp_path / "theirs", {"use_dora": True}, dora_tensors(magnitude=magnitude)))
    assert lora.is_dora and np.array_equal(lora.trained_arrays()[f"{QUERY}.lora_magnitude_vector"], magnitude)
    (tmp_path / "ours").mkdir()
    write_peft(tmp_path / "ours", lora)
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["use_dora"] is True
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() and all(np.array_equal(array, theirs[name]) for name, array in ours.items())


@pytest.mark.parametrize(
    ("use_dora", "magnitude", "said"),
    [(True, None, "absent"), (False, np.ones(32, np.float32), "use_dora is False"), (True, np.ones(31, np.float32), "(31,)"),
     (True, np.ones((32, 1), np.float32), "(32, 1)"), (True, np.full(32, np.inf, np.float32), "not finite"), ("yes", None, "use_dora is yes")],
)  # fmt: skip
def test_magnitudes_that_do_not_belong(use_dora: bool | str, magnitude: np.ndarray | None, said: str, tmp_path: Path) -> None:
    assert said in str(refused(folder_of(tmp_path, {"use_dora": use_dora}, dora_tensors(magnitude=magnitude))))


def test_41_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in str(refused(folder))
    canary = tmp_path / "canary"
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    assert "pickled" in str(refused(folder)) and not canary.exists()


def test_truncated_damaged_and_absent_files(tmp_path: Path) -> None:
    assert "no adapter_config.json" in str(refused(tmp_path / "absent"))
    folder = folder_of(tmp_path)
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    for damaged in (b"", content[:50], content[:-1], content + b"x", struct.pack("<Q", 2**60) + content[8:]):
        weights.write_bytes(damaged)
        refused(folder)
    weights.unlink()
    weights.mkdir()
    refused(folder)
    for text in ("", "[]", "3", '{"r": ', '{"a":' * 10**5, "\x00"):
        (folder / "adapter_config.json").write_text(text)
        refused(folder)


@pytest.mark.parametrize(
    "pattern",
    [r"(\w|\w)*-", r"(\w+)+-", r"(a|a)(a|a)(a|a)*", r"(\w|\w)(\w|\w)(\w|\w)-", r"\w?" * 40, r"\w*\w*\w*-", "(.*)*", "(?=x)", "a{1,99}",
     r"\1", "[", "(", "a**", "x" * 201, "(?P<a>b)", "\x1b[31m", "", " "],
)  # fmt: skip
def test_a_hostile_pattern_is_refused(pattern: str, tmp_path: Path) -> None:
    started = time.process_time()
    assert "rank_pattern" in str(refused(folder_of(tmp_path, {"rank_pattern": {pattern: 2}})))
    assert time.process_time() - started < 1


def test_the_slowest_patterns_that_are_taken_end_soon(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {}
    for layer in range(30):
        path = f"base_model.model.{'a' * 60}.{'a' * 60}.layers.{layer}.mlp.{'a' * 60}.up_proj"
        tensors |= {
            f"{path}.lora_A.weight": np.zeros((2, 3), np.float32),
            f"{path}.lora_B.weight": np.zeros((3, 2), np.float32),
        }
    slow = {f".*\\w*({'|'.join('a' * n for n in range(1, 9))})-{number}": 2 for number in range(8)}
    started = time.process_time()
    assert len(read_peft(folder_of(tmp_path, {"rank_pattern": slow}, tensors)).factors) == 30
    assert time.process_time() - started < 10
    more = {**slow, "b+": 2}
    assert "not supported" in str(refused(folder_of(tmp_path, {"rank_pattern": more}, tensors)))


def test_an_adapter_of_more_modules_than_any_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "MODULES", 1)
    assert "4 tensors" in str(refused(folder_of(tmp_path)))


def test_40_a_base_path_is_text_and_nothing_else(tmp_path: Path) -> None:
    for base in ("../../../etc/passwd", "/etc/shadow", "\x1b[2J" * 100, 7, ["x"], None):
        adapter = read_peft(
            folder_of(tmp_path, {"base_model_name_or_path": base, "auto_mapping": {"base_model_class": "os.system"}})
        )
        assert adapter.base_model.isprintable() and len(adapter.base_model) <= 200


def test_an_adapter_of_another_base_is_refused_on_opening(tiny_model: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"base_model_name_or_path": "someone/else"}, {
        f"base_model.model.{QUERY}.lora_A.weight": np.zeros((2, 48), np.float32),
        f"base_model.model.{QUERY}.lora_B.weight": np.zeros((48, 2), np.float32),
    })  # fmt: skip
    with pytest.raises(AdapterError, match="is 32 x 32 here, 48 x 48 there") as caught:
        open_adapted(tiny_model, folder)
    assert "someone/else" in caught.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["q_proj", ".*", "(", "x"]), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "r",
    "lora_alpha",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "base_model_name_or_path",
    "peft_type",
    *UNUSED_IF,
]


@given(changed=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_any_config_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]) -> None:
    folder = folder_of(tmp_path_factory.getbasetemp() / "fuzzed-adapter", changed)
    try:
        adapter = read_peft(folder)
    except AdapterError as error:
        assert str(error).encode()
    else:
        assert all(0 < factors.scale < math.inf for factors in adapter.factors.values())
