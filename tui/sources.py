"""What one can talk with: the base, a run's checkpoints, what it hands over, and its exported files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edgetune.errors import EdgeTuneError
from edgetune.files import clean


class Source(NamedTuple):
    """A label for people, and the arguments of `edgetune chat` that open it. `kind`: base, step, tuned, gguf."""

    label: str
    arguments: tuple[str, ...]
    kind: str


def all_sources(model: str, run: Path | None) -> list[Source]:
    """Everything there is: the base first, then what is nearest to the finished model."""
    return [*([Source(f"base · {clean(Path(model).name)}", (model,), "base")] if model else []), *(of_run(run) if run else [])]


def of_run(run: Path) -> Iterator[Source]:
    """A run's exports, its result, and its checkpoints from the newest back."""
    name = clean(run.name)
    for file in sorted((run / "exports").glob("*.gguf")):
        if not file.stem.endswith("-adapter"):
            yield Source(f"GGUF · {clean(file.stem)}", (str(file),), "gguf")
    if (run / "adapter").is_dir() or (run / "model").is_dir():
        yield Source(f"{name} · best", tuned_arguments(run), "tuned")
    for step in reversed(steps(run)):
        yield Source(f"{name} · step {step}", (str(run), "--step", str(step)), "step")


def tuned_arguments(run: Path) -> tuple[str, ...]:
    """What opens a run's result itself, and not its newest export."""
    if (run / "model").is_dir():
        return (str(run / "model"),)
    from edgetune.config import load

    try:
        return (load(run / "run.toml").model, "--adapter", str(run / "adapter"))
    except EdgeTuneError:
        return (str(run),)


def steps(run: Path) -> list[int]:
    """The steps that have a checkpoint."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    found = (re.fullmatch(r"step-(\d{6,9})", path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)
