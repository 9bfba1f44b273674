"""Makes fixtures/transformers.json: what transformers computes for random tiny models of every switch.

Run it by hand where torch and transformers are installed (5.24 and torch 2.13 made what is stored):

    python tests/parity/make_transformers_fixtures.py

Stored per case are the two forms of config.json, as transformers 5 writes it and as transformers 4 did, and for a short
and a long sequence log p(next token) at every position and the whole distribution after the last. Both forms are loaded
here and must agree. Weights come from random_model.py. Attention is "eager", all arithmetic float32.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from random_model import tokens, write_model
from transformers import AutoModelForCausalLM

SEED = 11
LENGTHS = (10, 40)  # the long one exceeds every sliding window and every original length below
FILE = Path(__file__).parent / "fixtures" / "transformers.json"

CLASSES = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3", "granite": "Granite",
    "phi3": "Phi3", "gemma2": "Gemma2", "gemma3_text": "Gemma3",
}  # fmt: skip
BASE = dict(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
    pad_token_id=None,
)  # fmt: skip
ORIGINAL = dict(original_max_position_embeddings=16)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL)
YARN = dict(rope_type="yarn", factor=4.0, **ORIGINAL)
LONGROPE = dict(
    rope_type="longrope",
    short_factor=[1.0, 1.2, 1.5, 1.7, 2.0, 2.2, 2.5, 3.0],
    long_factor=[1.5, 2.0, 3.0, 4.5, 6.0, 8.0, 11.0, 16.0],
)

GEMMA = dict(tied=True, head_dim=8, query_pre_attn_scalar=8, sliding_window=8, hidden_activation="gelu_pytorch_tanh")
GEMMA2 = dict(**GEMMA, attn_logit_softcapping=3.0, final_logit_softcapping=4.0)
GEMMA3 = dict(**GEMMA, theta=1_000_000.0, rope_local_base_freq=10_000.0)


def case(
    family: str, dtype: str = "F32", theta: float = 10_000.0, rope: dict[str, Any] | None = None, **values: Any
) -> dict[str, Any]:
    """A case: the config's values without its rope, the rope apart, and how the weights are stored."""
    tied = values.pop("tied", False)
    return dict(
        values={"model_type": family, **BASE, "tie_word_embeddings": tied, **values},
        dtype=dtype,
        theta=theta,
        rope=rope or {},
    )


CASES: dict[str, dict[str, Any]] = {
    "llama": case("llama"),
    "llama-tied": case("llama", tied=True),
    "llama-bfloat16": case("llama", dtype="BF16"),
    "llama-float16": case("llama", dtype="F16", tied=True),
    "llama-all-heads": case("llama", num_key_value_heads=4),
    "llama-one-key-head": case("llama", num_key_value_heads=1),
    "llama-attention-bias": case("llama", attention_bias=True),
    "llama-mlp-bias": case("llama", mlp_bias=True),
    "llama-head-dim": case("llama", head_dim=16),
    "llama-eps": case("llama", rms_norm_eps=0.1),
    "llama-theta": case("llama", theta=500_000.0),
    "llama-linear": case("llama", rope=dict(rope_type="linear", factor=4.0)),
    "llama-dynamic": case("llama", rope=dict(rope_type="dynamic", factor=2.0), max_position_embeddings=16),
    "llama-llama3": case("llama", head_dim=16, theta=500.0, rope=LLAMA3),
    "llama-yarn": case("llama", head_dim=16, theta=100.0, rope=YARN),
    "llama-yarn-betas": case(
        "llama", head_dim=16, rope={**YARN, "beta_fast": 4.0, "beta_slow": 0.2, "truncate": False}
    ),
    "llama-yarn-mscale": case("llama", head_dim=16, rope={**YARN, "mscale": 1.5, "mscale_all_dim": 0.5}),
    "llama-yarn-attention-factor": case("llama", head_dim=16, rope={**YARN, "attention_factor": 0.7}),
    "llama-longrope": case("llama", head_dim=16, rope={**LONGROPE, **ORIGINAL, "factor": 4.0}),
    "llama-longrope-attention-factor": case(
        "llama", head_dim=16, rope={**LONGROPE, **ORIGINAL, "factor": 4.0, "attention_factor": 1.3}
    ),
    "llama-longrope-original-at-root": case(
        "llama", head_dim=16, rope=LONGROPE, max_position_embeddings=128, **ORIGINAL
    ),
    "mistral": case("mistral", sliding_window=None),
    "mistral-window": case("mistral", sliding_window=8),
    "mistral-head-dim": case("mistral", sliding_window=8, head_dim=16),
    "mistral-tied-theta": case("mistral", sliding_window=32, tied=True, theta=1_000_000.0),
    "qwen2": case(
        "qwen2", tied=True, theta=1_000_000.0, use_sliding_window=False, sliding_window=8, max_window_layers=1
    ),
    "qwen2-window": case("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen2-layer-types": case(
        "qwen2", use_sliding_window=True, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2,
        num_hidden_layers=4,
    ),
    "qwen2-yarn": case("qwen2", hidden_size=64, theta=100.0, rope=YARN),
    "qwen3": case("qwen3", tied=True, head_dim=16, theta=1_000_000.0),
    "qwen3-untied-bias": case("qwen3", head_dim=16, attention_bias=True),
    "qwen3-window": case("qwen3", head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=2),
    "qwen3-default-head-dim": case("qwen3", num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2),
    "smollm3": case("smollm3", tied=True, num_hidden_layers=4, theta=5e6),
    "smollm3-interval": case("smollm3", no_rope_layer_interval=2, head_dim=16),
    "smollm3-list": case("smollm3", no_rope_layers=[0, 1, 1], mlp_bias=True),
    # Where nothing turns, attention does not feel a bias of the keys: all layers turn.
    "smollm3-biases": case("smollm3", no_rope_layers=[1, 1, 1], attention_bias=True, mlp_bias=True),
    "smollm3-window": case("smollm3", use_sliding_window=True, sliding_window=8, no_rope_layer_interval=2),
    "smollm3-layer-types": case(
        "smollm3", use_sliding_window=True, sliding_window=8, no_rope_layers=[1, 0, 1],
        layer_types=["full_attention", "full_attention", "sliding_attention"],
    ),
    "granite": case(
        "granite", tied=True, embedding_multiplier=12.0, attention_multiplier=0.125, residual_multiplier=0.22,
        logits_scaling=3.0,
    ),
    "granite-embedding": case("granite", embedding_multiplier=12),
    "granite-attention": case("granite", attention_multiplier=0.05),
    "granite-residual": case("granite", residual_multiplier=0.22),
    "granite-logits": case("granite", logits_scaling=8.0),
    "granite-all-ones": case("granite"),
    "granite-biases-llama3": case(
        "granite", attention_multiplier=0.25, attention_bias=True, mlp_bias=True, head_dim=16, theta=500.0, rope=LLAMA3
    ),
    "phi3": case("phi3", sliding_window=None),
    "phi3-window": case("phi3", sliding_window=8, tied=True, original_max_position_embeddings=64),
    "phi3-partial": case("phi3", partial_rotary_factor=0.5, num_key_value_heads=1),
    "phi3-longrope": case("phi3", hidden_size=64, rope=LONGROPE, **ORIGINAL),
    "phi3-longrope-partial": case(
        "phi3", hidden_size=64, partial_rotary_factor=0.75, tied=True, sliding_window=100, **ORIGINAL,
        rope={name: value[:6] if isinstance(value, list) else value for name, value in LONGROPE.items()},
    ),
    "gemma2": case("gemma2", **GEMMA2),
    "gemma2-no-attention-cap": case("gemma2", **{**GEMMA2, "attn_logit_softcapping": None}),
    "gemma2-no-logit-cap": case("gemma2", **{**GEMMA2, "final_logit_softcapping": None}),
    "gemma2-scalar-window": case("gemma2", **{**GEMMA2, "query_pre_attn_scalar": 32, "sliding_window": 4}),
    "gemma2-layer-types-bias": case(
        "gemma2", **GEMMA2, attention_bias=True, layer_types=["full_attention", "full_attention", "sliding_attention"]
    ),
    "gemma2-bfloat16-untied": case("gemma2", dtype="BF16", **{**GEMMA2, "tied": False, "hidden_size": 48}),
    "gemma3": case("gemma3_text", num_hidden_layers=7, **GEMMA3),
    "gemma3-pattern": case("gemma3_text", sliding_window_pattern=2, **GEMMA3),
    "gemma3-local-base": case("gemma3_text", sliding_window_pattern=2, **{**GEMMA3, "rope_local_base_freq": 50.0}),
    "gemma3-linear": case("gemma3_text", sliding_window_pattern=2, rope=dict(rope_type="linear", factor=8.0), **GEMMA3),
    "gemma3-cap-scalar": case(
        "gemma3_text", sliding_window_pattern=3, final_logit_softcapping=3.0,
        **{**GEMMA3, "query_pre_attn_scalar": 32},
    ),
    "gemma3-layer-types": case(
        "gemma3_text", layer_types=["full_attention", "sliding_attention", "sliding_attention"], attention_bias=True, **GEMMA3
    ),
}  # fmt: skip


def version_4(case: dict[str, Any]) -> dict[str, Any]:
    """config.json as transformers 4 wrote it: rope_theta and rope_scaling at the top, torch_dtype, no derived lists."""
    scaling = dict(case["rope"]) or None
    family = case["values"]["model_type"]
    if scaling and family != "gemma3_text" and (scaling["rope_type"] in ("linear", "dynamic") or family == "phi3"):
        scaling["type"] = scaling.pop("rope_type")  # the older of its two spellings
    return {
        "architectures": [f"{CLASSES[family]}ForCausalLM"],
        **case["values"],
        "hidden_act": "silu",
        "rope_theta": case["theta"],
        "rope_scaling": scaling,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[case["dtype"]],
        "transformers_version": "4.46.0",
    }


def version_5(folder: Path) -> dict[str, Any]:
    """config.json as transformers 5 itself writes the model that is in that folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.config.save_pretrained(folder / "saved")
    return json.loads((folder / "saved" / "config.json").read_text("utf-8"))


def log_probabilities(folder: Path, ids: np.ndarray) -> np.ndarray:
    """(time, vocab) log p of what follows each token, by a model that is loaded anew: dynamic ropes keep a state."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), f"{folder}: {report}"
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), -1).numpy()


def make(name: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One case's fixture."""
    forms = {"v4": version_4(case)}
    write_model(folder / "v4", forms["v4"], SEED, case["dtype"])
    forms["v5"] = version_5(folder / "v4")
    assert "rope_theta" not in forms["v5"] and "rope_local_base_freq" not in forms["v5"] and "rope_parameters" in forms["v5"], (
        forms["v5"]
    )
    write_model(folder / "v5", forms["v5"], SEED, case["dtype"])
    sequences = []
    for length in LENGTHS:
        ids = tokens(SEED, "tokens", length, case["values"]["vocab_size"])
        by_form = [log_probabilities(folder / form, ids) for form in forms]
        apart = np.abs(by_form[0] - by_form[1]).max()
        assert apart == 0, f"{name}: transformers reads its two forms differently ({apart})"
        table = by_form[0]
        following = table[np.arange(length - 1), ids[1:]]
        sequences.append(dict(length=length, following=rounded(following), after_the_last=rounded(table[-1])))
    return dict(dtype=case["dtype"], v4=forms["v4"], v5=forms["v5"], sequences=sequences)


def rounded(values: np.ndarray) -> list[float]:
    """Six digits after the point: a hundredth of what the tests resolve."""
    return [round(float(value), 6) for value in values]


def main() -> None:
    """Makes and writes all cases."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    made: dict[str, Any] = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            made[name] = make(name, case, Path(folder))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(fixture)}" for name, fixture in made.items())
    FILE.write_text(f'{{"versions": {json.dumps(versions)}, "seed": {SEED}, "cases": {{\n{lines}\n}}}}\n', "utf-8")
    print(f"{FILE}: {FILE.stat().st_size} bytes, {len(made)} cases")


if __name__ == "__main__":
    main()
