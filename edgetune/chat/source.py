"""What a person names becomes a conversation: a GGUF, a run, or a model folder with an adapter or without."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.open import adapter_folder
from edgetune.chat.conversation import Conversation, Prompts
from edgetune.chat.engine import LlamaEngine, OwnEngine
from edgetune.chat.gguf_tokenizer import gguf_tokenizer
from edgetune.errors import ConfigError, EdgeTuneError
from edgetune.hub.library import resolve
from edgetune.llamacpp import LlamaChild
from edgetune.text.chat_template import ChatTemplate, load_template, sized
from edgetune.text.tokenizer import Tokenizer, load_tokenizer
from edgetune.training.at_checkpoint import find_checkpoint, open_checkpoint
from edgetune.training.checkpoint import Checkpoint
from edgetune.training.session import read_run_config


@dataclass(frozen=True)
class Source:
    """What there is: a GGUF or a model folder, or both, and an adapter or none. `note`: what a person should know."""

    gguf: Path | None
    folder: Path | None
    adapter: Path | None
    note: str = ""
    run: Path | None = None
    checkpoint: Checkpoint | None = None  # of `run`, in place of an adapter


def find_source(name: str, adapter: Path | None, step: str = "") -> Source:
    """What a name stands for. `step`: of a run, the checkpoint of this step, or the "last" or "best" one.

    Raises:
        ConfigError: an adapter that does not go with it, or a run that has nothing to talk with yet.
        ModelError: there is no such model.
    """
    path = Path(name).expanduser()
    if step:
        if adapter is not None or not (path / "run.toml").is_file():
            raise ConfigError("--step is of a run", hint="name a run, without --adapter")
        saved = find_checkpoint(path, step)
        note = f"this is step {saved.state.step}, in our own decoder"
        return Source(None, resolve(read_run_config(path).model), None, note, path, saved)
    if path.suffix == ".gguf" or path.is_file():
        if adapter is not None and adapter.suffix != ".gguf":
            hint = "convert the adapter to GGUF, or name the model folder in place of the GGUF"
            raise ConfigError("a GGUF takes only an adapter in GGUF form", file=adapter, hint=hint)
        return Source(path, folder_of_export(path), adapter)
    if (path / "run.toml").is_file():
        if adapter is not None:
            raise ConfigError("a run has an adapter of its own", hint="leave --adapter out")
        return of_run(path)
    if adapter is not None and adapter.suffix == ".gguf":
        raise ConfigError(
            "a model folder takes an adapter folder", file=adapter, hint="name a GGUF, or a PEFT or mlx-lm folder"
        )
    return Source(None, resolve(name), adapter_folder(adapter) if adapter else None)


def of_run(run: Path) -> Source:
    """A run's newest export, if it is newer than what was trained; else its adapter on its base."""
    config = read_run_config(run)
    whole = config.adapter.method == "full"
    trained = run / "model" if whole else run / "adapter"
    if not trained.is_dir():
        raise ConfigError("has nothing to talk with yet", file=run, hint=f"edgetune resume {run}")
    models = [path for path in (run / "exports").glob("*.gguf") if not path.stem.endswith("-adapter")]
    exports = sorted(models, key=lambda path: (path.stat().st_mtime, path.name))
    if exports and exports[-1].stat().st_mtime >= trained.stat().st_mtime:
        return Source(exports[-1], folder_of_export(exports[-1]), None, f"this is {exports[-1].name}")
    note = "this is the adapter on its base in our own decoder; `edgetune export` makes a GGUF, which is faster"
    return Source(None, trained, None, note) if whole else Source(None, resolve(config.model), trained, note)


def folder_of_export(gguf: Path) -> Path | None:
    """The model folder that a run's export was made from, where both are still there."""
    run = gguf.absolute().parent.parent
    if gguf.absolute().parent.name != "exports" or not (run / "run.toml").is_file():
        return None
    try:
        config = read_run_config(run)
        return run / "model" if config.adapter.method == "full" else resolve(config.model)
    except EdgeTuneError:
        return None  # the GGUF holds all that is needed


def open_conversation(
    source: Source,
    *,
    system: str = "",
    context: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Conversation:
    """Opens what answers. The caller closes `engine`.

    Raises:
        ModelError, AdapterError, TokenizerError, TemplateError: a file is damaged, or they do not belong together.
        ChildFailed: llama.cpp cannot open the GGUF.
    """
    if source.gguf is None:
        assert source.folder is not None
        tokenizer = load_tokenizer(source.folder)
        prompts = Prompts(tokenizer, load_template(source.folder, tokenizer))
        if source.run is not None and source.checkpoint is not None:
            opened = open_checkpoint(source.run, source.folder, source.checkpoint)
        else:
            opened = open_adapted(source.folder, source.adapter)
        return Conversation(OwnEngine(opened, tokenizer, context), prompts, system)
    child = LlamaChild(source.gguf, context=context, on_progress=on_progress)
    try:
        if source.adapter is not None:
            child.adapt([(source.adapter, 1.0)])
        tokenizer, template = texts_of(source, child, source.gguf)
        return Conversation(LlamaEngine(child), Prompts(tokenizer, template), system)
    except BaseException:
        child.close()
        raise


def texts_of(source: Source, child: LlamaChild, gguf: Path) -> tuple[Tokenizer, ChatTemplate | None]:
    """Tokenizer and template of the model folder where it is known, else those in the GGUF."""
    if source.folder is not None:
        tokenizer = load_tokenizer(source.folder)
        if tokenizer.fits(child.info.vocab_size):
            return tokenizer, load_template(source.folder, tokenizer)
    tokenizer = gguf_tokenizer(child, gguf)
    return tokenizer, ChatTemplate(sized(child.info.template, gguf), tokenizer) if child.info.template else None
