"""What llama.cpp computes with our GGUF is what our own decoder computes with the folder; and it tokenises alike."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf_models import CASES, build

from edgetune.architecture.load import load_model
from edgetune.architecture.transformer import logits
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.ops import Row
from edgetune.export.gguf_file import write_gguf
from edgetune.llamacpp import LlamaChild
from edgetune.text.tokenizer import load_tokenizer

LENGTH, WINDOW = 100, 32
TEXTS = [
    "hello  world",
    " the cat's 1984",
    "é 你好 🚀\n\n\tx",
    "It'LL don'T",
    "",
    "<think> a",
    "\n \n",
    "3.14 10000 ½",
    "ÀÉ한국",
]
pytestmark = pytest.mark.slow


def log_probabilities(table: np.ndarray) -> np.ndarray:
    wide = table.astype(np.float64) - table.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.asset.startswith("tokenizers")])
def test_the_same_log_probabilities_and_token_ids(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assets = request.getfixturevalue("assets") if CASES[name].asset else None
    folder = tmp_path / "model"
    build(name, folder, assets)
    file = write_gguf(folder, tmp_path / "x.gguf", "F32").path
    length = WINDOW if "window" in name else LENGTH
    ids = np.random.default_rng(1).integers(3, 300, length).astype(np.int32)
    row = Row(ids, np.full(length, -1, np.int32), ((0, length),))
    expected = log_probabilities(logits(NumpyOps({}), load_model(folder), row, np.arange(length)))
    tokenizer = load_tokenizer(folder)
    with LlamaChild(file, context=128, threads=1, gpu_layers=0, cache_type="f32") as child:
        found = child.score(ids.tolist(), range(length))
        for text in TEXTS:
            assert child.tokenize(text, add_special=False, parse_special=False) == tokenizer.encode(text), text
    # llama.cpp looks its GELU up in a table of float16.
    np.testing.assert_allclose(found, expected, atol=5e-3 if name.startswith("gemma") else 1e-4)
    assert np.array_equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.asset.startswith("tokenizers")])
def test_real_tokenizers_give_the_same_ids_on_hard_texts(name: str, tmp_path: Path, assets: Path) -> None:
    build(name, tmp_path / "model", assets)
    file = write_gguf(tmp_path / "model", tmp_path / "x.gguf", "F16").path
    vectors = (assets / "tokenizers" / "llama.cpp-vectors" / "ggml-vocab-qwen2.gguf.inp").read_text("utf-8")
    naughty = json.loads((assets / "datasets" / "naughty-strings" / "blns.json").read_text("utf-8"))
    tokenizer = load_tokenizer(tmp_path / "model")
    with LlamaChild(file, vocab_only=True) as child:
        for text in [*TEXTS, *vectors.split("\n__ggml_vocab_test__\n"), *naughty]:
            assert child.tokenize(text, add_special=False, parse_special=False) == tokenizer.encode(text), text
