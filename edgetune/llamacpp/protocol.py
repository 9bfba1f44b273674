"""What the parent and the process that owns llama.cpp say to each other: one JSON object a line, in both directions.

A request is answered by any number of `Alive`, `Progress`, `Token` and `Rows`, then by exactly one other reply.
The parent sends the next request only after that one; `Stop` is the exception, it ends a `Generate` early.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

MAX_LINE = 1 << 27
BLOCK_BYTES = 1 << 24

StoppedBy = Literal["end", "length", "context", "user"]


class Request(Struct, frozen=True, kw_only=True, tag_field="do", tag=True):
    """What the parent asks for."""


class Load(Request, frozen=True):
    """Open a GGUF. `context` 0: the model's own, at most 4096. `gpu_layers` None: all where there is a GPU.

    File names are bytes here and below, because a system's file names need not be characters.
    """

    gguf: bytes
    context: Annotated[int, Meta(ge=0)] = 0
    threads: Annotated[int, Meta(ge=1)] = 1
    vocab_only: bool = False
    gpu_layers: int | None = None
    cache_type: Literal["f16", "f32"] = "f16"


class Vocabulary(Request, frozen=True):
    """The control tokens and the tokens that end a generation."""


class Tokenize(Request, frozen=True):
    """Text to token ids."""

    text: str
    add_special: bool
    parse_special: bool


class Detokenize(Request, frozen=True):
    """Token ids to text, control tokens included where `special`."""

    ids: list[int]
    special: bool


class Generate(Request, frozen=True):
    """An answer to `ids`, up to the model's own end tokens and `stop_ids`. `temperature` 0: always the likeliest."""

    ids: list[int]
    max_tokens: Annotated[int, Meta(ge=1)]
    temperature: Annotated[float, Meta(ge=0, le=100)]
    top_k: Annotated[int, Meta(ge=0)]
    top_p: Annotated[float, Meta(gt=0, le=1)]
    min_p: Annotated[float, Meta(ge=0, le=1)]
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)]
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)]
    stop_ids: list[int]


class Score(Request, frozen=True):
    """Log-probabilities over the vocabulary after each of the given positions of `ids`."""

    ids: list[int]
    positions: list[int]


class Adapt(Request, frozen=True):
    """From now on these adapters in GGUF form, with their scales, and no others, are added to the weights."""

    adapters: list[tuple[bytes, float]]


class Quantize(Request, frozen=True):
    """Write `source` again with smaller weights, as llama.cpp's file type number `file_type`."""

    source: bytes
    out: bytes
    file_type: int
    threads: Annotated[int, Meta(ge=1)]


class Stop(Request, frozen=True):
    """End the answer that is being generated, now."""


class Reply(Struct, frozen=True, kw_only=True, tag_field="is", tag=True):
    """What the child answers."""


class Alive(Reply, frozen=True):
    """Still at work on the request."""


class Progress(Reply, frozen=True):
    """A share of a load or of a quantisation."""

    done: float
    total: float


class Token(Reply, frozen=True):
    """One generated token and the whole characters that it completes."""

    id: int
    text: str


class Rows(Reply, frozen=True):
    """Some rows of a score: float32, little endian, rows by vocab."""

    data: bytes


class Loaded(Reply, frozen=True):
    """What is known of the model that is open now."""

    architecture: str
    name: str
    description: str
    parameters: int
    tensor_bytes: int
    vocab_size: int
    tokenizer: str
    context: int
    trained_context: int
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    pad_id: int | None
    adds_bos: bool
    adds_space: bool
    template: str | None
    version: str


class Ids(Reply, frozen=True):
    """The token ids of a text."""

    ids: list[int]


class Text(Reply, frozen=True):
    """The text of token ids."""

    text: str


class ControlWord(Struct, frozen=True):
    """A control token. `lstrip`, `rstrip`: the spaces beside it belong to it."""

    id: int
    lstrip: bool = False
    rstrip: bool = False


class Words(Reply, frozen=True):
    """Control tokens by their text, and every id that ends a generation."""

    control: dict[str, ControlWord]
    end_ids: list[int]


class Generated(Reply, frozen=True):
    """The end of an answer. `reused` tokens of the prompt were still in the cache."""

    tokens: int
    seconds: float
    prompt_tokens: int
    prompt_seconds: float
    reused: int
    stopped_by: StoppedBy
    end_id: int | None


class Done(Reply, frozen=True):
    """The request was carried out."""


class Failed(Reply, frozen=True):
    """The request failed, in words. `disk`: for want of room on the disk; `log`: the end of llama.cpp's own log."""

    message: str
    hint: str = ""
    disk: bool = False
    log: str = ""


AnyRequest = Load | Vocabulary | Tokenize | Detokenize | Generate | Score | Adapt | Quantize | Stop
AnyReply = Alive | Progress | Token | Rows | Loaded | Ids | Text | Words | Generated | Done | Failed
ENCODER = msgspec.json.Encoder()
REQUESTS = msgspec.json.Decoder(AnyRequest)
REPLIES = msgspec.json.Decoder(AnyReply)


def to_line(message: Request | Reply) -> bytes:
    """One JSON object and its new line."""
    return ENCODER.encode(message) + b"\n"
