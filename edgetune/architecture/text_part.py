"""The text model inside of one that also sees: its config, and its tensors under the names that a text model has.

transformers 4 wrote language_model.model.X, some of its versions model.language_model.X; 5 writes the former again.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

Kept = TypeVar("Kept")

WRAPPERS = {"gemma3": "Gemma3ForCausalLM"}  # whose text part we know, and what that is alone
NAMES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
OF_BOTH = ("tie_word_embeddings", "transformers_version")  # keys beside text_config that it may leave to the whole
OF_THE_WHOLE = ("bos_token_id", "eos_token_id", "pad_token_id")  # that the whole knows better: it ends turns, too


def text_tensors(tensors: Mapping[str, Kept]) -> dict[str, Kept]:
    """The text part's, renamed. What belongs to neither part keeps its name."""
    return {text_name(name): tensor for name, tensor in tensors.items() if not name.startswith(NOT_TEXT)}


def text_name(name: str) -> str:
    """A tensor's name in a text model."""
    return next((ours + name.removeprefix(theirs) for theirs, ours in NAMES if name.startswith(theirs)), name)


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the text part alone; of a text model, its own."""
    inner = config.get("text_config")
    if config.get("model_type") not in WRAPPERS or not isinstance(inner, dict):
        return dict(config)
    left, better = ({key: config[key] for key in keys if key in config} for keys in (OF_BOTH, OF_THE_WHOLE))
    return {**left, **inner, **better, "architectures": [WRAPPERS[config["model_type"]]]}
