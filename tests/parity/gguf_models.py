"""Tiny model folders, the same on every machine: weights from raw random bits, tokenizers written piece by piece."""

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from edgetune.architecture.load import parameter_shapes
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder, save_safetensors, stored_as
from edgetune.text.byte_level import BYTE_OF

TEXT = """the cat sat on the mat and the dog ran to the house in 1984 and 2026 what's it to you? it's the end, isn't it
hello world, this is a small tokenizer that knows small words and the numbers 10 100 1000 of the people who said hello"""
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    TEKKEN.replace(r"\p{Ll}\p{Lm}\p{Lo}\p{M}]+", r"\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?")
    .replace(r"\p{Ll}\p{Lm}\p{Lo}\p{M}]*", r"\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?")
    .replace(r"|\p{N}|", r"|\p{N}{1,3}|")
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level_step(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split_step(expression: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level_step(False)]}


class PreTokenizer(NamedTuple):
    steps: dict[str, Any]
    ignore_merges: bool = False


PRE_TOKENIZERS = {
    "llama-bpe": PreTokenizer(split_step(LLAMA3), True),
    "smaug-bpe": PreTokenizer(split_step(LLAMA3)),
    "qwen2": PreTokenizer(split_step(QWEN2)),
    "tekken": PreTokenizer(split_step(TEKKEN), True),
    "gpt-4o": PreTokenizer(split_step(GPT4O)),
    "gpt-2": PreTokenizer(byte_level_step(True)),
    "smollm": PreTokenizer(
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level_step(True)]}
    ),
}


def merges_of(words: Sequence[Sequence[str]], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent pairs, one after the other: how BPE is trained. Ties go to the smaller pair."""
    pieces = [list(word) for word in words]
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs = Counter(pair for word in pieces for pair in pairwise(word))
        left, right = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append((left, right))
        for word in pieces:
            for at in range(len(word) - 1, 0, -1):
                if word[at - 1 : at + 1] == [left, right]:
                    word[at - 1 : at + 1] = [left + right]
    return merges


def added(id_: int, content: str, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, **flags, "special": special}


def write_byte_level(
    folder: Path,
    pre: str,
    extra: Mapping[str, bool],
    names: Mapping[str, str],
    template: str = "",
    kind: str = "PreTrainedTokenizerFast",
) -> int:
    """tokenizer.json over bytes, as Llama 3 and Qwen have it; `extra` are added tokens. Gives 1 + the highest id."""
    letters = {byte: letter for letter, byte in BYTE_OF.items()}
    words = [[letters[byte] for byte in (" " * (at > 0) + word).encode()] for at, word in enumerate(TEXT.split(" "))]
    merges = merges_of(words, 60)
    vocab = [letters[byte] for byte in range(256)] + list(dict.fromkeys(left + right for left, right in merges))
    tokens = [added(len(vocab) + at, text, special) for at, (text, special) in enumerate(extra.items())]
    steps = PRE_TOKENIZERS[pre]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    model |= {"ignore_merges": steps.ignore_merges, "vocab": {text: id_ for id_, text in enumerate(vocab)}, "merges": merges}
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None}
    document |= {"pre_tokenizer": steps.steps, "post_processor": None, "decoder": byte_level_step(True), "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    write_tokenizer_config(folder, kind, names, tokens, template)
    return len(vocab) + len(tokens)


def write_tokenizer_config(
    folder: Path, kind: str, names: Mapping[str, str], tokens: Sequence[Mapping[str, Any]], template: str, **more: Any
) -> None:
    decoder = {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}
    config = {"tokenizer_class": kind, **names, "added_tokens_decoder": decoder, **more}
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def pieces() -> list[tuple[str, float, int]]:
    """A SentencePiece BPE vocabulary: text, score, type."""
    words = [["▁", *word] for word in TEXT.split()]
    made = list(dict.fromkeys([*(left + right for left, right in merges_of(words, 60)), "he", "th", "nd", "▁th", "ll"]))
    letters = sorted({letter for word in words for letter in word})
    listed = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256))]
    return [*listed, *((text, -float(rank), 1) for rank, text in enumerate([*made, *letters]))]


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer's message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def write_sentencepiece(
    folder: Path, extra: Mapping[str, bool], template: str = "", model: bool = True, prefix: bool = True
) -> int:
    """tokenizer.model, or the tokenizer.json that it becomes in transformers; `extra` are added tokens, `prefix` is the space
    before a text."""
    entries = pieces()
    tokens = [added(len(entries) + at, text, special) for at, (text, special) in enumerate(extra.items())]
    listed = [added(id_, entries[id_][0]) for id_ in range(3)]
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_tokenizer_config(
        folder, "LlamaTokenizer", names, [*listed, *tokens], template, add_bos_token=True, add_eos_token=False
    )
    if model:
        content = b"".join(
            field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in entries
        )
        rules = field(1, b"identity") + field(3, int(prefix)) + field(4, 0)
        (folder / "tokenizer.model").write_bytes(content + field(2, field(3, 2) + field(35, 1)) + field(3, rules))
    else:
        write_converted(folder, entries, [*listed, *tokens], prefix)
    return len(entries) + len(tokens)


def write_converted(
    folder: Path, entries: Sequence[tuple[str, float, int]], tokens: Sequence[Mapping[str, Any]], prefix: bool
) -> None:
    """A SentencePiece model as tokenizer.json, Llama's or Gemma's: every pair that makes a piece becomes a merge, best score
    first."""
    vocab = {text: id_ for id_, (text, _, _) in enumerate(entries)}
    ranked = sorted((text for text, _, kind in entries if kind == 1), key=lambda text: -entries[vocab[text]][1])
    merges = [[t[:at], t[at:]] for t in ranked for at in range(1, len(t)) if t[:at] in vocab and t[at:] in vocab]
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    split = {"type": "Split", "invert": False}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(tokens),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
        if prefix
        else replace,
        "pre_tokenizer": None if prefix else {**split, "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {**model, "vocab": vocab, "merges": merges},
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))


def random_values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Numbers between -1/8 and 1/8 from raw random bits, which NumPy promises never to change."""
    count = math.prod(shape)
    raw = np.random.PCG64(seed).random_raw((count + 3) // 4).view(np.uint16)[:count]
    return ((raw.astype(np.float32) - 32768) / 262144).reshape(shape)


def write_weights(folder: Path, dtype: str, shards: int = 1) -> None:
    """Every parameter that config.json asks for; norms are around one."""
    spec = read_spec(folder)
    shapes = parameter_shapes(spec)
    names = list(shapes)
    files: dict[str, list[str]] = {"model.safetensors": names}
    if shards > 1:
        files = {f"model-{at + 1:05}-of-{shards:05}.safetensors": names[at::shards] for at in range(shards)}
        index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def data(name: str) -> np.ndarray:
        values = random_values(shapes[name], names.index(name))
        offset = 1 - spec.norm_offset if name.endswith("norm.weight") else 0
        return stored_as(values + np.float32(offset), dtype)

    for file, held in files.items():
        (folder / file).unlink(missing_ok=True)
        save_safetensors(folder / file, [(name, dtype, shapes[name]) for name in held], data, {"format": "pt"})


CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def write_config(folder: Path, family: str, vocab: int, **changes: Any) -> None:
    config = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))


class Case(NamedTuple):
    """A model folder and the GGUF types it is compared in. `asset`: a real tokenizer's folder, where this machine has it."""

    family: str
    tokenizer: str  # a pre-tokenizer's name, "sentencepiece", "converted", or "asset"
    dtype: str
    kinds: tuple[str, ...]
    config: Mapping[str, Any] = MappingProxyType({})
    asset: str = ""
    shards: int = 1
    padding: int = 0  # rows of the embedding that no token has
    sees: bool = False  # a multimodal model, whose text part this is


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GRANITE = {"embedding_multiplier": 12.0, "attention_multiplier": 0.125, "residual_multiplier": 0.22, "logits_scaling": 6.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0],
        "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 9.0],
    },
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 24, "tie_word_embeddings": True}
GEMMA2 = {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
GEMMA3 = {**GEMMA, "rope_theta": 1e6}
WIDE = {"head_dim": 32, "query_pre_attn_scalar": 32}
ALL = ("F32", "F16", "BF16", "Q8_0")
CASES = {
    "llama-untied-sentencepiece": Case("llama", "sentencepiece", "F32", ALL),
    "llama-tied-llama3-rope": Case(
        "llama", "llama-bpe", "BF16", ALL, {"tie_word_embeddings": True, "rope_scaling": LLAMA3_SCALING, "head_dim": 32}
    ),
    "llama-linear-rope-biases": Case(
        "llama",
        "smollm",
        "F16",
        ("F32", "F16", "BF16"),
        {
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "llama-yarn-own-attention-factor": Case(
        "llama", "gpt-2", "BF16", ("F16",), {"rope_scaling": {**YARN, "attention_factor": 1.5}}
    ),
    "llama-odd-width": Case("llama", "smaug-bpe", "BF16", ("Q8_0",), {"intermediate_size": 72}),
    "llama-converted-sentencepiece": Case("llama", "converted", "F32", ("F16",)),
    "mistral-window": Case("mistral", "sentencepiece", "BF16", ("BF16",), {"sliding_window": 32, "head_dim": 8}),
    "mistral-tekken": Case("mistral", "tekken", "BF16", ("BF16",), {"sliding_window": None, "head_dim": 32}),
    "qwen2-tied": Case("qwen2", "qwen2", "BF16", ALL, {"tie_word_embeddings": True, "rope_theta": 1e6}, padding=9),
    "qwen2-untied-shards": Case("qwen2", "qwen2", "F32", ("F16",), {"use_sliding_window": False}, shards=3),
    "qwen3-yarn": Case(
        "qwen3",
        "qwen2",
        "BF16",
        ("BF16", "Q8_0"),
        {"head_dim": 32, "tie_word_embeddings": True, "rope_parameters": {**YARN, "rope_theta": 1e6}},
    ),
    "qwen3-untied": Case("qwen3", "qwen2", "F16", ("F16",), {"head_dim": 16}),
    "smollm3-tied": Case(
        "smollm3",
        "smaug-bpe",
        "BF16",
        ("BF16", "Q8_0"),
        {"tie_word_embeddings": True, "num_hidden_layers": 5, "rope_theta": 5e6},
    ),
    "smollm3-untied-window": Case(
        "smollm3",
        "llama-bpe",
        "F32",
        ("F16",),
        {"num_hidden_layers": 4, "head_dim": 32, "use_sliding_window": True, "sliding_window": 32},
    ),
    "granite-tied": Case("granite", "smollm", "BF16", ALL, {**GRANITE, "tie_word_embeddings": True}),
    "granite-biases": Case(
        "granite",
        "gpt-2",
        "F16",
        ("F16",),
        {**GRANITE, "attention_bias": True, "mlp_bias": True, "rope_theta": 5e5},
    ),
    "phi3-sentencepiece": Case("phi3", "sentencepiece", "BF16", ALL, {"original_max_position_embeddings": 256}),
    "phi3-window": Case("phi3", "gpt-4o", "F32", ("F16",), {"sliding_window": 32, "original_max_position_embeddings": 256}),
    "phi3-longrope-short": Case(  # llama.cpp makes every context a multiple of 256, and asks how long that is
        "phi3",
        "gpt-4o",
        "BF16",
        ("BF16",),
        {**LONGROPE, "original_max_position_embeddings": 256, "max_position_embeddings": 1024},
    ),
    "phi3-longrope-long": Case(
        "phi3",
        "gpt-4o",
        "BF16",
        ("BF16", "Q8_0"),
        {**LONGROPE, "original_max_position_embeddings": 64, "tie_word_embeddings": True},
    ),
    "gemma2": Case("gemma2", "sentencepiece", "BF16", ALL, GEMMA2),
    "gemma2-large-heads": Case("gemma2", "sentencepiece", "F32", ("F16",), {**GEMMA2, "num_hidden_layers": 3, **WIDE}),
    "gemma3": Case("gemma3_text", "sentencepiece", "BF16", ALL, {**GEMMA3, "num_hidden_layers": 7}),
    "gemma3-that-sees": Case("gemma3_text", "sentencepiece", "BF16", ("F16", "BF16"), GEMMA3, sees=True),
    "gemma3-linear-local-base": Case(
        "gemma3_text",
        "sentencepiece",
        "F32",
        ("F16",),
        {
            **GEMMA3,
            **WIDE,
            "num_hidden_layers": 6,
            "final_logit_softcapping": 5.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 500.0,
        },
    ),
    # Its converter takes a tokenizer.json for a byte-level one.
    "gemma3-converted-all-layers-see-all": Case(
        "gemma3_text", "converted", "BF16", (), {**GEMMA3, "layer_types": ["full_attention"] * 2}
    ),
    "stories260K": Case("llama", "asset", "F32", ALL, asset="weights/stories260K-hf"),
    "qwen2.5-tokenizer": Case(
        "qwen2",
        "asset",
        "BF16",
        ("F16",),
        {"vocab_size": 151936, "hidden_size": 32, "bos_token_id": 151643, "eos_token_id": 151645},
        asset="tokenizers/qwen2.5",
    ),
    "smollm2-tokenizer": Case("llama", "asset", "BF16", ("F16",), {"vocab_size": 49152}, asset="tokenizers/smollm2"),
    "mistral-tokenizer": Case("mistral", "asset", "BF16", ("F16",), {"vocab_size": 32000}, asset="tokenizers/mistral-7b-v0.1"),
    "phi-3-tokenizer": Case("llama", "asset", "BF16", ("F16",), {"vocab_size": 32064}, asset="tokenizers/phi-3-mini"),
}


def build(name: str, folder: Path, assets: Path | None) -> Case:
    """Writes the model folder of a case."""
    case = CASES[name]
    folder.mkdir(parents=True)
    chat = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<think>": False}
    if case.asset:
        assert assets is not None
        for file in (assets / case.asset).iterdir():
            if file.suffix in (".json", ".model") and not file.name.startswith("config"):
                (folder / file.name).write_bytes(file.read_bytes())
        if case.asset.startswith("weights"):
            for file in ("config.json", "model.safetensors"):
                (folder / file).write_bytes((assets / case.asset / file).read_bytes())
            return case
        write_config(folder, case.family, 0, **{"eos_token_id": 2, **case.config})
    else:
        if case.tokenizer in ("sentencepiece", "converted"):
            extra = chat if case.family == "llama" else {}
            prefix = not case.family.startswith("gemma")
            size = write_sentencepiece(folder, extra, CHATML if extra else "", case.tokenizer == "sentencepiece", prefix)
        else:
            names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
            kind = "GPT2Tokenizer" if case.family == "phi3" else "PreTrainedTokenizerFast"  # by which its converter knows it
            size = write_byte_level(folder, case.tokenizer, chat, names, CHATML, kind)
        write_config(folder, case.family, size + case.padding, **case.config)
    write_weights(folder, case.dtype, case.shards)
    if case.sees:
        wrap(folder)
    return case


def wrap(folder: Path) -> None:
    """Makes a text model's folder that of a model which also sees, as transformers writes it."""
    text = json.loads((folder / "config.json").read_text())
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 1}
    (folder / "config.json").write_text(json.dumps({**outer, "text_config": text, "vision_config": vision}))
    weights = WeightFolder(folder)
    arrays = {f"language_model.{name}": np.array(weights.raw(name)) for name in weights.tensors}
    arrays["vision_tower.embeddings.patch_embedding.bias"] = np.zeros(16, np.uint16)
    arrays["multi_modal_projector.mm_soft_emb_norm.weight"] = np.ones(16, np.uint16)
    types = [(name, "BF16", array.shape) for name, array in arrays.items()]
    (folder / "model.safetensors").unlink()
    save_safetensors(folder / "model.safetensors", types, lambda name: arrays[name])
