"""Writes fixtures/gguf.json: what llama.cpp's own converter makes of the model folders of gguf_models.py.

Run where torch and transformers are, with llama.cpp's sources beside (they come inside llama-cpp-python's source distribution):

    PYTHONPATH=. python tests/parity/make_gguf_fixtures.py PATH/TO/vendor/llama.cpp [ASSETS]

Only facts are kept: the keys and values, and a digest of each tensor's type, shape and bytes. The real tokenizers' cases need
the assets; the names of the tiny tokenizers' pre-tokenizers are given to the converter, which knows real ones by a hash.
"""

import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(sys.argv[1]) / "gguf-py"))
sys.path.insert(0, sys.argv[1])

import conversion
import gguf
from conversion.base import ModelBase, TextModel
from gguf_models import CASES, PRE_TOKENIZERS, build

FIXTURES = Path(__file__).parent / "fixtures"
FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
REAL_PRE = TextModel.get_vocab_base_pre


def convert(folder: Path, family: str, tokenizer: str, kind: str, out: Path) -> None:
    if tokenizer in PRE_TOKENIZERS:
        TextModel.get_vocab_base_pre = lambda self, given: tokenizer
    else:
        TextModel.get_vocab_base_pre = REAL_PRE
    model = ModelBase.from_model_architecture(json.loads((folder / "config.json").read_text())["architectures"][0])
    model(folder, getattr(gguf.LlamaFileType, FILE_TYPES[kind]), out, model_name="a title").write()


def facts(file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(file)
    metadata = {name: value(field.contents()) for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {
        tensor.name: f"{tensor.tensor_type.name} {'x'.join(map(str, tensor.shape[::-1]))} {digest(tensor.data.tobytes())}"
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}


def value(found: Any) -> Any:
    if not isinstance(found, list) or len(found) < 8:
        return found
    return f"{len(found)} {digest(json.dumps(found).encode())}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def main() -> None:
    logging.disable(logging.WARNING)
    conversion.load_all_models()
    assets = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        if case.asset and assets is None:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            build(name, folder, assets)
            found[name] = {}
            for kind in case.kinds:
                convert(folder, case.family, case.tokenizer, kind, Path(place) / "out.gguf")
                found[name][kind] = facts(Path(place) / "out.gguf")
        print(name, list(found[name]))
    (FIXTURES / "gguf.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
