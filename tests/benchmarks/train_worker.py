"""A worker of train_speed.py: one LoRA step of ours, or of an earlier engine of ours whose folder is given."""

import argparse
import sys
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info
from turns import serve

from edgetune.adapters.lora import new_lora
from edgetune.architecture.load import load_model
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row
from edgetune.config import LINEAR_KINDS, AdapterConfig, TrainingConfig
from edgetune.training.loss import row_loss
from edgetune.training.optimizer import AdamW, global_norm

Arrays = dict[str, np.ndarray]
ADAPTER, TRAINING = AdapterConfig(rank=8, alpha=16.0), TrainingConfig(rate=1e-4)


def read_rows(file: Path) -> list[Row]:
    """The benchmark's rows, each on its own."""
    with np.load(file, allow_pickle=False) as stored:
        ids, labels = stored["ids"].astype(np.int32), stored["labels"].astype(np.int32)
    targets = np.full_like(ids, -1)
    targets[:, :-1] = np.where(labels[:, 1:] >= 0, labels[:, 1:], -1)
    return [Row(tokens, wanted, ((0, len(tokens)),)) for tokens, wanted in zip(ids, targets, strict=True)]


def prototype_runner(engine: Path, folder: Path, spec: ModelSpec, arrays: Arrays, workers: int):
    """The engine of that folder with the same model and the same trained arrays, under its own names."""
    sys.path.insert(0, str(engine))
    import transformer as old
    from numpy_runner import Runner
    from numpy_weights import Full

    weights = WeightFolder(folder)
    scale = ADAPTER.alpha / ADAPTER.rank

    def joint(layer: int, *kinds: str):
        paths = [spec.module_path(layer, kind) for kind in kinds]
        parts, start = [], 0
        for path in paths:
            stop = start + weights.tensors[f"{path}.weight"].shape[0]
            parts.append(old.Adapter(path, start, stop, scale))
            start = stop
        return old.Joint(Full(np.concatenate([weights.floats(f"{path}.weight") for path in paths])), None, tuple(parts))

    def norm(name: str):
        return old.Norm(weights.floats(f"{name}.weight"), spec.norm_eps)

    def layer(index: int):
        at = f"model.layers.{index}"
        return old.Layer(
            joint(index, "q_proj", "k_proj", "v_proj"),
            joint(index, "o_proj"),
            joint(index, "gate_proj", "up_proj"),
            joint(index, "down_proj"),
            norm(f"{at}.input_layernorm"),
            norm(f"{at}.post_attention_layernorm"),
        )

    numbers = dict(vocab=spec.vocab, dim=spec.dim, layers=spec.layers, heads=spec.heads, kv_heads=spec.kv_heads)
    numbers |= dict(head_dim=spec.head_dim, hidden=spec.hidden, rope_base=spec.rope.base)
    old_spec = old.Spec(**numbers, query_scale=spec.head_dim**-0.5)
    embedding = Full(weights.floats("model.embed_tokens.weight"))
    head = embedding if spec.tied else Full(weights.floats("lm_head.weight"))
    model = old.Model(old_spec, embedding, [layer(i) for i in range(spec.layers)], norm("model.norm"), head)
    renamed = {name.replace(".lora_A", ".a").replace(".lora_B", ".b"): array for name, array in arrays.items()}
    runner = Runner(model, renamed, workers)

    def learn(rows: list[Row]) -> tuple[float, Arrays]:
        loss, gradients = runner.loss_and_gradients(rows)
        names = ((name.removesuffix(".a"), ".lora_A") if name.endswith(".a") else (name[:-2], ".lora_B") for name in gradients)
        return loss, {path + kind: gradient for (path, kind), gradient in zip(names, gradients.values(), strict=True)}

    return learn


def main() -> None:
    """Loads the model and waits for turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="an .npz file with ids and labels")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--engine", type=Path, help="the folder of an earlier engine")
    arguments = parser.parse_args()
    spec, rows = read_spec(arguments.model), read_rows(arguments.rows)
    lora = new_lora(spec, ADAPTER, seed=0, base_model="")
    assert len(lora.factors) == spec.layers * len(LINEAR_KINDS)
    arrays = lora.trained_arrays()
    optimizer = AdamW(arrays, TRAINING)
    if arguments.engine:
        learn = prototype_runner(arguments.engine, arguments.model, spec, arrays, arguments.workers)
    else:
        runner, loss_of = (
            NumpyRunner(arrays, arguments.workers, share_weights=not arguments.recompute),
            row_loss(load_model(arguments.model, lora.places()), arguments.recompute),
        )

        def learn(rows: list[Row]) -> tuple[float, Arrays]:
            return runner.loss_and_gradients(loss_of, rows)

    kernels = {library.get("architecture", "?") for library in threadpool_info() if library["user_api"] == "blas"}

    def step() -> dict[str, str]:
        loss, gradients = learn(rows)
        norm = global_norm(gradients)
        optimizer.update(gradients, TRAINING.rate, min(1.0, TRAINING.clip / (norm + 1e-6)))
        return {"note": f"loss {loss:.5f}, kernels {', '.join(sorted(kernels))}"}

    serve(step)


if __name__ == "__main__":
    main()
