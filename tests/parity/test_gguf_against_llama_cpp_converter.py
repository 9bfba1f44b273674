"""Our GGUF files against those of llama.cpp's own converter: every tensor bit for bit, every key but the listed ones.

fixtures/gguf.json holds the converter's facts; make_gguf_fixtures.py wrote them and says how.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from gguf_models import CASES, build

from edgetune.export.gguf_file import Kind, write_gguf
from edgetune.export.gguf_header import GgufHeader, check_gguf, read_gguf_header

FACTS: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "gguf.json").read_text("utf-8"))
# We always say what llama.cpp would otherwise assume.
ALWAYS_SAID = {
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    "attention.key_length",
    "attention.value_length",
}
# The converter looks for special tokens in tokenizer.json and config.json; we ask the SentencePiece model, too.
FROM_THE_PIECES = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id"}
# The template's end of a turn, or an end in generation_config.json, that is not the end of the text.
TURN_END = {"tokenizer.ggml.eot_token_id"}
# The converter gives every token of a converted SentencePiece model the same score, calls <unk> a control token, and leaves
# the embedding's last rows without tokens.
CONVERTED_PIECES = {"tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.tokens"}
# Not of the model, or without a meaning for it.
LEFT_OUT = {"tokenizer.ggml.add_sep_token", "general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p"}
LEFT_OUT |= {"general.sampling.penalty_repeat"}
DIFFER: dict[str, set[str]] = {
    "llama-untied-sentencepiece": FROM_THE_PIECES | TURN_END,
    "llama-converted-sentencepiece": CONVERTED_PIECES | TURN_END,
    "mistral-window": FROM_THE_PIECES | {"context_length"},  # the graph sees no window: its context ends there
    "smollm3-untied-window": {"context_length"},
    "phi3-sentencepiece": FROM_THE_PIECES,
    "gemma2": FROM_THE_PIECES | {"rope.freq_base"},  # the converter leaves it to what the graph assumes
    "gemma2-large-heads": FROM_THE_PIECES | {"rope.freq_base"},
    "gemma3": FROM_THE_PIECES,
    "gemma3-that-sees": FROM_THE_PIECES,
    "gemma3-linear-local-base": FROM_THE_PIECES,
    "phi3-window": {"context_length"},
    # The converter's key for an attention factor is not read by the llama graph; ours is.
    "llama-yarn-own-attention-factor": {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"},
    "stories260K": TURN_END,
    "phi-3-tokenizer": CONVERTED_PIECES | TURN_END,
}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def short(value: Any) -> Any:
    """A value as the fixtures have it: long lists by their digest."""
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    long = isinstance(plain, list) and len(plain) >= 8
    return f"{len(plain)} {digest(json.dumps(plain).encode())}" if long else plain


def tensor_facts(header: GgufHeader) -> dict[str, str]:
    content = header.file.read_bytes()
    return {
        name: f"{tensor.kind} {'x'.join(map(str, tensor.shape))} {digest(content[tensor.start : tensor.start + tensor.size])}"
        for name, tensor in header.tensors.items()
    }


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if CASES[name].asset else ()) for name in CASES])
def test_equal_to_the_converter(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assets = request.getfixturevalue("assets") if CASES[name].asset else None
    case = build(name, tmp_path / "model", assets)
    assert case.kinds == tuple(FACTS[name])
    for kind in get_args(Kind):
        if kind in case.kinds:
            write_gguf(tmp_path / "model", tmp_path / "out.gguf", kind, name="a title")
            header = read_gguf_header(tmp_path / "out.gguf")
            check_gguf(header)
            assert tensor_facts(header) == FACTS[name][kind]["tensors"]
            compare_metadata(name, header, FACTS[name][kind]["metadata"])


def compare_metadata(name: str, header: GgufHeader, expected: dict[str, Any]) -> None:
    ours = {key: short(value) for key, value in header.metadata.items()}
    differ = {key for key in ours.keys() | expected.keys() if ours.get(key) != expected.get(key)}
    allowed = ALWAYS_SAID | LEFT_OUT | DIFFER.get(name, set())
    surprising = {key for key in differ if key not in allowed and key.removeprefix(f"{header.architecture}.") not in allowed}
    assert {key: (ours.get(key), expected.get(key)) for key in surprising} == {}
    said = {
        key for key in differ if key in expected and key in ours and key.removeprefix(f"{header.architecture}.") in ALWAYS_SAID
    }
    assert not said, "what the converter says too must be the same"
