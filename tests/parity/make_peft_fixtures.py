"""Makes what PEFT writes, computes and learns: fixtures/peft.json, peft-adapter/ and peft-trained-*.npz.

Run it by hand where torch, transformers and peft are installed (peft 0.21, torch 2.13 made what is stored), after
make_transformers_fixtures.py, whose models it uses:

    python tests/parity/make_peft_fixtures.py

Adapters: adapter_config.json as PEFT writes it, the keys and shapes of its file, log-probabilities of base + adapter.
Trainings: ten steps of torch.optim.AdamW on pre-tokenised rows, one row at a time, float32; the losses, gradient norms
and rates of the steps, and the adapter after the last. DoRA's magnitudes, being vectors, do not decay. A rate_ratio is
that of LoRA+, by PEFT's create_loraplus_optimizer. A step learns from batch * accumulate rows; its loss is the mean over
all their trained tokens. The rate of step s, counted from 0, of n steps with a highest rate r:

    warm = max(1, round(warmup * n)) if warmup else 0
    s < warm   r (s + 1) / warm
    constant   r
    linear     r (1 - (s - warm) / (n - warm))
    cosine     r (1 + cos(pi (s - warm) / (n - warm))) / 2
"""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from random_model import adapter, rows, tokens, write_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

FIXTURES = Path(__file__).parent / "fixtures"
MODELS = json.loads((FIXTURES / "transformers.json").read_text("utf-8"))
SEED, STEPS, LENGTH = 23, 10, 24
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

EVERYWHERE = dict(r=2, target_modules=ALL)
MLP = ["gate_proj", "up_proj", "down_proj"]
ROPES = ("llama-theta", "llama-linear", "llama-dynamic", "llama-llama3", "llama-yarn-mscale", "llama-longrope")
ADAPTERS: dict[str, dict[str, Any]] = {
    "llama-all": dict(model="llama", lora_alpha=8, **EVERYWHERE),
    "llama-some": dict(model="llama", r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    "llama-rslora": dict(model="llama-tied", r=4, lora_alpha=5, target_modules=ALL, use_rslora=True),
    "llama-last-layers": dict(model="llama-mlp-bias", lora_alpha=8, **EVERYWHERE, layers_to_transform=[1, 2]),
    "llama-last-layer": dict(model="llama", r=3, lora_alpha=3, target_modules=["o_proj", "down_proj"], layers_to_transform=[2]),
    "llama-patterns": dict(
        **dict(model="llama", lora_alpha=8, **EVERYWHERE),
        rank_pattern={"q_proj": 4, r"layers\.1\.mlp\.up_proj": 1},
        alpha_pattern={"v_proj": 2, "layers.2.self_attn.q_proj": 16},
    ),
    **{f"{model}-keys": dict(model=model, r=1, lora_alpha=1, target_modules=["k_proj"]) for model in ROPES},
    "mistral-all": dict(model="mistral-window", lora_alpha=4, **EVERYWHERE),
    "qwen2-all": dict(model="qwen2", lora_alpha=4, **EVERYWHERE, lora_dropout=0.1),
    "qwen3-all": dict(model="qwen3", lora_alpha=4, **EVERYWHERE),
    "qwen3-mlp": dict(model="qwen3-untied-bias", r=2, lora_alpha=7, target_modules=MLP),
    "llama-dora": dict(model="llama", lora_alpha=8, **EVERYWHERE, use_dora=True),
    "qwen2-dora": dict(model="qwen2", r=3, lora_alpha=4, target_modules=["q_proj", "o_proj", "up_proj"], use_dora=True),
    "llama-tokens-tied": dict(model="llama-tied", lora_alpha=4, **EVERYWHERE, trainable_token_indices=[59, 3, 17, 40, 5]),
    "llama-tokens-untied": dict(
        **dict(model="llama", r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
        trainable_token_indices={"embed_tokens": [8, 60, 2], "lm_head": [8, 60, 2]},
    ),
    "gemma2-tokens-dora": dict(
        **dict(model="gemma2", r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], use_dora=True),
        trainable_token_indices=[4, 11, 30, 52],
    ),
}
TRAININGS: dict[str, dict[str, Any]] = {
    "llama-cosine": dict(
        adapter="llama-all", b_deviation=0.0, lengths=[16] * 20, batch=2, accumulate=2,
        rate=1e-2, schedule="cosine", warmup=0.2, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, clip=0.5,
    ),
    "qwen2-linear": dict(
        adapter="qwen2-all", b_deviation=0.3, lengths=[9, 24, 13, 5, 18] * 3, batch=3, accumulate=1,
        rate=2e-3, schedule="linear", warmup=0.0, weight_decay=0.01, betas=(0.8, 0.95), eps=1e-6, clip=0.0,
    ),
    "qwen3-constant": dict(
        adapter="qwen3-mlp", b_deviation=0.3, lengths=[12, 21, 7, 16] * 3, batch=1, accumulate=4,
        rate=3e-3, schedule="constant", warmup=0.25, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8, clip=1.0,
    ),
    "llama-last-layers": dict(
        adapter="llama-last-layers", b_deviation=0.3, lengths=[16, 8] * 4, batch=2, accumulate=1,
        rate=1e-2, schedule="cosine", warmup=0.03, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8, clip=1.0,
    ),
    "llama-rslora": dict(
        adapter="llama-rslora", b_deviation=0.3, lengths=[16, 9] * 4, batch=2, accumulate=1,
        rate=5e-3, schedule="linear", warmup=0.1, weight_decay=0.02, betas=(0.9, 0.999), eps=1e-8, clip=1.0,
    ),
    "llama-dora": dict(
        adapter="llama-dora", b_deviation=0.3, lengths=[16, 11] * 4, batch=2, accumulate=1,
        rate=5e-3, schedule="cosine", warmup=0.1, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, clip=1.0,
    ),
    "qwen2-dora": dict(
        adapter="qwen2-dora", b_deviation=0.0, lengths=[13, 20] * 4, batch=1, accumulate=2,
        rate=5e-3, schedule="constant", warmup=0.0, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8, clip=0.0,
    ),
    "llama-tokens-tied": dict(
        adapter="llama-tokens-tied", b_deviation=0.3, lengths=[16, 24] * 4, batch=2, accumulate=1,
        rate=5e-3, schedule="cosine", warmup=0.1, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, clip=1.0,
    ),
    "llama-tokens-untied": dict(
        adapter="llama-tokens-untied", b_deviation=0.3, lengths=[24, 18] * 4, batch=2, accumulate=1,
        rate=5e-3, schedule="linear", warmup=0.1, weight_decay=0.02, betas=(0.9, 0.99), eps=1e-8, clip=0.0,
    ),
    "gemma2-tokens-dora": dict(
        adapter="gemma2-tokens-dora", b_deviation=0.3, lengths=[20, 15] * 4, batch=1, accumulate=2,
        rate=5e-3, schedule="constant", warmup=0.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, clip=1.0,
    ),
    "llama-plus": dict(
        adapter="llama-some", b_deviation=0.3, lengths=[16, 9] * 4, batch=2, accumulate=1, rate_ratio=8.0,
        rate=2e-3, schedule="cosine", warmup=0.1, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, clip=1.0,
    ),
}  # fmt: skip


def load(name: str, folder: Path) -> Any:
    """A model of transformers.json in torch, float32, eager attention."""
    case = MODELS["cases"][name]
    write_model(folder, case["v5"], MODELS["seed"], case["dtype"])
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def adapted(case: dict[str, Any], b_deviation: float, folder: Path) -> PeftModel:
    """The model with an adapter whose arrays are drawn by random_model.py."""
    values = {key: value for key, value in case.items() if key != "model"}
    model = get_peft_model(load(case["model"], folder / "base"), LoraConfig(task_type="CAUSAL_LM", bias="none", **values))
    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    keys = {name: saved_key(name) for name in own}
    arrays = adapter({keys[name]: tuple(value.shape) for name, value in own.items()}, SEED, b_deviation)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.from_numpy(arrays[keys[name]]))
    return model


def saved_key(name: str) -> str:
    """A parameter's key in PEFT's file: magnitudes have no .weight there."""
    return name.replace("vector.default.weight", "vector").replace(".default.", ".").removesuffix(".default")


def describe(name: str, folder: Path) -> dict[str, Any]:
    """What PEFT writes and computes for one adapter."""
    case = ADAPTERS[name]
    model = adapted(case, 0.5, folder).eval()
    model.save_pretrained(folder / "saved")
    saved = load_file(folder / "saved" / "adapter_model.safetensors")
    shapes = {key: list(array.shape) for key, array in saved.items()}
    drawn = adapter(shapes, SEED, 0.5)
    assert all(np.array_equal(drawn[key], array) for key, array in saved.items())
    config = json.loads((folder / "saved" / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = "someone/tiny"  # it was a temporary folder
    config["target_modules"].sort()  # PEFT writes a set
    if name == "llama-some":
        keep_folder(folder / "saved", config)
    ids = tokens(SEED, "tokens", LENGTH, model.config.vocab_size)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    table = torch.log_softmax(logits.double(), -1).numpy()
    following = [round(float(value), 6) for value in table[np.arange(LENGTH - 1), ids[1:]]]
    return dict(model=case["model"], config=config, shapes=shapes, following=following)


def keep_folder(saved: Path, config: dict[str, Any]) -> None:
    """Keeps one adapter folder as PEFT wrote it, but for the base's name."""
    kept = FIXTURES / "peft-adapter"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    shutil.copyfile(saved / "adapter_model.safetensors", kept / "adapter_model.safetensors")
    (kept / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def rate_at(step: int, case: dict[str, Any]) -> float:
    """The learning rate of a step: see the top of this file."""
    warm = max(1, round(case["warmup"] * STEPS)) if case["warmup"] else 0
    if step < warm:
        return case["rate"] * (step + 1) / warm
    done = (step - warm) / (STEPS - warm)
    falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return case["rate"] * falls[case["schedule"]]


def train(name: str, folder: Path) -> dict[str, Any]:
    """Ten steps. The adapter after them is written to an .npz file under PEFT's keys."""
    case = TRAININGS[name]
    model = adapted({**ADAPTERS[case["adapter"]], "lora_dropout": 0.0}, case["b_deviation"], folder).train()
    own = {key: value for key, value in model.named_parameters() if value.requires_grad}
    optimizer = optimizer_of(model, case)
    ratios = [group["lr"] / case["rate"] for group in optimizer.param_groups]
    data = rows(SEED, case["lengths"], model.config.vocab_size)
    losses, norms, rates = [], [], []
    for step in range(STEPS):
        first = step * case["batch"] * case["accumulate"]
        group = [data[(first + i) % len(data)] for i in range(case["batch"] * case["accumulate"])]
        count = sum(int(trained.sum()) for _, trained in group)
        loss = sum(row_loss(model, ids, trained, count) for ids, trained in group)
        norm = torch.nn.utils.clip_grad_norm_(own.values(), case["clip"] or math.inf)
        for group_of_rate, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group_of_rate["lr"] = ratio * rate_at(step, case)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
        norms.append(float(norm))
        rates.append(rate_at(step, case))
    final = {saved_key(key): value.detach().numpy() for key, value in own.items()}
    np.savez(FIXTURES / f"peft-trained-{name}.npz", **final)
    return {**case, "steps": STEPS, "losses": losses, "norms": norms, "rates": rates}


def optimizer_of(model: PeftModel, case: dict[str, Any]) -> torch.optim.Optimizer:
    """torch's AdamW; with a rate_ratio as PEFT sets it up for LoRA+."""
    own = [value for value in model.parameters() if value.requires_grad]
    settings = dict(betas=case["betas"], eps=case["eps"], foreach=False)
    if "rate_ratio" in case:
        plus = dict(loraplus_lr_ratio=case["rate_ratio"], loraplus_weight_decay=case["weight_decay"])
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=case["rate"], **plus, **settings)
    groups = [
        {"params": [value for value in own if value.ndim > 1], "weight_decay": case["weight_decay"]},
        {"params": [value for value in own if value.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=case["rate"], **settings)


def row_loss(model: PeftModel, ids: np.ndarray, trained: np.ndarray, count: int) -> float:
    """One row's share of the step's loss; its gradients are added up."""
    labels = torch.from_numpy(np.where(trained, ids, -100).astype(np.int64))
    logits = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum") / count
    loss.backward()
    return loss.item()


def main() -> None:
    """Makes and writes everything."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    adapters, trainings = {}, {}
    for name in ADAPTERS:
        with tempfile.TemporaryDirectory() as folder:
            adapters[name] = describe(name, Path(folder))
    for name in TRAININGS:
        with tempfile.TemporaryDirectory() as folder:
            trainings[name] = train(name, Path(folder))
    versions = {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    head = f'{{"versions": {json.dumps(versions)}, "seed": {SEED}, "length": {LENGTH},'
    parts = [
        f'"{kind}": {{\n' + ",\n".join(f"{json.dumps(name)}: {json.dumps(made)}" for name, made in group.items()) + "\n}"
        for kind, group in (("adapters", adapters), ("trainings", trainings))
    ]
    (FIXTURES / "peft.json").write_text(f"{head}\n{', '.join(parts)}}}\n", "utf-8")


if __name__ == "__main__":
    main()
