"""mlx-lm's own LoRA training in a process of its own, as `python -m mlx_lm lora` runs it, with its figures written down.

What it prints is made for people and differs from version to version; the reports that it gives a training callback have
been the same since 2024. Arguments: the file that takes one JSON line a step, then mlx-lm's own.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from edgetune.files import append_line
from edgetune.hardware import peak_memory

REPORTED_UNIT = 1e9  # bytes in mlx-lm's gigabyte


class Report:
    """mlx-lm's training callback: each step's seconds, and the peak of memory so far, the process's or MLX's own."""

    def __init__(self, file: Path):
        self.file, self.tokens = file, 0

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        """One step is done. Its tokens are those that it learned; their rate is what mlx-lm shows."""
        tokens, self.tokens = info["trained_tokens"] - self.tokens, info["trained_tokens"]
        peak = max(peak_memory(), round(REPORTED_UNIT * info["peak_memory"]))
        line = {"seconds": tokens / info["tokens_per_second"], "peak_bytes": peak}
        append_line(self.file, json.dumps(line).encode(), "report")

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        """Nothing is validated."""


def main(file: Path, arguments: list[str]) -> None:
    """Trains. What goes wrong in mlx-lm ends this process as it would end mlx-lm's own."""
    lora: Any = import_module("mlx_lm.lora")
    train = lora.train

    def reporting(*places: Any, **named: Any) -> None:
        train(*places, **named | {"training_callback": Report(file)})

    lora.train = reporting
    sys.argv = ["mlx_lm.lora", *arguments]
    lora.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
