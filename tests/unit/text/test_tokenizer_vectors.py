"""llama.cpp's own token vectors, for every tokenizer whose files are at hand."""

import json
import struct
from pathlib import Path

import pytest

from edgetune.text.tokenizer import load_tokenizer

SEPARATOR = "\n__ggml_vocab_test__\n"


def vectors(assets: Path, name: str) -> list[tuple[str, list[int]]]:
    folder = assets / "tokenizers" / "llama.cpp-vectors"
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_text("utf-8").split(SEPARATOR)
    ids = [list(map(int, line.split())) for line in (folder / f"ggml-vocab-{name}.gguf.out").read_text().splitlines()]
    assert len(texts) - len(ids) in (0, 1) and len(ids) >= 46
    return list(zip(texts, ids, strict=False))


@pytest.mark.parametrize(("name", "folder"), [("qwen2", "qwen2.5"), ("phi-3", "phi-3-mini")])
def test_official_vectors(assets: Path, name: str, folder: str) -> None:
    tokenizer = load_tokenizer(assets / "tokenizers" / folder)
    for text, ids in vectors(assets, name):
        assert tokenizer.encode(text) == ids, text


def gguf_strings(file: Path, key: str) -> list[str]:
    """An array of strings among a GGUF's metadata: its key, type 9 (array) of type 8 (string), a count, the strings."""
    data = file.read_bytes()
    at = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    kind, inner, count = struct.unpack_from("<IIQ", data, at)
    assert (kind, inner) == (9, 8)
    at += 16
    found: list[str] = []
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", data, at)
        found.append(data[at + 8 : at + 8 + size].decode())
        at += 8 + size
    return found


def test_official_vectors_of_gpt_2_from_its_gguf(assets: Path, tmp_path: Path) -> None:
    file = assets / "tokenizers" / "llama.cpp-vectors" / "ggml-vocab-gpt-2.gguf"
    tokens = gguf_strings(file, "tokenizer.ggml.tokens")
    merges = [merge.split(" ") for merge in gguf_strings(file, "tokenizer.ggml.merges")]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {text: at for at, text in enumerate(tokens)}, "merges": merges}
    document = {"version": "1.0", "added_tokens": [], "pre_tokenizer": level, "decoder": level, "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path)
    for text, ids in vectors(assets, "gpt-2"):
        assert tokenizer.encode(text) == ids, text
