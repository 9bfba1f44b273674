"""An adapter by its folder, whichever tool wrote it: PEFT's, mlx-lm's, or the one of a run."""

from pathlib import Path

from edgetune.adapters import mlx_lm, peft
from edgetune.adapters.lora import LoraAdapter
from edgetune.errors import AdapterError, ConfigError


def adapter_folder(path: Path) -> Path:
    """The adapter of a run, or the folder itself.

    Raises:
        ConfigError: the run has no adapter yet.
    """
    if not (path / "run.toml").exists():
        return path
    if not (path / "adapter").is_dir():
        raise ConfigError("has no adapter yet", file=path, hint=f"edgetune resume {path}")
    return path / "adapter"


def open_adapter(path: Path) -> LoraAdapter:
    """The adapter of a PEFT folder, an mlx-lm folder or a run, told apart by the files.

    Raises:
        ConfigError: the run has no adapter yet.
        AdapterError: there is none, or it is damaged, of two kinds at once, or uses a feature that we do not implement.
    """
    if path.suffix == ".gguf":
        hint = f"edgetune adapter convert {path} --to peft --model ITS-BASE --out FOLDER"
        raise AdapterError("is an adapter in GGUF form, which has its base's own names and order of rows", file=path, hint=hint)
    folder = adapter_folder(path)
    is_peft, is_mlx = (folder / peft.WEIGHTS_FILE).exists(), (folder / mlx_lm.WEIGHTS_FILE).exists()
    if is_peft and is_mlx:
        message = f"holds both {peft.WEIGHTS_FILE} and {mlx_lm.WEIGHTS_FILE}"
        raise AdapterError(message, file=folder, hint="keep each adapter in a folder of its own")
    if is_mlx:
        return mlx_lm.read_mlx_lm(folder)
    return peft.read_peft(folder)
