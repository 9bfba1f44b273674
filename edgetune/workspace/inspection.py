"""What files of rows would teach a model: the numbers of the `data` command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune.architecture.spec import read_spec
from edgetune.config import DataConfig, RunConfig, apply_setting, convert
from edgetune.errors import DataError
from edgetune.events import Event, Progress
from edgetune.text.batches import split_valid
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.dataset import Dataset, Examples, read_examples, refuse_useless
from edgetune.text.inspect import DataReport, inspect
from edgetune.text.tokenizer import Tokenizer, load_tokenizer
from edgetune.training.session import has_tokenizer
from edgetune.workspace.models import find_model

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Inspection:
    """The report, and why training would refuse these rows; empty where it would not. And what the rows were read into."""

    report: DataReport
    refusal: str
    config: DataConfig
    sides: Sequence[Dataset]  # the rows to train, split or not, and those of data.valid where it names files
    valid: Examples  # those held out
    tokenizer: Tokenizer | None
    template: ChatTemplate | None


def inspect_rows(model: str, files: Sequence[Path], settings: Sequence[str], on_event: OnEvent) -> Inspection:
    """Reads all rows as a run would, and tells of the bad ones instead of refusing them.

    Raises:
        ConfigError: a setting is wrong.
        ModelError, TokenizerError, TemplateError: the model's folder is.
        DataError: a file is absent, empty or unusable.
    """
    config = rows_config(model, files, settings)
    folder = find_model(config.model, on_event)
    spec = read_spec(folder)
    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    template = load_template(folder, tokenizer) if tokenizer else None

    def read(names: Sequence[str]) -> Dataset:
        paths = [Path(name) for name in names]
        return read_examples(paths, tokenizer, template, config.data, spec.vocab, on_rows)

    def on_rows(rows: int) -> None:
        on_event(Progress(stage="reading", done=rows, total=0, unit="rows"))

    data = read(config.data.train)
    read_all = [data]
    if isinstance(config.data.valid, list):
        held_out = read(config.data.valid)
        read_all.append(held_out)
        train, valid = data.examples, held_out.examples
    else:
        train, valid = split_valid(data.examples, config.data.valid, config.training.seed)
    report = inspect(
        train,
        valid,
        [problem for dataset in read_all for problem in dataset.problems],
        rows=sum(dataset.rows for dataset in read_all),
        max_tokens=config.data.max_tokens,
        fingerprint=data.fingerprint,
    )
    return Inspection(report, refusal_of(files, data), config.data, read_all, valid, tokenizer, template)


def rows_config(model: str, files: Sequence[Path], settings: Sequence[str]) -> RunConfig:
    """The config of a run on these files, every other key as it is by default or as `--set` says.

    Raises:
        ConfigError: a setting is wrong.
    """
    values: dict[str, Any] = {"model": model, "data": {"train": [str(file) for file in files]}}
    for setting in settings:
        apply_setting(values, setting)
    return convert(values)


def refusal_of(files: Sequence[Path], data: Dataset) -> str:
    """What training would say of these rows if it refused them."""
    try:
        refuse_useless(files, data.examples, data.problems, data.rows)
    except DataError as error:
        return error.message
    return ""
