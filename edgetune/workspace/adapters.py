"""An adapter goes from one format to another, losslessly or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from edgetune.adapters.lora import LoraAdapter, check_fits
from edgetune.adapters.mlx_lm import write_mlx_lm
from edgetune.adapters.open import open_adapter
from edgetune.adapters.peft import write_peft
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.errors import ConfigError, InputError
from edgetune.events import Event
from edgetune.export.gguf_adapter import read_gguf_adapter, write_gguf_adapter
from edgetune.files import whole_folder
from edgetune.training.session import read_run_config
from edgetune.workspace.models import find_model

OnEvent = Callable[[Event], None]
Format = Literal["peft", "mlx", "gguf"]


class Converted(NamedTuple):
    """What was written: where, how many modules it changes, and their greatest rank."""

    out: Path
    modules: int
    rank: int


def convert_adapter(source: Path, to: Format, out: Path, model: str, on_event: OnEvent) -> Converted:
    """Writes an adapter in another format. `model` names its base; a run knows its own. GGUF does not go without it.

    Raises:
        ConfigError: the base is not known, and one of the formats needs it.
        AdapterError: the adapter is damaged, of another base, or has no form in that format.
        ModelError: the base is not here, or damaged; or the GGUF file is.
        InputError: `out` is there already, or cannot be written.
        DiskFull: not enough room; nothing is left behind.
    """
    if out.exists():
        raise InputError("is there already", file=out, hint="remove it, or name another place")
    spec = base_of(source, model, on_event)
    if spec is None and (source.is_file() or to == "gguf"):
        message = "an adapter in GGUF form has the names and the order of rows of its base's graph"
        raise ConfigError(message, hint="name the base with --model")
    adapter = read_gguf_adapter(source, spec) if source.is_file() and spec is not None else open_adapter(source)
    write(adapter, to, out, spec)
    return Converted(out, len(adapter.factors), adapter.rank)


def base_of(source: Path, model: str, on_event: OnEvent) -> ModelSpec | None:
    """The model that the adapter was trained on, where it is known."""
    if not model and (source / "run.toml").is_file():
        model = read_run_config(source).model
    return read_spec(find_model(model, on_event)) if model else None


def write(adapter: LoraAdapter, to: Format, out: Path, spec: ModelSpec | None) -> None:
    """The adapter in its new form, whole or absent. Where its base is known it must fit."""
    if to == "gguf":
        assert spec is not None
        return write_gguf_adapter(out, adapter, spec)
    if spec is not None:
        check_fits(adapter, spec)
    with whole_folder(out, "converted") as part:
        if to == "mlx":
            write_mlx_lm(part, adapter, spec.layers if spec else None)
        else:
            write_peft(part, adapter)
