"""A GGUF, open in llama.cpp: what it says of itself, and its vocabulary. Runs in the child process only."""

from collections.abc import Callable, Sequence
from ctypes import create_string_buffer
from typing import Any

from edgetune.errors import ChildFailed
from edgetune.llamacpp.log import Log
from edgetune.llamacpp.native import VERSION, lib
from edgetune.llamacpp.protocol import ControlWord, Load, Loaded, Words

TOKENIZERS = {0: "none", 1: "sentencepiece", 2: "bpe", 3: "wordpiece", 4: "unigram", 5: "rwkv", 6: "plamo2"}


class Model:
    """One model. `handle` and `vocab` are llama.cpp's pointers.

    Raises:
        ChildFailed: llama.cpp refuses the file; its own last error is the reason.
    """

    def __init__(self, load: Load, log: Log, on_progress: Callable[[float], None]):
        def progress(share: float, _: Any) -> bool:
            on_progress(share)
            return True

        lib.llama_backend_init()
        settings = lib.llama_model_default_params()
        all_layers = -1 if lib.llama_supports_gpu_offload() else 0
        settings.n_gpu_layers = all_layers if load.gpu_layers is None else load.gpu_layers
        settings.vocab_only = load.vocab_only
        settings.progress_callback = lib.llama_progress_callback(progress)
        self.handle = lib.llama_model_load_from_file(load.gguf, settings)
        if not self.handle:
            raise ChildFailed(log.reason("llama.cpp cannot open it"), hint="export or download the file again")
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.vocab_size: int = lib.llama_vocab_n_tokens(self.vocab)
        self.trained_context: int = lib.llama_model_n_ctx_train(self.handle)

    def info(self, context: int) -> Loaded:
        """What a face or a certificate wants to know of the model."""
        description = create_string_buffer(256)
        lib.llama_model_desc(self.handle, description, len(description))
        template = lib.llama_model_chat_template(self.handle, None)
        tokenizer = TOKENIZERS.get(lib.llama_vocab_type(self.vocab), "unknown")
        return Loaded(
            architecture=self.metadata("general.architecture"),
            name=self.metadata("general.name"),
            description=description.value.decode(errors="replace"),
            parameters=lib.llama_model_n_params(self.handle),
            tensor_bytes=lib.llama_model_size(self.handle),
            vocab_size=self.vocab_size,
            tokenizer=tokenizer,
            context=context,
            trained_context=self.trained_context,
            bos_id=known(lib.llama_vocab_bos(self.vocab)),
            eos_id=known(lib.llama_vocab_eos(self.vocab)),
            eot_id=known(lib.llama_vocab_eot(self.vocab)),
            pad_id=known(lib.llama_vocab_pad(self.vocab)),
            adds_bos=lib.llama_vocab_get_add_bos(self.vocab),
            adds_space=tokenizer == "sentencepiece" and self.metadata("tokenizer.ggml.add_space_prefix") != "false",
            template=None if template is None else template.decode(errors="replace"),
            version=VERSION,
        )

    def metadata(self, key: str) -> str:
        """One value of the file's metadata as text; empty where it has none."""
        buffer = create_string_buffer(1024)
        found = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if found >= 0 else ""

    def words(self) -> Words:
        """Walks the vocabulary for control tokens and end tokens."""
        control = dict[str, ControlWord]()
        for token in range(self.vocab_size):
            flags = lib.llama_vocab_get_attr(self.vocab, token)
            if flags & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN):
                text = lib.llama_vocab_get_text(self.vocab, token).decode(errors="replace")
                left, right = flags & lib.LLAMA_TOKEN_ATTR_LSTRIP, flags & lib.LLAMA_TOKEN_ATTR_RSTRIP
                control[text] = ControlWord(id=token, lstrip=bool(left), rstrip=bool(right))
        return Words(control=control, end_ids=[token for token in range(self.vocab_size) if self.ends(token)])

    def ends(self, token: int) -> bool:
        """Whether a generation is over with this token."""
        return lib.llama_vocab_is_eog(self.vocab, token)

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Text to ids, as llama.cpp's own tokenizer has it."""
        raw = text.encode()
        room = len(raw) + 16
        buffer = (lib.llama_token * room)()
        count = lib.llama_tokenize(self.vocab, raw, len(raw), buffer, room, add_special, parse_special)
        if count < 0:
            raise ChildFailed("llama.cpp cannot tokenise this text")
        return buffer[:count]

    def detokenize(self, ids: Sequence[int], special: bool) -> str:
        """Ids to text; bytes that are no characters become U+FFFD."""
        self.require_known(ids)
        return b"".join(self.piece(token, special) for token in ids).decode(errors="replace")

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes that one token adds to a running text; none for a control token unless `special`."""
        buffer = create_string_buffer(64)
        count = lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if count < 0:
            buffer = create_string_buffer(-count)
            count = lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(count, 0)]

    def require_known(self, ids: Sequence[int]) -> None:
        """Refuses ids for which llama.cpp would read past its tables."""
        unknown = next((token for token in ids if not 0 <= token < self.vocab_size), None)
        if unknown is not None:
            raise ChildFailed(f"token {unknown} is not in the model's vocabulary of {self.vocab_size}")


def known(token: int) -> int | None:
    """llama.cpp says -1 for a token that the vocabulary does not have."""
    return None if token < 0 else token
