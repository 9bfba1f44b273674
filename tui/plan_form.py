"""The settings as rows of a form: names, bounds, choices and descriptions all come from the typed config."""

import tomllib
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from edgetune.config import RunConfig, toml_value
from edgetune.files import clean

FIRST = (  # what most people change, in this order; all other keys follow in the config's own order
    "adapter.method", "adapter.rank", "adapter.layers", "adapter.targets", "training.batch", "training.accumulate",
    "data.max_tokens", "training.epochs", "training.rate", "training.schedule", "training.recompute",
    "training.quantize_base", "training.seed",
)  # fmt: skip
ELSEWHERE = ("data.train",)  # chosen on a screen of its own
PRESETS: dict[str, list[list[str]]] = {
    "adapter.targets": [
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ["q_proj", "k_proj", "v_proj", "o_proj"],
        ["q_proj", "v_proj"],
    ]
}
LABELS = {
    "adapter.targets": "matrices",
    "data.max_tokens": "length",
    "training.accumulate": "micro-batches",
    "training.quantize_base": "base weights",
}
MANTISSAS = (1.0, 2.0, 5.0)


class Row(NamedTuple):
    """One key of the config. `choices`: the values it can have, where those are few."""

    key: str
    label: str
    description: str
    choices: tuple[Any, ...]
    kind: type

    def value(self, config: RunConfig) -> Any:
        """What the config has there."""
        value: Any = config
        for name in self.key.split("."):
            value = getattr(value, name)
        return value


def rows() -> list[Row]:
    """Every key that the form shows."""
    found = {
        f"{section.name}.{item.name}": row_of(f"{section.name}.{item.name}", item)
        for section in msgspec.structs.fields(RunConfig)
        if isinstance(section.type, type) and issubclass(section.type, msgspec.Struct)
        for item in msgspec.structs.fields(section.type)
    }
    order = [*FIRST, *(key for key in found if key not in FIRST and key not in ELSEWHERE)]
    return [found[key] for key in order]


def row_of(key: str, item: msgspec.structs.FieldInfo) -> Row:
    """One key, from its type and its Meta."""
    kind, description = item.type, ""
    if get_origin(kind) is Annotated:
        kind, *metas = get_args(kind)
        description = next((meta.description for meta in metas if meta.description), "")
    choices: tuple[Any, ...] = ()
    if kind is bool:
        choices = (False, True)
    elif get_origin(kind) is Literal:
        choices = get_args(kind)
    name = key.rpartition(".")[2]
    base = kind if isinstance(kind, type) else get_origin(kind) or object
    return Row(key, LABELS.get(key, name.replace("_", " ")), description, choices, base if isinstance(base, type) else object)


def shown(value: Any) -> str:
    """A value for people."""
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return compact(value)
        case list() | tuple():
            return " ".join(short(item) for item in value) or "–"
        case _:
            return str(value) if value != "" else "–"


def short(item: Any) -> str:
    """One of several values: a matrix without its suffix, a file without its folder."""
    return compact(item) if isinstance(item, float) else str(item).removesuffix("_proj").rstrip("/").rpartition("/")[2]


def compact(value: float) -> str:
    """A number without the digits that say nothing: 2e-4, 0.03, 3."""
    text = f"{value:g}"
    mantissa, e, exponent = f"{value:.6e}".partition("e")
    short = f"{float(mantissa):g}{e}{int(exponent)}"
    return short if value and (abs(value) < 0.001 or len(text) > len(short) + 1) else text


def editable(value: Any) -> str:
    """A value as it is edited; `parsed` reads it back."""
    match value:
        case list() | tuple():
            return ", ".join(shown(item) if isinstance(item, float) else str(item) for item in value)
        case _:
            return shown(value) if value != "" else ""


def parsed(text: str, old: Any) -> Any:
    """What a person wrote, as a value; the config decides whether it may be one."""
    text = text.strip()
    match old:
        case bool():
            return {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}.get(text.lower(), text)
        case list() | tuple():
            items = [scalar(part.strip()) for part in text.split(",") if part.strip()]
            return [f"{item}_proj" if f"{item}_proj" in PRESETS["adapter.targets"][0] else item for item in items]
        case str():
            return text
        case _:
            return scalar(text)


def scalar(text: str) -> Any:
    """A number where it is one."""
    try:
        return tomllib.loads(f"value = {text.replace(',', '')}")["value"]
    except tomllib.TOMLDecodeError:
        try:
            return float(text)
        except ValueError:
            return text


def stepped(row: Row, value: Any, by: int) -> Any:
    """The next value to the left or right: choices go round, numbers go up and down as one would turn a knob."""
    if row.key in PRESETS:
        sets = PRESETS[row.key]
        return sets[(sets.index(value) + by) % len(sets)] if value in sets else sets[0]
    if row.choices:
        return row.choices[(row.choices.index(value) + by) % len(row.choices)]
    match value:
        case int():
            return max(value + by, 0) if value + min(by, 0) < 8 else value * 2 if by > 0 else value // 2
        case float():
            return next_float(value, by)
        case "all":
            return 1 if by > 0 else value
        case _:
            return value


def next_float(value: float, by: int) -> float:
    """The neighbour in 1, 2, 5, 10; shares of one and passes go in the same steps."""
    if value <= 0:
        return 0.01 if by > 0 else value
    exponent = int(f"{value:e}".partition("e")[2])
    ladder = [float(f"{m:g}e{e}") for e in range(exponent - 1, exponent + 2) for m in MANTISSAS]
    above = [step for step in ladder if step > value * (1 + 1e-9)]
    below = [step for step in ladder if step < value * (1 - 1e-9)]
    return above[0] if by > 0 else below[-1]


def bounds(row: Row) -> str:
    """What may be written, for the line below the form."""
    if row.choices:
        return "one of " + ", ".join(shown(choice) for choice in row.choices)
    return row.description


WORDS = (
    ("`int`", "a whole number"), ("`float`", "a number"), ("`str`", "text"), ("`bool`", "on or off"), ("`array`", "a list"),
    (" >= ", ", at least "), (" <= ", ", at most "), (" > ", ", above "), (" < ", ", below "), ("Expected", "it must be"),
    ("got ", "this is "),
)  # fmt: skip


def refusal(message: str) -> str:
    """The config's own reason in plain words."""
    for theirs, ours in WORDS:
        message = message.replace(theirs, ours)
    return message


def changes(config: RunConfig) -> list[str]:
    """`key=value` for every key that differs from the config's defaults: what --set needs to make it again."""
    default = RunConfig(model=config.model, data=type(config.data)(train=config.data.train))
    return [
        f"{row.key}={bare(row.value(config))}" for row in rows() if row.value(config) != row.value(default)
    ]  # fmt: skip


def bare(value: Any) -> str:
    """A value as --set takes it: TOML, or a bare string."""
    return clean(value) if isinstance(value, str) and value.isidentifier() else toml_value(value)
