"""What all tests share: a tiny model of every part, isolation from this machine, and no network."""

import itertools
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: the tests' matrices are tiny

import numpy as np
import sentencepiece
from hypothesis import HealthCheck, settings
from safetensors.numpy import save_file

# A busy machine is no fault of a test; and what was found once belongs into a test of its own, not into a hidden folder.
settings.register_profile("edgetune", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgetune")

ROOT = Path(__file__).resolve().parent.parent
OURS = ("EDGETUNE_", "HF_", "HUGGING", "NO_COLOR", "COLUMNS", "FORCE_COLOR")
CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCES = [
    f"{subject} {verb} the {adjective} {noun}{end}"
    for subject in ("I", "You", "My sister", "The old man", "Nobody")
    for verb in ("sees", "likes", "paints", "asks about", "has never met")
    for adjective in ("red", "small", "quiet", "seven")
    for noun in ("house", "bird", "garden", "question")
    for end in (".", "?", ", and then it rains.")
]


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet, one after the other. `mktemp` would look through all that are there for each."""
    parent = tmp_path_factory.mktemp("homes")
    return (parent / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def isolated(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for every test, and none of the person's settings. Gives EDGETUNE_HOME."""
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    # EDGETUNE_REEXECUTED: a command that is run inside of pytest must not begin pytest anew
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "EDGETUNE_REEXECUTED"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TERM", "dumb")
    home = next(homes)
    home.mkdir()
    monkeypatch.setenv("EDGETUNE_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    return home


@pytest.fixture(autouse=True, scope="session")
def without_flushing() -> Iterator[None]:
    """No test cuts the power: what this process writes need not reach the disk before it goes on."""
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda descriptor: None)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def as_in_a_terminal() -> None:
    """Signals that end a program: where tests run in the background, they may have inherited ignored ones."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Any connection that would leave this machine fails the test that makes it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"a test reached for the network: {address}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real tokenizers, templates, weights and datasets, where this machine has them."""
    folder = ROOT.parent / "shared" / "assets"
    if not folder.is_dir():
        pytest.skip("the shared assets are not on this machine")
    return folder


@pytest.fixture(scope="session")
def starter() -> Path:
    """Our own starter model."""
    return ROOT / "models" / "starter"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 layers with a SentencePiece tokenizer and a chat template. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    vocab = write_tokenizer(folder)
    write_weights(folder, vocab)
    return folder


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_model`, with rows that divide into a quantiser's groups of 64. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    folder.mkdir()
    write_weights(folder, write_tokenizer(folder), dim=64, hidden=128)
    return folder


def write_tokenizer(folder: Path) -> int:
    """A byte-pair SentencePiece model with chat control tokens, and what tells of it; gives the vocabulary's size."""
    text = folder / "sentences.txt"
    text.write_text("\n".join(SENTENCES))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=400, byte_fallback=True,
        control_symbols=list(CONTROL), pad_id=-1, minloglevel=2, num_threads=1,
    )  # fmt: skip
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    ends = [pieces.eos_id(), pieces.piece_to_id("<|end|>")]
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": pieces.bos_id(), "eos_token_id": ends}))
    return pieces.vocab_size()


def write_weights(
    folder: Path, vocab: int, dim: int = 32, layers: int = 2, heads: int = 4, kv_heads: int = 2, hidden: int = 64
) -> None:
    """config.json and random float32 weights of a Llama with a tied head."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocab, "hidden_size": dim,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": hidden, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 256,
        "tie_word_embeddings": True, "hidden_act": "silu", "dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    keys = dim // heads * kv_heads
    shapes = {"q_proj": (dim, dim), "k_proj": (keys, dim), "v_proj": (keys, dim), "o_proj": (dim, dim)}
    mlp = {"gate_proj": (hidden, dim), "up_proj": (hidden, dim), "down_proj": (dim, hidden)}
    random = np.random.default_rng(0)
    tensors = {"model.embed_tokens.weight": random.normal(0, 0.3, (vocab, dim)), "model.norm.weight": np.ones(dim)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for block, kinds in (("self_attn", shapes), ("mlp", mlp)):
            for kind, shape in kinds.items():
                tensors[f"{at}.{block}.{kind}.weight"] = random.normal(0, shape[1] ** -0.5, shape)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{norm}.weight"] = 1 + random.normal(0, 0.1, dim)
    save_file(
        {name: array.astype(np.float32) for name, array in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A JSONL file of 24 short conversations."""
    file = tmp_path / "rows.jsonl"
    turns = [(f"Who {sentence.split(' ', 1)[1]}", sentence.split(" ")[0]) for sentence in SENTENCES[::12][:24]]
    lines = [
        {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]} for ask, answer in turns
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
