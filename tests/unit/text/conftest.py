import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.tokenizer import Tokenizer, load_tokenizer

settings.register_profile("text", deadline=None, database=None, max_examples=60)  # a busy machine is no failure
settings.load_profile("text")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]"]
CORPUS = ["The bird sees a small house.", "user\nassistant\nsystem\n", "Hello, how are you? I am fine.", "  1 2 3\n\n"] * 20


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer.json with chat control tokens. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("tokenizers") / "bytes"
    folder.mkdir()
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=SPECIALS)
    library.train_from_iterator(CORPUS, trainer)
    library.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def byte_tokenizer(byte_folder: Path) -> Tokenizer:
    return load_tokenizer(byte_folder)


@pytest.fixture(scope="session")
def piece_tokenizer(tiny_model: Path) -> Tokenizer:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="session")
def chatml(byte_tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate(CHATML, byte_tokenizer)


@pytest.fixture(scope="session")
def tiny_template(tiny_model: Path, piece_tokenizer: Tokenizer) -> ChatTemplate:
    template = load_template(tiny_model, piece_tokenizer)
    assert template
    return template


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Writes a file: bytes as they are, a text as UTF-8, a list as JSON lines."""

    def written(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written
