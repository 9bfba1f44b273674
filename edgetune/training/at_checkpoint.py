"""The model as it was at a checkpoint of a run, also while the run goes on: what one talks with before the night is over."""

from dataclasses import replace
from pathlib import Path

from edgetune.adapters.attach import AdaptedModel, open_adapted
from edgetune.adapters.open import open_adapter
from edgetune.adapters.tokens import begun_tokens, token_ids
from edgetune.architecture.load import Source, build_model
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.errors import CheckpointError, ConfigError
from edgetune.text.tokenizer import load_tokenizer
from edgetune.training import checkpoint
from edgetune.training.checkpoint import Checkpoint
from edgetune.training.session import has_tokenizer, new_adapter, read_run_config


def find_checkpoint(run: Path, which: str) -> Checkpoint:
    """A checkpoint by its step, or the "last" that verifies, or the "best" so far.

    Raises:
        ConfigError: `which` is none of these.
        CheckpointError: there is none, or it does not verify.
    """
    good = (saved for saved in checkpoint.newest(run) if isinstance(saved, Checkpoint))
    if which in ("last", "best"):
        last = next(good, None)
        if last is None:
            raise CheckpointError("has no checkpoint yet", file=run, hint="wait for the first one, or `edgetune save RUN`")
        return last if which == "last" else checkpoint.read(checkpoint.folder_of(run, last.state.best_step))
    if not which.isdecimal():
        raise ConfigError(f"--step {which!r}", hint="a step that has a checkpoint, or last, or best")
    if int(which) not in checkpoint.steps(run):
        there = ", ".join(map(str, checkpoint.steps(run))) or "none"
        raise CheckpointError(f"has no checkpoint of step {which}", file=run, hint=f"there: {there}")
    return checkpoint.read(checkpoint.folder_of(run, int(which)))


def open_checkpoint(run: Path, folder: Path, saved: Checkpoint) -> AdaptedModel:
    """The model in `folder`, the base of this run, as the checkpoint has changed it.

    Raises:
        ModelError, AdapterError: the base is damaged, or not the one that the run was made of.
    """
    config = read_run_config(run)
    spec = read_spec(folder)
    if config.adapter.method == "full":
        return AdaptedModel(spec, build_model(Source(spec, arrays=saved.parameters), {}), dict(saved.parameters))
    tokenizer = load_tokenizer(folder) if config.adapter.train_tokens and has_tokenizer(folder) else None
    weights, ids = WeightFolder(folder), token_ids(config.adapter, tokenizer, spec.vocab)
    if config.adapter.init_from:
        given = open_adapter(Path(config.adapter.init_from))
        adapter = replace(given, tokens=given.tokens or begun_tokens(ids, spec, weights))
    else:
        adapter = new_adapter(config, spec, ids, weights)
    return open_adapted(folder, adapter.with_arrays(saved.parameters), config.training.quantize_base)
