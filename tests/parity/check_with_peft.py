"""Loads what we write into PEFT and transformers themselves, by hand: adapter folders, and the models that we merged.

Run it where torch, transformers and peft are installed, naming the interpreter that has EdgeTune's dependencies:

    python tests/parity/check_with_peft.py --project-python .venv/bin/python

For every adapter of fixtures/peft.json that interpreter (the same file with --write) reads PEFT's folder, writes its
own with write_peft, merges it, and computes log-probabilities. PEFT then loads our folder unchanged: it must miss
nothing, find nothing that it does not know, and compute the same; so must transformers with the merged folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from random_model import tokens

HERE = Path(__file__).parent
STORED = json.loads((HERE / "fixtures" / "peft.json").read_text("utf-8"))


def write(folder: Path) -> None:
    """EdgeTune's side: base, our adapter folder and our log-probabilities for each adapter."""
    from test_against_peft import following, write_adapter, write_base  # not above: torch's side has no edgetune

    from edgetune.adapters.peft import read_peft, write_peft
    from edgetune.export.merge import merge

    for name, case in STORED["adapters"].items():
        (folder / name / "ours").mkdir(parents=True)
        base = write_base(case["model"], folder / name / "base")
        lora = read_peft(write_adapter(name, folder / name / "theirs"))
        write_peft(folder / name / "ours", lora)
        merge(base, folder / name / "ours", folder / name / "merged")
        ids = tokens(
            STORED["seed"],
            "tokens",
            STORED["length"],
            json.loads((base / "config.json").read_text("utf-8"))["vocab_size"],
        )
        np.save(folder / name / "following.npy", following(base, lora, ids))


def check(folder: Path) -> None:
    """PEFT's side: loads each of our folders and compares."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    warnings.simplefilter("error")  # PEFT warns about keys that it misses
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in STORED["adapters"]:
        ours = np.load(folder / name / "following.npy")
        base, merged = (
            AutoModelForCausalLM.from_pretrained(folder / name / form, dtype=torch.float32, attn_implementation="eager")
            for form in ("base", "merged")
        )
        adapted = PeftModel.from_pretrained(base, folder / name / "ours")
        apart = [np.abs(ours - following_in_torch(model.eval())).max() for model in (adapted, merged)]
        print(f"{name:25s} greatest difference of a log-probability: in PEFT {apart[0]:.1e}, merged {apart[1]:.1e}")
        assert max(apart) < 1e-4, name


def following_in_torch(model: Any) -> np.ndarray:
    """log p of every token but the first, by a model in torch."""
    import torch

    ids = torch.from_numpy(tokens(STORED["seed"], "tokens", STORED["length"], model.config.vocab_size).astype(np.int64))
    with torch.no_grad():
        table = torch.log_softmax(model(ids[None], use_cache=False).logits[0].double(), -1)
    return table[torch.arange(len(ids) - 1), ids[1:]].numpy()


def main() -> None:
    """Both sides, each in its own interpreter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project-python", help="interpreter with EdgeTune's dependencies")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        return write(arguments.write)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
        python = arguments.project_python or sys.executable
        subprocess.run([python, __file__, "--write", folder], check=True, env=environment)
        check(Path(folder))


if __name__ == "__main__":
    main()
