"""A run's configuration: the typed definitions that the TOML file, the flags and the app's form all come from.

Every field's Meta holds its one-line description and bounds; `load` reads a file, `with_settings` applies `--set key=value`.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct, field

from edgetune.errors import ConfigError

LINEAR_KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LinearKind = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QuantizeBase = Literal["none", "8bit", "4bit"]
Share = Annotated[float, Meta(ge=0, lt=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]


class Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all parts share: unknown keys are errors, values never change."""


class DataConfig(Part, frozen=True):
    """What is learned from."""

    train: Annotated[list[str], Meta(description="files of rows: JSONL, JSON, CSV, TSV, text, Parquet")]
    valid: Annotated[Share | list[str], Meta(description="a share of train, or a list of files")] = 0.05
    max_tokens: Annotated[int, Meta(ge=8, description="the longest row, in tokens")] = 1024
    long_rows: Annotated[
        Literal["drop", "cut", "split"], Meta(description="what happens to longer rows: always counted in the report")
    ] = "drop"
    train_on: Annotated[
        Literal["assistant", "last", "all"], Meta(description="every assistant turn, the last one, or every token")
    ] = "assistant"
    packing: Annotated[bool, Meta(description="rows share a sequence; attention never crosses a row")] = True
    shuffle: Annotated[bool, Meta(description="another order in every epoch, from the seed")] = True


class AdapterConfig(Part, frozen=True):
    """What is trained."""

    method: Annotated[
        Literal["lora", "dora", "full"],
        Meta(description="low-rank adapters; dora learns each row's length too (arXiv:2402.09353); or every weight"),
    ] = "lora"
    rank: Annotated[int, Meta(ge=1, le=1024, description="rows of A, columns of B: more rank, more to learn")] = 16
    alpha: Annotated[float, Meta(gt=0, le=1e6, description="the update is scaled by alpha / rank")] = 32.0
    rslora: Annotated[bool, Meta(description="scale by alpha / sqrt(rank) instead (arXiv:2312.03732)")] = False
    dropout: Annotated[Share, Meta(description="share of the adapter's inputs left out in each step")] = 0.0
    rate_ratio: Annotated[float, Meta(ge=1, le=1000, description="B's rate over A's: LoRA+ (arXiv:2402.12354)")] = 1.0
    targets: Annotated[list[LinearKind], Meta(min_length=1, description="the linear layers that get an adapter")] = field(
        default_factory=lambda: list(LINEAR_KINDS)
    )
    layers: Annotated[Literal["all"] | Positive, Meta(description="all, or a number: the last N layers")] = "all"
    train_tokens: Annotated[
        list[str | int], Meta(description="tokens, by text or id, whose rows of embedding and head are trained besides")
    ] = field(default_factory=lambda: list[str | int]())
    init_from: Annotated[
        str,
        Meta(description="an adapter (PEFT, mlx-lm) or run to start from; 'random' with method full: weights are drawn anew"),
    ] = ""


class TrainingConfig(Part, frozen=True):
    """How it is trained."""

    steps: Annotated[Count, Meta(description="optimiser updates; 0: epochs decide")] = 0
    epochs: Annotated[float, Meta(gt=0, le=10_000, description="passes over the rows")] = 3.0
    batch: Annotated[Positive, Meta(description="sequences per micro-batch")] = 4
    accumulate: Annotated[Positive, Meta(description="micro-batches per step, weighted by trained tokens")] = 4
    rate: Annotated[float, Meta(gt=0, lt=1, description="learning rate at its highest")] = 2e-4
    schedule: Annotated[Literal["constant", "linear", "cosine"], Meta(description="how the rate falls after the warm-up")] = (
        "cosine"
    )
    warmup: Annotated[Share, Meta(description="share of the steps in which the rate rises")] = 0.03
    weight_decay: Annotated[NotNegative, Meta(description="decoupled, as in AdamW (arXiv:1711.05101)")] = 0.01
    betas: Annotated[tuple[Share, Share], Meta(description="AdamW's decay of the two moments")] = (0.9, 0.999)
    eps: Annotated[float, Meta(ge=1e-30, le=1, description="AdamW's epsilon")] = 1e-8
    clip: Annotated[NotNegative, Meta(description="greatest global gradient norm; 0: off")] = 1.0
    seed: Annotated[Count, Meta(le=2**63 - 1, description="order, dropout and new weights follow from it")] = 7
    recompute: Annotated[
        Literal["auto", "off", "layers"],
        Meta(description="make activations again in the backward: less memory, more time"),
    ] = "auto"
    quantize_base: Annotated[
        QuantizeBase, Meta(description="frozen weights in fewer bits while an adapter learns on them: less memory")
    ] = "none"


class ChecksConfig(Part, frozen=True):
    """What is looked at and saved on the way, in steps; 0: only at the end."""

    eval_every: Annotated[Count, Meta(description="steps between validations")] = 100
    save_every: Annotated[Count, Meta(description="steps between checkpoints")] = 50
    keep: Annotated[int, Meta(ge=2, description="checkpoints kept; the best one is kept besides")] = 3
    patience: Annotated[Count, Meta(description="validations without a better loss before the run stops; 0: off")] = 0
    samples: Annotated[list[str], Meta(description="prompts that are answered at every validation")] = field(
        default_factory=lambda: list[str]()
    )


class NightConfig(Part, frozen=True):
    """What a run does about the machine while nobody watches. Nothing that is learned depends on it: a resume may change it."""

    keep_awake: Annotated[bool, Meta(description="no sleep by itself while it trains; the display may sleep")] = True
    battery_floor: Annotated[
        int, Meta(ge=0, le=100, description="percent; on battery below it, save and wait for power; 0: off")
    ] = 20
    max_celsius: Annotated[float, Meta(ge=0, le=150, description="hotter than this, rest between steps; 0: off")] = 0.0
    rest: Annotated[float, Meta(ge=0, le=10, description="rest after each step while throttled, in step times; 0: none")] = 0.1
    save_memory: Annotated[bool, Meta(description="recompute when memory runs short: the same numbers, slower")] = True
    failed_saves: Annotated[Positive, Meta(description="saves that may fail in a row; a full disk is waited for instead")] = 3


class RunConfig(Part, frozen=True):
    """One run, whole."""

    model: Annotated[str, Meta(min_length=1, description="hub id, folder, or a name from the catalogue")]
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()
    checks: ChecksConfig = ChecksConfig()
    night: NightConfig = NightConfig()


def load(path: Path, settings: list[str] | None = None) -> RunConfig:
    """Reads a config file, applies `key=value` settings, and makes its relative paths relative to the file's folder.

    Raises:
        ConfigError: the file is absent or not TOML, or a key is unknown, of the wrong type or out of bounds.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such file", file=path, hint="write one, or see `edgetune train --help`") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"is not a readable TOML file: {error}", file=path, hint="mend that place") from None
    for setting in settings or []:
        apply_setting(values, setting)
    return relative_to(convert(values, path), path.absolute().parent)


def convert(values: dict[str, Any], path: Path | None = None) -> RunConfig:
    """Checks plain values against the definitions.

    Raises:
        ConfigError: a key is unknown, of the wrong type or out of bounds; the message names it.
    """
    check_keys(values, RunConfig, "", path)
    try:
        return msgspec.convert(values, RunConfig)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at `$.")
        key = at.rstrip("`") or "the file"
        raise ConfigError(
            f"{key}: {reason}", file=path, hint="see the config section of the README for each key's values"
        ) from None


def check_keys(values: dict[str, Any], kind: type[Struct], at: str, path: Path | None) -> None:
    """Names an unknown key and the known one that is nearest to it."""
    known = {item.name: item for item in msgspec.structs.fields(kind)}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {at}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise ConfigError(f"unknown key {at}{key}", file=path, hint=hint)
        inner = known[key].type
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Struct):
            check_keys(value, inner, f"{at}{key}.", path)


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Puts `data.max_tokens=512` into plain values. The right side is TOML, or a bare string."""
    key, equals, text = setting.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise ConfigError(f"--set {setting}: not of the form key=value", hint="for example --set training.rate=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for parent in parents:
        inner: object = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting}: {parent} is not a section", hint="for example --set training.rate=1e-4")
        values = cast(dict[str, Any], inner)
    values[last] = value


def relative_to(config: RunConfig, folder: Path) -> RunConfig:
    """The same config with relative file names resolved against the folder of the config file."""

    def resolved(name: str) -> str:
        return str(folder / name)

    def folder_or_name(name: str) -> str:
        looks_local = name.startswith((".", "/", "~")) or (folder / name).exists()
        return str(Path(resolved(name) if not name.startswith("~") else name).expanduser()) if looks_local else name

    data = config.data
    valid = [resolved(name) for name in data.valid] if isinstance(data.valid, list) else data.valid
    data = msgspec.structs.replace(data, train=[resolved(name) for name in data.train], valid=valid)
    start = config.adapter.init_from
    adapter = config.adapter if start in ("", "random") else msgspec.structs.replace(config.adapter, init_from=resolved(start))
    return msgspec.structs.replace(config, model=folder_or_name(config.model), data=data, adapter=adapter)


def to_toml(config: RunConfig, leave_out: tuple[str, ...] = ()) -> str:
    """The config as a TOML file that `load` reads back equal, or some of its sections only."""
    values = {name: value for name, value in msgspec.to_builtins(config).items() if name not in leave_out}
    lines = [f"model = {toml_value(values.pop('model'))}"]
    for section, keys in values.items():
        lines += ["", f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """One value in TOML's notation; strings are escaped as in JSON, which TOML's basic strings contain."""
    if isinstance(value, str):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)
