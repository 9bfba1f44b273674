"""Makes what transformers computes with the text part of a model that also sees: fixtures/multimodal.json.

Run it by hand where torch and transformers are installed (transformers 5.24 made what is stored):

    python tests/parity/make_multimodal_fixtures.py

A small Gemma3ForConditionalGeneration whose text part is drawn by random_model.py, stored under the names of each version that
wrote such checkpoints, with the config of transformers 4 and of 5. All of them must give the same log-probabilities.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from random_model import parameters, save, tokens
from safetensors.numpy import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

FILE = Path(__file__).parent / "fixtures" / "multimodal.json"
SEED, LENGTHS = 29, (9, 30)
TEXT = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "query_pre_attn_scalar": 10, "sliding_window": 5,
    "max_position_embeddings": 128, "model_type": "gemma3_text",
}  # fmt: skip
VISION = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
VERSION_4 = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 58],
    "model_type": "gemma3",
    "text_config": {**TEXT, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    "vision_config": {**VISION, "model_type": "siglip_vision_model"},
    "mm_tokens_per_image": 1,
    "torch_dtype": "float32",
    "transformers_version": "4.50.0",
}
NAMES = {"language_model.model.": ("", "language_model."), "model.language_model.": ("model.", "model.language_model.")}


def write(folder: Path, config: dict[str, Any], seeing: dict[str, np.ndarray], prefix: str) -> None:
    """A checkpoint whose text part lies under that prefix."""
    folder.mkdir(parents=True)
    outer, _ = NAMES[prefix]
    arrays = {f"{outer}{name}": array for name, array in seeing.items()}
    text = parameters({**TEXT, "tie_word_embeddings": True}, SEED)
    arrays |= {f"{prefix}{name.removeprefix('model.')}": array for name, array in text.items()}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save(folder / "model.safetensors", arrays)


def log_probabilities(folder: Path, ids: np.ndarray) -> np.ndarray:
    """(time, vocab) log p of what follows each token."""
    model, report = Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), f"{folder}: {report}"
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), -1).numpy()


def main() -> None:
    """Makes and writes everything."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = Gemma3ForConditionalGeneration(
            Gemma3Config(**{key: VERSION_4[key] for key in ("text_config", "vision_config")})
        )
        model.save_pretrained(folder / "drawn")
        drawn = load_file(folder / "drawn" / "model.safetensors")
        seeing = {name: array for name, array in drawn.items() if not name.startswith("language_model.")}
        write(folder / "first", VERSION_4, seeing, "language_model.model.")
        Gemma3ForConditionalGeneration.from_pretrained(folder / "first").config.save_pretrained(folder / "saved")
        forms = {"v4": VERSION_4, "v5": json.loads((folder / "saved" / "config.json").read_text("utf-8"))}
        sequences = []
        for length in LENGTHS:
            ids, tables = tokens(SEED, "tokens", length, TEXT["vocab_size"]), []
            for form, config in forms.items():
                for at, prefix in enumerate(NAMES):
                    if not (folder / f"{form}-{at}").exists():
                        write(folder / f"{form}-{at}", config, seeing, prefix)
                    tables.append(log_probabilities(folder / f"{form}-{at}", ids))
            assert all(np.array_equal(table, tables[0]) for table in tables)
            following = [round(float(value), 6) for value in tables[0][np.arange(length - 1), ids[1:]]]
            sequences.append(dict(length=length, following=following))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    made = dict(versions=versions, seed=SEED, **forms, others=sorted(seeing), sequences=sequences)
    FILE.write_text(json.dumps(made) + "\n", "utf-8")
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
