"""The same model and the same rows for mlx-lm, which learns from text: each token is a word of a vocabulary of its own."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from edgetune.files import disk_errors
from edgetune.workspace.bench_models import END, write_lines

END_WORD, UNKNOWN = "</s>", "<unk>"


def installed() -> bool:
    """Whether this interpreter has mlx-lm."""
    return find_spec("mlx_lm") is not None


def write_inputs(model: Path, rows: Sequence[Sequence[int]], folder: Path, batch: int, steps: int) -> list[str]:
    """Writes what mlx-lm reads into `folder`, and gives the arguments of its `lora` command for the run that ours makes.

    Rows of n tokens are cut to n + 1, of which mlx-lm's shifting leaves n: as many as go through our model.
    """
    with disk_errors(folder):
        (folder / "model").mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / "model" / name).symlink_to(model / name)
        write_tokenizer(folder / "model", {token for row in rows for token in row})
    write_lines(folder / "train.jsonl", [{"text": " ".join(map(word, row))} for row in rows])
    longest = max(len(row) for row in rows) + 1
    return [
        "--train", "--model", str(folder / "model"), "--data", str(folder), "--adapter-path", str(folder / "adapters"),
        "--num-layers", "-1", "--batch-size", str(batch), "--iters", str(steps), "--max-seq-length", str(longest),
        "--steps-per-report", "1", "--save-every", str(steps + 1), "--optimizer", "adamw",
    ]  # fmt: skip


def word(token: int) -> str:
    """The word that stands for a token."""
    return END_WORD if token == END else f"w{token}"


def write_tokenizer(folder: Path, tokens: set[int]) -> None:
    """A tokenizer.json that knows each of these tokens by its word, between blanks."""
    vocabulary = {word(token): token for token in sorted(tokens)} | {UNKNOWN: 0}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    }  # fmt: skip
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_WORD}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
