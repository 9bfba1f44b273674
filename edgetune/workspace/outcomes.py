"""What becomes of a run or a model folder: where its adapter lies, how it scores, and what proves its export."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgetune.adapters.attach import AdaptedModel, open_adapted
from edgetune.adapters.open import adapter_folder
from edgetune.backend.choice import NUMPY, Backend, choose_backend
from edgetune.config import DataConfig, RunConfig
from edgetune.errors import ConfigError, DataError, TemplateError
from edgetune.evaluation.score import Evaluation, evaluate
from edgetune.evaluation.tasks import Answered, Question, answer_all, task
from edgetune.events import Event, Progress, RowsLeftOut
from edgetune.export.held_out import PLAIN_TEXTS, PROMPTS, HeldOut
from edgetune.export.pipeline import Source
from edgetune.hardware import worker_count
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.dataset import Example, Examples, RawRow, load_examples, read_rows
from edgetune.text.tokenizer import Tokenizer, load_tokenizer
from edgetune.training.session import base_name, has_tokenizer, prepared_at, read_run_config
from edgetune.workspace import training
from edgetune.workspace.models import find_model

OnEvent = Callable[[Event], None]
HELD_OUT_ROWS = 64  # of a certificate
TEXT_ROWS = 200  # rows whose token ids are compared


@dataclass(frozen=True)
class Evaluated:
    """Scores on every row, and, with a task, its metrics and the answers."""

    scores: Evaluation
    metrics: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    answers: list[Answered] = field(default_factory=lambda: list[Answered]())


def model_folder(name: str, on_event: OnEvent) -> Path:
    """A model by name or folder; of a run that trained a whole model, that model."""
    trained = Path(name) / "model"
    return trained if (Path(name) / "run.toml").exists() and trained.is_dir() else find_model(name, on_event)


# ---- scores ------------------------------------------------------------------------------------------------------------


def evaluate_rows(
    model: str,
    adapter: Path | None,
    files: Sequence[Path],
    task_name: str,
    max_tokens: int,
    on_event: OnEvent,
    backend: str = "numpy",
    limit: int = 0,
) -> Evaluated:
    """Scores a model on the rows of files, and with a task its answers.

    `limit`: so many rows at most are scored, spread evenly over all; 0: all of them.

    Raises:
        ConfigError: an unknown task; MLX is asked for and not installed.
        ModelError, AdapterError, DataError: what is wrong, and where.
    """
    metric = task(task_name) if task_name else None
    chosen = choose_backend(backend)
    folder = model_folder(model, on_event)
    opened = open_adapted(folder, adapter_folder(adapter) if adapter else None)
    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    template = load_template(folder, tokenizer) if tokenizer else None
    data = load_examples(list(files), tokenizer, template, DataConfig(train=[], max_tokens=max_tokens), opened.spec.vocab)
    for problem in data.problems:
        on_event(RowsLeftOut(file=problem.file, line=problem.line, kind=problem.kind, message=problem.message))
    examples = spread(data.examples, limit)

    def told(done: int) -> None:
        on_event(Progress(stage="scoring", done=done, total=len(examples), unit="rows"))

    scores = evaluate(opened, examples, worker_count(), chosen, told)
    if metric is None:
        return Evaluated(scores)
    if tokenizer is None:
        raise ConfigError("--task needs a tokenizer, the model folder has none", hint="leave --task out")
    answers = answered(opened, tokenizer, template, questions_of(files), on_event, chosen)
    return Evaluated(scores, metric([each.reply for each in answers], [each.reference for each in answers]), answers)


def spread(examples: Examples, limit: int) -> Examples:
    """At most `limit` of the examples, spread evenly over all; 0: all of them."""
    if not 0 < limit < len(examples):
        return examples
    return examples.take(len(examples) * at // limit for at in range(limit))


def answered(
    model: AdaptedModel,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    questions: Sequence[Question],
    on_event: OnEvent,
    backend: Backend = NUMPY,
) -> list[Answered]:
    """The model's answers, with progress."""

    def told(done: int) -> None:
        on_event(Progress(stage="answering", done=done, total=len(questions), unit="questions"))

    return answer_all(model, tokenizer, template, questions, workers=worker_count(), on_answer=told, backend=backend)


def questions_of(files: Sequence[Path]) -> list[Question]:
    """The last answer of every row that ends with one in words, and what comes before it."""
    questions: list[Question] = []
    for row in read_rows(list(files)):
        if not isinstance(row, RawRow):
            continue
        chat = row.conversation()
        if chat and len(chat.messages) > 1 and chat.messages[-1]["role"] == "assistant" and chat.messages[-1].get("content"):
            questions.append(Question(chat.messages[:-1], str(chat.messages[-1]["content"]), chat.tools))
    return questions


# ---- the source of an export -------------------------------------------------------------------------------------------


def source_of(name: str, adapter: Path | None, data: Sequence[Path], on_event: OnEvent) -> Source:
    """A run, or a model folder with or without an adapter, and the rows that prove it.

    A run brings its validation rows; where it has none, the first rows that it was trained on serve, and the certificate
    says so. A model folder without rows is proved on plain texts.

    Raises:
        ConfigError: a run that is not done, or an adapter beside a run.
        ModelError, AdapterError, DataError: what is wrong, and where.
    """
    run = Path(name)
    if not (run / "run.toml").exists():
        folder = model_folder(name, on_event)
        tokenizer = load_tokenizer(folder)
        held_out = from_files(folder, tokenizer, data) if data else plain_rows(tokenizer)
        return Source(base_name(name), folder, adapter_folder(adapter) if adapter else None, held_out)
    if adapter is not None:
        raise ConfigError("a run has an adapter of its own", hint="leave --adapter out")
    config = read_run_config(run)
    whole = config.adapter.method == "full"
    if whole and not (run / "model").is_dir():
        raise ConfigError("has no model yet", file=run, hint=f"edgetune resume {run}")
    if data:
        folder = run / "model" if whole else find_model(config.model, on_event)
        held_out = from_files(folder, load_tokenizer(folder), data)
        return of_run(config, folder, run, held_out)
    prepared = training.prepare(config, on_event, prepared_at(run))  # the same rows are held out only at the same time
    folder = run / "model" if whole else prepared.folder
    if prepared.tokenizer is None:
        raise ConfigError(
            "the model folder has no tokenizer, and a GGUF needs one",
            file=prepared.folder,
            hint="add its tokenizer files",
        )
    files = [Path(file) for file in (config.data.valid if isinstance(config.data.valid, list) else config.data.train)]
    chosen = prepared.valid or prepared.train
    held_out = with_rows(chosen, files, prepared.tokenizer, prepared.template, bool(prepared.valid))
    return of_run(config, folder, run, held_out)


def of_run(config: RunConfig, folder: Path, run: Path, held_out: HeldOut) -> Source:
    """What a run hands over: its adapter on its base, whose weights are those on the disk, or its whole model."""
    adapter = None if config.adapter.method == "full" else adapter_folder(run)
    return Source(base_name(config.model), folder, adapter, held_out, config.training.quantize_base)


def from_files(folder: Path, tokenizer: Tokenizer, files: Sequence[Path]) -> HeldOut:
    """The rows of files that a person names."""
    template = load_template(folder, tokenizer)
    data = load_examples(list(files), tokenizer, template, DataConfig(train=[], max_tokens=4096), tokenizer.vocab_size)
    return with_rows(data.examples, files, tokenizer, template, True)


def with_rows(
    examples: Sequence[Example],
    files: Sequence[Path],
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    is_held_out: bool,
) -> HeldOut:
    """These rows, their texts as the template renders them, and their prompts."""
    chosen = sorted(examples, key=lambda example: (example.file, example.line))[:: max(1, len(examples) // HELD_OUT_ROWS)][
        :HELD_OUT_ROWS
    ]
    wanted = {(example.file, example.line) for example in chosen}
    texts: list[tuple[str, list[int]]] = []
    prompts: list[list[int]] = []
    for row in read_rows(list(files)):
        if not isinstance(row, RawRow) or (row.file, row.line) not in wanted or len(texts) >= TEXT_ROWS:
            continue
        chat = row.conversation()
        if chat is None or template is None:
            continue
        try:
            texts.append(
                (
                    template.render(chat.messages, tools=chat.tools),
                    template.encode(chat.messages, tools=chat.tools).ids.tolist(),
                )
            )
        except TemplateError:
            continue
        if len(prompts) < PROMPTS and chat.messages[-1]["role"] == "assistant" and len(chat.messages) > 1:
            prompts.append(template.prompt(chat.messages[:-1], tools=chat.tools))
    end_ids = template.end_ids if template else tokenizer.end_ids
    return HeldOut(chosen, texts, plain_ids(tokenizer), prompts, frozenset(end_ids), is_held_out)


def plain_rows(tokenizer: Tokenizer) -> HeldOut:
    """Texts of many kinds, for a model that comes without rows."""
    import numpy as np

    examples: list[Example] = []
    for line, (_, ids) in enumerate(plain_ids(tokenizer), 1):
        start = [tokenizer.bos_id] if tokenizer.bos_id is not None and tokenizer.adds_bos else []
        whole = np.array([*start, *ids], np.int32)
        trained = np.ones(len(whole), np.bool_)
        trained[0] = False
        examples.append(Example(whole, trained, "plain text", line))
    if not examples:
        raise DataError("the tokenizer reads no text")
    return HeldOut(examples, [], plain_ids(tokenizer), [], frozenset(tokenizer.end_ids))


def plain_ids(tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """The plain texts and their ids."""
    return [(text, tokenizer.encode(text)) for text in PLAIN_TEXTS]
