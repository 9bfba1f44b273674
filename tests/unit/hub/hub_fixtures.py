"""A person's empty library and a loopback hub, for the tests of hub/ and of its faults."""

import random
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from edgetune.hub import connection
from tests.unit.hub.fake_hub import FakeHub

TOKEN = "hf_thisIsASecretOfTheTests"


@pytest.fixture
def model_files() -> dict[str, bytes]:
    """A repository with what is wanted of one, and what never is."""
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}" * 1000,
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/tools.jinja": b"{{ tools }}",
        "tokenizer.model": random.Random(1).randbytes(5_000),
        "model.safetensors": random.Random(2).randbytes(3_000_000),
        "pytorch_model.bin": b"a pickle",
        "modeling_llama.py": b"import os",
        "consolidated.safetensors": b"the same weights again",
        "onnx/config.json": b"{}",
        "README.md": b"# tiny",
        ".gitattributes": b"",
    }


@pytest.fixture
def hub(model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one repository; the library is empty."""
    server = FakeHub(model_files)
    use(server, monkeypatch)
    yield server
    server.close()


def use(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it the hub of this test and of its child processes, with a token and short pauses."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read when huggingface_hub was imported
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(connection, "PAUSES", (0.01,) * 5)
