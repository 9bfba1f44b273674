"""Tokens whose own rows of the embedding are trained: which ones a config means, and the rows as they begin."""

import numpy as np

from edgetune.adapters.lora import TokenRows
from edgetune.architecture.spec import ModelSpec
from edgetune.architecture.weights import WeightFolder
from edgetune.config import AdapterConfig
from edgetune.errors import ConfigError
from edgetune.text.tokenizer import Tokenizer

KEY = "adapter.train_tokens"


def token_ids(config: AdapterConfig, tokenizer: Tokenizer | None, rows: int) -> tuple[int, ...]:
    """The ids that train_tokens names by text or by number, each once. `rows`: how many the embedding has.

    Raises:
        ConfigError: the whole model is trained anyway; a text is no token, or a token has no row.
    """
    if config.train_tokens and config.method == "full":
        raise ConfigError(f"{KEY}: method full trains every row", hint='leave train_tokens out, or set adapter.method = "lora"')
    ids = [named if isinstance(named, int) else id_of(named, tokenizer) for named in config.train_tokens]
    for named, token in zip(config.train_tokens, ids, strict=True):
        if not 0 <= token < rows:
            message = f"{KEY}: {named!r} has no row: the embedding has {rows}, of the ids 0 to {rows - 1}"
            raise ConfigError(message, hint="rows are not added here: resize the model's embedding first, and save it")
    return tuple(dict.fromkeys(ids))


def id_of(text: str, tokenizer: Tokenizer | None) -> int:
    """The id of a token that is named by its text.

    Raises:
        ConfigError: there is no such token, or no tokenizer.
    """
    if tokenizer is None:
        raise ConfigError(f"{KEY}: {text!r} is a text, and the model folder has no tokenizer", hint="name tokens by their ids")
    token = tokenizer.vocabulary.id_of(text)
    if token is None:
        hint = 'name entries of the vocabulary as they are written there, for example "<|user|>", or ids'
        raise ConfigError(f"{KEY}: {text!r} is no token of the model's tokenizer", hint=hint)
    return token


def begun_tokens(ids: tuple[int, ...], spec: ModelSpec, weights: WeightFolder | None) -> dict[str, TokenRows]:
    """The rows of those tokens as the base has them, by module path: of the embedding, and of the head where it has its own."""
    if not ids or weights is None:
        return {}
    paths = ("model.embed_tokens",) if spec.tied else ("model.embed_tokens", "lm_head")
    return {path: TokenRows(ids, weights.floats(f"{path}.weight", np.array(ids))) for path in paths}
