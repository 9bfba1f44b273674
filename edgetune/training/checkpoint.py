"""Checkpoints: folders that are whole or absent, verified before they are believed.

    checkpoints/step-000200/   parameters.safetensors   what is trained
                               optimizer.safetensors    AdamW's moments
                               state.json               everything else that the run needs to go on
                               MANIFEST.json            size and SHA-256 of each
    checkpoints/LATEST         the newest one's name: a hint, never believed

A folder is written under a temporary name, flushed, and renamed; old ones are removed only after the new one is there.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from edgetune.architecture.weights import load_arrays, save_arrays
from edgetune.backend.runner import Arrays
from edgetune.errors import CheckpointError
from edgetune.files import Written, discard, sha256, sweep, whole_file, whole_folder, write_file

FORMAT = 1
PARAMETERS, OPTIMIZER, STATE, MANIFEST = (
    "parameters.safetensors",
    "optimizer.safetensors",
    "state.json",
    "MANIFEST.json",
)
MADE_OF = ("config_hash", "data_fingerprint", "base_fingerprint", "backend", "workers", "versions")  # fields of the state


class TrainingState(Struct, frozen=True, kw_only=True):
    """What a run needs to go on besides arrays. Order and dropout follow from (seed, step) and need no state.

    The fields up to `versions` say what the run was made of: resume refuses where they differ.
    """

    format: int = FORMAT
    config_hash: str
    data_fingerprint: str
    base_fingerprint: str
    backend: str = "numpy"
    workers: int
    versions: dict[str, str]
    step: int = 0
    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float | None = None
    stale_validations: int = 0
    skipped_in_row: int = 0
    recent_losses: list[float] = []


class Checkpoint(NamedTuple):
    """One that verified."""

    folder: Path
    state: TrainingState
    parameters: Arrays
    moments: Arrays


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def save(run: Path, state: TrainingState, parameters: Arrays, moments: Arrays, keep: int) -> Path:
    """Writes the checkpoint of a step and removes the oldest beyond `keep`; the best one always stays.

    Later steps than this one go too: a run that resumes before them did not believe them.

    Raises:
        DiskFull: no room; the older checkpoints are untouched.
    """
    folder = folder_of(run, state.step)
    with whole_folder(folder, "checkpoint") as part:
        told = msgspec.json.format(msgspec.json.encode(state), indent=2)
        files = {
            PARAMETERS: save_arrays(part / PARAMETERS, parameters, point="checkpoint-parameters", hashed=True),
            OPTIMIZER: save_arrays(part / OPTIMIZER, moments, point="checkpoint-optimizer", hashed=True),
            STATE: Written(len(told), hashlib.sha256(told).hexdigest()),
        }
        write_file(part / STATE, told, "checkpoint-state")
        manifest = {"format": FORMAT, "files": {name: written._asdict() for name, written in files.items()}}
        write_file(part / MANIFEST, json.dumps(manifest, indent=2), "checkpoint-manifest")
    with whole_file(folder.parent / "LATEST", "latest") as part:
        write_file(part, folder.name + "\n", "latest-content")
    there = steps(run)
    earlier = [step for step in there if step <= state.step and step != state.best_step]
    for old in [*earlier[:-keep], *(step for step in there if step > state.step)]:
        discard(folder_of(run, old), "rotate")
    return folder


def steps(run: Path) -> list[int]:
    """The steps that have a checkpoint folder, oldest first."""
    parent = run / "checkpoints"
    if not parent.is_dir():
        return []
    matches = (re.fullmatch(r"step-(\d{6,9})", path.name) for path in parent.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def tidy(run: Path) -> None:
    """Removes what a killed process left half. Only for the run's one writer: another's would be work in progress."""
    for folder in (run, run / "checkpoints"):
        sweep(folder)


def newest(run: Path) -> Iterator[Checkpoint | CheckpointError]:
    """The checkpoints from the newest back: each verified and read, or the reason why it is not believed.

    Raises:
        CheckpointError: one is whole, but of another version: older ones must not take its place.
    """
    for step in reversed(steps(run)):
        folder = folder_of(run, step)
        try:
            verify(folder)
        except CheckpointError as error:
            yield error
        else:
            yield decoded(folder)


def read(folder: Path) -> Checkpoint:
    """One checkpoint, every file's SHA-256 verified.

    Raises:
        CheckpointError: a file is absent or differs from the manifest, or another version wrote it.
    """
    verify(folder)
    return decoded(folder)


def decoded(folder: Path) -> Checkpoint:
    """The contents of a checkpoint that is what was written. Every version's has these files, and a format in its state.

    Raises:
        CheckpointError: another version wrote it.
    """
    try:
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=TrainingState)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CheckpointError(f"state.json: {error}", file=folder, hint="another version of EdgeTune wrote it") from None
    if state.format != FORMAT:
        raise CheckpointError(
            f"has format {state.format}, this version reads {FORMAT}", file=folder, hint="use the version that wrote it"
        )
    return Checkpoint(
        folder,
        state,
        load_arrays(folder / PARAMETERS, CheckpointError),
        load_arrays(folder / OPTIMIZER, CheckpointError),
    )


def verify(folder: Path) -> None:
    """Compares every file with the manifest.

    Raises:
        CheckpointError: one is absent or differs.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise CheckpointError("has no readable manifest", file=folder) from None
    if not {PARAMETERS, OPTIMIZER, STATE} <= expected.keys():
        raise CheckpointError("its manifest names other files", file=folder)
    for name in (PARAMETERS, OPTIMIZER, STATE):
        file, (size, digest) = folder / name, expected[name]
        if not file.is_file() or file.stat().st_size != size or sha256(file) != digest:
            raise CheckpointError(f"{name} is not what was written", file=folder)
