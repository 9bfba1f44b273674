"""A training from its config to its adapter: everything is read and checked, the loop runs, every event is written down."""

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path

from edgetune.adapters.dora import matrices_of, with_magnitudes
from edgetune.adapters.lora import LoraAdapter, adapted_paths, check_fits, new_lora, scale_of
from edgetune.adapters.open import open_adapter
from edgetune.adapters.peft import write_peft
from edgetune.adapters.tokens import begun_tokens, token_ids
from edgetune.architecture.load import Source, as_stored, build_model, check_shapes, parameter_shapes, trained_copy
from edgetune.architecture.quantized_base import QuantizedBase, base_bytes
from edgetune.architecture.save import STORED_TYPES, copy_side_files, roomy, write_arrays
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.transformer import Model
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.choice import NUMPY, Backend
from edgetune.backend.launch import rank
from edgetune.config import RunConfig, load, to_toml
from edgetune.errors import CheckpointError, ConfigError, DoesNotFit, EdgeTuneError, ModelError, StoppedEarly
from edgetune.events import (
    CheckpointRejected,
    Event,
    RowsLeftOut,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Warned,
    read,
)
from edgetune.files import disk_errors, require_space, whole_file, whole_folder, write_file
from edgetune.hardware.sensors import Sensors, these_sensors
from edgetune.locks import Held, only_holder
from edgetune.text.batches import BatchOrder, split_valid, to_row
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.dataset import Dataset, Example, Problem, load_examples
from edgetune.text.tokenizer import Tokenizer, load_tokenizer
from edgetune.training import checkpoint
from edgetune.training.checkpoint import TrainingState
from edgetune.training.event_file import EventFile
from edgetune.training.loop import train as loop
from edgetune.training.made_of import changes, data_fingerprint
from edgetune.training.optimizer import optimizer_of
from edgetune.training.order import StepOrder
from edgetune.training.overseer import Overseer, overseer_of
from edgetune.training.prefix import PrefixCache
from edgetune.training.run import Run
from edgetune.training.together import Member, Together

ROOM_FOR_FILES = 1_000_000  # bytes beside the arrays of what a run hands over
OnEvent = Callable[[Event], None]
LOCK_TRIES, LOCK_PAUSE = 10, 0.02  # seconds


@dataclass(frozen=True)
class Prepared:
    """A config whose model and rows were read and checked; nothing heavy is in memory yet."""

    config: RunConfig
    folder: Path  # of the model
    spec: ModelSpec
    weights: WeightFolder | None  # None: they are drawn anew
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    train: Sequence[Example]
    valid: Sequence[Example]
    problems: list[Problem]
    data_fingerprint: str
    now: str  # ISO 8601
    token_ids: tuple[int, ...] = ()  # of adapter.train_tokens

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row that is trained."""
        return [len(example.ids) for example in self.train]


@dataclass(frozen=True)
class Resources:
    """What the plan gives a run."""

    workers: int
    recompute: bool = False
    share_weights: bool = False
    planned_peak_bytes: int = 0
    backend: Backend = NUMPY


def prepare(
    config: RunConfig, folder: Path, now: str | None = None, on_rows: Callable[[int], None] = lambda rows: None
) -> Prepared:
    """Reads and checks everything that a run of this config on the model in `folder` needs.

    `now` is the time, as ISO 8601, that templates which print a date are told: a resumed run is given that of its beginning.
    `on_rows` is told how many rows are read.

    Raises:
        ModelError, TokenizerError, TemplateError, DataError, ConfigError: what is wrong, and where.
    """
    spec = read_spec(folder)
    anew = config.adapter.init_from == "random"
    if anew and config.adapter.method != "full":
        raise ConfigError('adapter.init_from = "random" draws the whole model anew', hint='set adapter.method = "full"')
    if config.adapter.method == "full" and config.adapter.init_from not in ("", "random"):
        raise ConfigError("adapter.init_from names an adapter, method full trains none", hint='leave it out, or use "random"')
    if config.adapter.method == "full" and config.adapter.rate_ratio != 1:
        raise ConfigError("adapter.rate_ratio is between the factors of an adapter, method full has none", hint="leave it out")
    weights = None if anew else WeightFolder(folder)
    if weights is not None:
        check_shapes(spec, weights, folder)
    check_quantize_base(config, weights)
    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    if tokenizer is not None and not tokenizer.fits(spec.vocab):
        message = f"the tokenizer has {tokenizer.vocab_size} tokens, config.json and the embedding {spec.vocab}"
        raise ModelError(message, file=folder, hint="tokenizer and weights do not belong together")
    trained_tokens = token_ids(config.adapter, tokenizer, spec.vocab)
    now = now or datetime.now().isoformat(timespec="seconds")
    template = load_template(folder, tokenizer, now=now) if tokenizer is not None else None
    if config.checks.samples and tokenizer is None:
        raise ConfigError("checks.samples needs a tokenizer, the model folder has none", hint="leave the samples out")
    data = load_examples([Path(name) for name in config.data.train], tokenizer, template, config.data, spec.vocab, on_rows)
    train, valid, others = split(config, data, tokenizer, template, spec)
    rows = hashlib.sha256("\n".join(each.fingerprint for each in (data, *others)).encode()).hexdigest()
    fingerprint = data_fingerprint(rows, tokenizer.fingerprint if tokenizer else "", template.fingerprint if template else "")
    problems = [problem for dataset in (data, *others) for problem in dataset.problems]
    data_of = (tokenizer, template, train, valid, problems, fingerprint, now)
    return Prepared(config, folder, spec, weights, *data_of, trained_tokens)


def check_quantize_base(config: RunConfig, weights: WeightFolder | None) -> None:
    """Only frozen floats can be quantised.

    Raises:
        ConfigError: the whole model is trained, or the model is quantised already.
    """
    wish = config.training.quantize_base
    if wish == "none":
        return
    key = f'training.quantize_base = "{wish}"'
    if config.adapter.method == "full" or weights is None:
        hint = 'set training.quantize_base = "none", or adapter.method = "lora"'
        raise ConfigError(f"{key} packs frozen weights, method full has none", hint=hint)
    if weights.packing is not None:
        hint = 'set training.quantize_base = "none": its weights stay packed as they are'
        raise ConfigError(f"{key}: the model is quantised already, in {weights.packing.bits} bits", hint=hint)
    if base_bytes(weights, wish) == weights.stored_bytes:
        hint = 'set training.quantize_base = "none"'
        raise ConfigError(f"{key}: no row of this model's matrices divides into groups of 64", hint=hint)


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder holds a tokenizer: pre-tokenised rows need none."""
    return (folder / "tokenizer.json").exists() or (folder / "tokenizer.model").exists()


def split(
    config: RunConfig, data: Dataset, tokenizer: Tokenizer | None, template: ChatTemplate | None, spec: ModelSpec
) -> tuple[Sequence[Example], Sequence[Example], list[Dataset]]:
    """The rows to train on, those to validate on, and the datasets that were read for the latter."""
    if isinstance(config.data.valid, list):
        other = load_examples([Path(name) for name in config.data.valid], tokenizer, template, config.data, spec.vocab)
        return data.examples, other.examples, [other]
    train, valid = split_valid(data.examples, config.data.valid, config.training.seed)
    return train, valid, []


# ---- running -----------------------------------------------------------------------------------------------------------


def train(
    prepared: Prepared,
    folder: Path,
    resources: Resources,
    on_event: OnEvent,
    should_stop: Callable[[], bool],
    sensors: Sensors | None = None,
) -> RunFinished:
    """A new run in a folder that holds none yet. `sensors`: what the guards look at; left out, this machine.

    Raises:
        CheckpointError: the folder holds a run already.
        StoppedEarly: asked to stop; everything is saved.
        DiskFull, VerificationFailed: the run ended; its last good checkpoint is kept.
    """
    if rank():
        return take_part(prepared, resources, should_stop)
    if (folder / "run.toml").exists():
        raise CheckpointError("holds a run already", file=folder, hint=f"edgetune resume {folder}, or choose another --run")
    run = build(prepared, folder, resources, on_event)
    require_space(folder, 4 * run_bytes(run) * (prepared.config.checks.keep + 2))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        overseer = overseer_of(folder, prepared.config, should_stop, sensors or these_sensors())
        with whole_file(folder / "run.toml", "config") as part:
            write_file(part, to_toml(prepared.config), "config-content")
        return follow(run, prepared, resources, EventFile(folder, on_event), overseer)


def resume(
    folder: Path,
    prepared: Prepared,
    resources: Resources,
    on_event: OnEvent,
    should_stop: Callable[[], bool],
    force: bool = False,
    sensors: Sensors | None = None,
) -> RunFinished:
    """Continues a run exactly where its newest checkpoint that verifies stands; without one it starts from the beginning.

    Raises:
        CheckpointError: data, model, config or versions differ from what the run was made of (unless `force`).
        StoppedEarly: asked to stop; everything is saved.
    """
    if rank():
        return take_part(prepared, resources, should_stop)
    with only_writer(folder):
        if finished := finished_run(folder):
            return finished
        overseer = overseer_of(folder, prepared.config, should_stop, sensors or these_sensors())
        events = EventFile(folder, on_event)
        checkpoint.tidy(folder)
        run = build(prepared, folder, resources, on_event)
        for saved in checkpoint.newest(folder):
            if isinstance(saved, CheckpointError):
                events.tell(CheckpointRejected(folder=str(saved.file), reason=saved.message))
                continue
            for warning in check_same(saved.state, run.state, folder, force):
                events.tell(warning)
            try:
                run.restore(saved)
            except ValueError as error:
                raise CheckpointError(
                    f"does not fit this config: {error}", file=saved.folder, hint="was run.toml changed?"
                ) from None
            break
        return follow(run, prepared, resources, events, overseer)


def take_part(prepared: Prepared, resources: Resources, should_stop: Callable[[], bool]) -> RunFinished:
    """What a process does that is not the first of its team: the same loop, in a folder that is thrown away, in silence.

    Raises:
        StoppedEarly: the team was asked to stop.
        VerificationFailed: the run ended.
    """
    with tempfile.TemporaryDirectory(prefix="edgetune-") as temporary:
        run = build(prepared, Path(temporary), resources)
        started = run.clock()
        run.join()
        for event in loop(run, Together(Member(should_stop))):
            if isinstance(event, RunStopped):
                raise StoppedEarly(f"stopped after step {run.step} of {run.total_steps}", hint="resume it")
        return finished_event(run, "", started)


def begun_with(folder: Path) -> TrainingState | None:
    """What a run was begun with: sums are made in as many parts as it has workers, so resuming keeps them and the backend.

    None: there is no checkpoint.
    """
    return next((saved.state for saved in checkpoint.newest(folder) if not isinstance(saved, CheckpointError)), None)


def read_run_config(folder: Path) -> RunConfig:
    """The config that a run was begun with.

    Raises:
        CheckpointError: the folder holds no run.
    """
    if not (folder / "run.toml").exists():
        raise CheckpointError("holds no run", file=folder, hint="see `edgetune runs`")
    return load(folder / "run.toml")


def prepared_at(folder: Path) -> str | None:
    """The time that the templates of a run were told when it began. None: it has not begun."""
    file = folder / "events.jsonl"
    starts = (event for event in read(file) if isinstance(event, RunStarted)) if file.exists() else iter(())
    first = next(starts, None)
    return first.prepared_at or None if first else None


def finished_run(folder: Path) -> RunFinished | None:
    """The last event of a run that is done."""
    last = None
    if (folder / "events.jsonl").exists():
        for event in read(folder / "events.jsonl"):
            if isinstance(event, RunFinished | RunStarted):
                last = event
    return last if isinstance(last, RunFinished) else None


def build(prepared: Prepared, folder: Path, resources: Resources, on_event: OnEvent = lambda event: None) -> Run:
    """The run at its beginning: model, trained arrays, optimiser, order. `on_event` hears of the base being quantised."""
    config, spec = prepared.config, prepared.spec
    if config.adapter.method == "full":
        adapter = None
        parameters = trained_copy(spec, prepared.weights, config.training.seed)
        model = build_model(Source(spec, arrays=parameters), {})
    else:
        adapter, model = start_adapted(prepared, base_source(prepared, on_event), on_event)
        parameters = adapter.trained_arrays()
    order = StepOrder(prepared.lengths, config)
    valid_order = BatchOrder(
        [len(example.ids) for example in prepared.valid],
        batch=1,
        max_tokens=config.data.max_tokens,
        packing=True,
        shuffle=False,
        seed=0,
    )
    valid_rows = (
        [to_row([prepared.valid[i] for i in sequence]) for batch in valid_order.epoch(0) for sequence in batch]
        if prepared.valid
        else []
    )
    of_run = to_toml(config, leave_out=("night",))  # what is learned does not depend on the night
    state = TrainingState(
        config=of_run,
        config_hash=hashlib.sha256(of_run.encode()).hexdigest(),
        data_fingerprint=prepared.data_fingerprint,
        base_fingerprint=base_fingerprint(prepared, adapter),
        backend=resources.backend.name,
        workers=resources.workers,
        versions={name: importlib.metadata.version(name) for name in ("edgetune", *resources.backend.packages)},
    )
    runner = resources.backend.runner(parameters, resources.workers, resources.share_weights)
    return Run(
        config=config,
        folder=folder,
        adapter=adapter,
        model=model,
        runner=runner,
        optimizer=optimizer_of(runner, config.training, config.adapter.rate_ratio),
        order=order,
        examples=prepared.train,
        valid_rows=valid_rows,
        state=state,
        tokenizer=prepared.tokenizer,
        template=prepared.template,
        recompute=resources.recompute,
    )


def prefix_cache(run: Run) -> PrefixCache | None:
    """Where what the frozen layers make of each row is kept; None where there are none, where no row comes twice, or on MLX,
    which computes a step as one graph."""
    if run.state.backend != NUMPY.name or not run.model.frozen_layers or run.order.total <= run.order.start_of(1):
        return None
    made_of = f"{run.state.base_fingerprint} {run.config.training.quantize_base} {run.state.versions}"
    return PrefixCache(run.folder / "prefix", run.model, made_of)


def base_source(prepared: Prepared, on_event: OnEvent) -> Source:
    """The frozen weights, in the precision that the config asks for."""
    weights, precision = prepared.weights, prepared.config.training.quantize_base
    packed = QuantizedBase(weights, precision, on_event) if weights and precision != "none" else None
    return Source(prepared.spec, weights, packed=packed)


def base_fingerprint(prepared: Prepared, adapter: LoraAdapter | None) -> str:
    """A hash of what is trained upon: config.json's numbers, the weights, and the scales of the adapter that is begun with."""
    weights = prepared.weights.fingerprint if prepared.weights else "drawn anew"
    scales = [f"{path} {factors.scale}" for path, factors in adapter.factors.items()] if adapter else []
    scales += [f"{path} {rows.ids}" for path, rows in adapter.tokens.items()] if adapter else []
    return hashlib.sha256("\n".join([repr(prepared.spec), weights, *scales]).encode()).hexdigest()


def start_adapted(prepared: Prepared, source: Source, on_event: OnEvent) -> tuple[LoraAdapter, Model]:
    """The adapter as it begins, and the model that carries it. DoRA begins with the lengths that rows have anyway."""
    adapter, config = start_adapter(prepared, on_event), prepared.config.adapter
    model = build_model(source, adapter.places(config.dropout, dora=config.method == "dora"))
    if config.method == "dora" and not adapter.is_dora:
        adapter = with_magnitudes(adapter, matrices_of(model))
    return adapter, model


def start_adapter(prepared: Prepared, on_event: OnEvent) -> LoraAdapter:
    """A new adapter, or the one that the config starts from: that keeps its ranks, scales and places, and says so.

    Raises:
        ConfigError: the one to start from has magnitudes, and method lora trains none; or it trains other tokens.
    """
    config, spec = prepared.config, prepared.spec
    if not config.adapter.init_from:
        return new_adapter(config, spec, prepared.token_ids, prepared.weights)
    given = open_adapter(Path(config.adapter.init_from))
    check_fits(given, prepared.spec)
    if given.is_dora and config.adapter.method != "dora":
        raise ConfigError("adapter.init_from is an adapter of DoRA", hint='set adapter.method = "dora"')
    wanted = scale_of(config.adapter.alpha, config.adapter.rank, config.adapter.rslora)
    places = adapted_paths(prepared.spec, config.adapter.targets, config.adapter.layers)
    alike = all(len(each.a) == config.adapter.rank and each.scale == wanted for each in given.factors.values())
    if not alike or given.factors.keys() != places.keys():
        message = f"the adapter that it starts from keeps its own {len(given.factors)} modules, ranks and scales"
        on_event(Warned(message=message, hint="adapter.rank, alpha, rslora, targets and layers count for new adapters only"))
    tokens = given.tokens or begun_tokens(prepared.token_ids, spec, prepared.weights)
    if prepared.token_ids and any(set(rows.ids) != set(prepared.token_ids) for rows in tokens.values()):
        message = "adapter.train_tokens are not those of the adapter that it starts from"
        raise ConfigError(message, hint="leave train_tokens out: the adapter keeps its own")
    return LoraAdapter(given.factors, base_name(config.model), config.adapter.dropout, given.rslora, tokens)


def new_adapter(config: RunConfig, spec: ModelSpec, ids: tuple[int, ...], weights: WeightFolder | None) -> LoraAdapter:
    """The adapter of a config that starts from none. `ids`: the tokens whose rows are trained."""
    new = new_lora(spec, config.adapter, config.training.seed, base_name(config.model))
    return replace(new, tokens=begun_tokens(ids, spec, weights))


def base_name(model: str) -> str:
    """What an adapter says of its base: a hub id as it is, of a local folder only its name."""
    return Path(model).name if model.startswith(("/", ".", "~")) or Path(model).exists() else model


def run_bytes(run: Run) -> int:
    """The size of what is trained."""
    return sum(array.nbytes for array in run.parameters.values())


def follow(run: Run, prepared: Prepared, resources: Resources, events: EventFile, overseer: Overseer) -> RunFinished:
    """Runs the loop to its end, writing every event down, and hands over the best checkpoint."""
    run.clock = overseer.now
    run.join()
    run.prefix = prefix_cache(run)
    for problem in prepared.problems if run.step == 0 else []:
        events.tell(RowsLeftOut(file=problem.file, line=problem.line, kind=problem.kind, message=problem.message))
    events.tell(started_event(run, prepared, resources))
    started = run.clock()
    try:
        with memory_errors(run):
            finished = to_the_end(run, prepared, events, overseer, started)
        if run.prefix:
            run.prefix.close()
    except EdgeTuneError as error:
        if not isinstance(error, StoppedEarly):
            events.tell(RunFailed(kind=error.kind, message=error.message, hint=error.hint))
        raise
    finally:
        overseer.end(run)
    events.tell(finished)
    return finished


@contextmanager
def memory_errors(run: Run) -> Generator[None]:
    """Turns memory that ran out into what a person is told.

    Raises:
        DoesNotFit: it ran out; the last checkpoint is kept.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            raise
        raise DoesNotFit(
            f"memory ran out in step {run.step + 1} of {run.total_steps}: the last checkpoint is kept",
            hint=f"close other programs, then edgetune resume {run.folder}; or a new run with a smaller data.max_tokens",
        ) from None


def to_the_end(run: Run, prepared: Prepared, events: EventFile, overseer: Overseer, started: float) -> RunFinished:
    """The loop, and the result on the disk.

    Raises:
        StoppedEarly: asked to stop; everything is saved, or it was said what could not be.
    """
    for event in chain(overseer.begin(run), loop(run, Together(overseer))):
        events.tell(event)
        if isinstance(event, RunStopped):
            raise stopped_early(run)
    out: list[str] = []
    need = 4 * run_bytes(run) + ROOM_FOR_FILES
    for event in overseer.keep(run, lambda: out.append(finish(run, prepared)), need):
        events.tell(event)
    if not out:
        events.tell(RunStopped(step=run.step, reason=overseer.stop))
        raise stopped_early(run)
    for guard in overseer.guards:
        guard.end(run)
    return finished_event(run, out[0], started)


def stopped_early(run: Run) -> StoppedEarly:
    """What a run ends with that was asked to stop."""
    return StoppedEarly(f"stopped after step {run.step} of {run.total_steps}", hint=f"edgetune resume {run.folder}")


def started_event(run: Run, prepared: Prepared, resources: Resources) -> RunStarted:
    """What a run begins with, or goes on with."""
    return RunStarted(
        run=str(run.folder),
        first_step=run.step,
        total_steps=run.total_steps,
        backend=resources.backend.name,
        trained_parameters=sum(array.size for array in run.parameters.values()),
        train_rows=len(prepared.train),
        valid_rows=len(prepared.valid),
        train_tokens=sum(prepared.lengths),
        trained_tokens=sum(int(example.trained.sum()) for example in prepared.train),
        planned_peak_bytes=resources.planned_peak_bytes,
        prepared_at=prepared.now,
    )


def finish(run: Run, prepared: Prepared) -> str:
    """Writes the best checkpoint in the form that others read, an adapter folder or a model folder; gives the folder."""
    best = run.best_parameters()
    if run.adapter is None:
        out = run.folder / "model"
        dtype = roomy(STORED_TYPES.get(prepared.spec.dtype, "F32"), best)
        with whole_folder(out, "model") as part:
            copy_side_files(prepared.folder, part, dtype)
            shapes = parameter_shapes(prepared.spec).items()
            write_arrays(part, shapes, lambda name: as_stored(prepared.spec, name, best[name]), dtype)
    else:
        out = run.folder / "adapter"
        with whole_folder(out, "adapter") as part:
            write_peft(part, run.adapter.with_arrays(dict(best)))
    return str(out)


def finished_event(run: Run, adapter: str, started: float) -> RunFinished:
    """What a run came to."""
    return RunFinished(
        run=str(run.folder),
        adapter=adapter,
        steps=run.step,
        tokens=run.state.tokens,
        train_loss=run.train_loss,
        valid_loss=run.state.best_loss,
        best_step=run.state.best_step,
        tokens_per_second=run.tokens_per_second,
        peak_bytes=run.peak_memory,
        seconds=run.clock() - started,
        energy_joules=run.state.energy_joules,
    )


def check_same(saved: TrainingState, now: TrainingState, folder: Path, force: bool) -> Iterator[Warned]:
    """A run goes on only with what it was made of; where that is forced, it is said and kept among the events.

    Raises:
        CheckpointError: something differs; the message names it.
    """
    for change in changes(saved, now):
        if not force:
            hint = "put it back, or resume with --force: the result will differ"
            raise CheckpointError(str(change), file=folder, hint=hint)
        yield Warned(message=f"forced to go on, although {change}")


@contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Holds the run's lock, which dies with the process.

    Raises:
        CheckpointError: another process trains here.
    """
    try:
        with only_holder(folder / "run.lock"):
            yield
    except Held as owner:
        raise CheckpointError(f"another process trains here: {owner}", file=folder, hint="wait for it, or stop it") from None
