"""Trains the starter model's SentencePiece tokenizer on its corpus, the demo's rows and a list of everyday words.

python models/starter/make_tokenizer.py --corpus DIR
"""

import argparse
import io
import json
import string
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

HERE = Path(__file__).parent
CONTROL = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
VOCABULARY = 2048
WORD_WEIGHT = 200
"""How often each everyday word is shown, so that words that the small world never says are whole pieces too."""


def messages(file: Path) -> Iterator[str]:
    """The text of every message of a JSONL file, line by line, as SentencePiece wants it."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            for message in json.loads(line)["messages"]:
                yield from message["content"].splitlines()


def everyday_words() -> Iterator[str]:
    """The words of corpus/everyday.txt as they stand in a sentence and at its beginning."""
    for word in (HERE / "corpus" / "everyday.txt").read_text("utf-8").split():
        for _ in range(WORD_WEIGHT):
            yield f"{word.capitalize()} {word}"


def texts(corpus: Path) -> Iterator[str]:
    """Everything that the tokenizer learns from."""
    yield from messages(corpus / "train.jsonl")
    yield from messages(HERE / "demo" / "train.jsonl")
    yield from everyday_words()


def train(corpus: Path) -> bytes:
    """The tokenizer.model file. BPE with byte fallback, so that any text can be encoded and decoded back."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        required_chars="".join(sorted(set(string.printable) - set(string.whitespace))),
        control_symbols=CONTROL,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def token(text: str) -> dict[str, object]:
    """How transformers describes a control token."""
    return {
        "content": text,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def write_json(name: str, value: object) -> None:
    """One of the small files beside tokenizer.model."""
    (HERE / name).write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def main() -> None:
    """Writes tokenizer.model and the files that tell transformers and llama.cpp of its control tokens."""
    parser = argparse.ArgumentParser(description="Train the starter model's tokenizer.")
    parser.add_argument("--corpus", type=Path, required=True, help="the folder that make_corpus.py wrote")
    options = parser.parse_args()
    (HERE / "tokenizer.model").write_bytes(train(options.corpus))
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "tokenizer.model"))
    control = {tokenizer.piece_to_id(text): text for text in ["<unk>", "<s>", "</s>", *CONTROL]}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(
        "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "add_prefix_space": True,
            "legacy": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 512,
            "added_tokens_decoder": {str(number): token(text) for number, text in control.items()},
            "additional_special_tokens": CONTROL,
            **named,
        },
    )
    write_json("special_tokens_map.json", {**named, "additional_special_tokens": CONTROL})
    write_json(
        "generation_config.json",
        {
            "bos_token_id": 1,
            "eos_token_id": [2, tokenizer.piece_to_id("<|end|>")],
            "do_sample": False,
            "max_new_tokens": 128,
        },
    )


if __name__ == "__main__":
    main()
