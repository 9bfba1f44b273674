"""llama.cpp for the rest of EdgeTune: one object per open model, every failure a `ChildFailed` with a sentence."""

import os
import stat
import struct
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgetune.errors import ChildFailed, EdgeTuneError, ModelError
from edgetune.hardware import worker_count
from edgetune.llamacpp import protocol
from edgetune.llamacpp.process import ChildProcess
from edgetune.llamacpp.protocol import AnyReply, Generated, Loaded, Request, Token, Words

QUICK_SECONDS = 120.0
STEP_SECONDS = 900.0
"""A token, a block of scores or a tensor: minutes for a big model on a slow machine, but never this long."""
STOP_SECONDS = 20.0
HEADER = struct.Struct("<4sIQQ")
SMALLEST_KEY, SMALLEST_TENSOR = 13, 24
SMALL_BYTES = 50_000_000
"""Of smaller models the threads mostly wait for each other: one is as fast, and leaves the other cores alone."""
Kind = TypeVar("Kind", bound=AnyReply)


class LlamaChild:
    """A GGUF, open in a process of its own until `close`, the end of a `with`, or the end of this process.

    `context` 0 is the model's own, at most 4096; `threads` None is one for each physical core, for small models just one;
    `gpu_layers` None is all of them where there is a GPU. Only `stop` may be called from another thread or a signal handler.

    Raises:
        ModelError: it is no GGUF file.
        ChildFailed: llama.cpp cannot open it.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        context: int = 0,
        threads: int | None = None,
        vocab_only: bool = False,
        gpu_layers: int | None = None,
        cache_type: Literal["f16", "f32"] = "f16",
        on_progress: Callable[[float], None] | None = None,
    ):
        require_gguf(gguf)
        load = protocol.Load(
            gguf=os.fsencode(gguf.absolute()),
            context=context,
            threads=threads or (worker_count() if gguf.stat().st_size > SMALL_BYTES else 1),
            vocab_only=vocab_only,
            gpu_layers=gpu_layers,
            cache_type=cache_type,
        )
        self.generating = False
        self.process = ChildProcess(gguf)
        try:
            self.process.send(load)
            while isinstance(reply := self.process.receive(QUICK_SECONDS), protocol.Progress):
                if on_progress:
                    on_progress(reply.done)
            self.info = self.expect(reply, Loaded)
        except BaseException:
            self.close()
            raise

    info: Loaded
    """What is known of the model."""
    generated: Generated | None = None
    """How the last answer ended; None while one is being generated, and when it failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self.process.close()

    def words(self) -> Words:
        """The control tokens by their text, and every id that ends a generation."""
        return self.ask(protocol.Vocabulary(), Words)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text to ids, by llama.cpp's tokenizer. `add_special`: with BOS where the model wants it."""
        return self.ask(protocol.Tokenize(text=text, add_special=add_special, parse_special=parse_special), protocol.Ids).ids

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Ids to text. `special`: control tokens included."""
        return self.ask(protocol.Detokenize(ids=list(ids), special=special), protocol.Text).text

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = 512,
        temperature: float = 0.7,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int = 0,
        stop_ids: Collection[int] = (),
    ) -> Iterator[Token]:
        """Streams an answer to a prompt of token ids; `generated` then says how it ended. `temperature` 0 is greedy.

        What the cache holds of the last prompt and answer is not evaluated again. A token's text is whole characters
        only; it may hold control bytes, which a face has to clean. Leaving the iteration early stops the child, too.
        """
        request = protocol.Generate(
            ids=list(ids),
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop_ids=sorted(stop_ids),
        )
        self.generated = None
        with self.whole():
            self.process.send(request)
            self.generating = True
            try:
                while isinstance(reply := self.process.receive(STEP_SECONDS), Token):
                    yield reply
                self.generating = False
                self.generated = self.expect(reply, Generated)
            except GeneratorExit:
                self.abandon()
            finally:
                self.generating = False

    def stop(self) -> None:
        """Ends the answer that is being generated; what it has so far still comes. Safe in a signal handler."""
        if self.generating:
            self.process.interrupt(protocol.Stop())

    def abandon(self) -> None:
        """Stops an answer that nobody reads any more and passes over the rest of it."""
        self.stop()
        with suppress(EdgeTuneError):
            while isinstance(self.process.receive(STOP_SECONDS), Token):
                pass

    def score_blocks(self, ids: Sequence[int], positions: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Some rows of `score` at a time, at most 16 MB each, for vocabularies whose whole score would not fit."""
        with self.whole():
            self.process.send(protocol.Score(ids=list(ids), positions=list(positions)))
            while isinstance(reply := self.process.receive(STEP_SECONDS), protocol.Rows):
                yield np.frombuffer(reply.data, "<f4").reshape(-1, self.info.vocab_size)
            self.expect(reply, protocol.Done)

    def score(self, ids: Sequence[int], positions: Sequence[int]) -> NDArray[np.float32]:
        """Log-probabilities (positions, vocab): row k is log p(next token | ids[: positions[k] + 1]).

        Positions must rise.
        """
        scores = np.empty((len(positions), self.info.vocab_size), np.float32)
        done = 0
        for block in self.score_blocks(ids, positions):
            scores[done : done + len(block)] = block
            done += len(block)
        if done != len(positions):
            self.confused()
        return scores

    def adapt(self, adapters: Sequence[tuple[Path, float]]) -> None:
        """Adds these GGUF adapters, each times its scale, to the weights, in the place of those that are there.

        Raises:
            ChildFailed: one cannot be used with this model; the present ones stay.
        """
        for path, _ in adapters:
            require_gguf(path)
        named = [(os.fsencode(path.absolute()), scale) for path, scale in adapters]
        self.ask(protocol.Adapt(adapters=named), protocol.Done)

    def ask(self, request: Request, kind: type[Kind]) -> Kind:
        """A question with a single answer."""
        with self.whole():
            self.process.send(request)
            return self.expect(self.process.receive(QUICK_SECONDS), kind)

    @contextmanager
    def whole(self) -> Generator[None]:
        """Ends the process where a conversation is left in the middle: the rest would be taken for the next one's."""
        try:
            yield
        except EdgeTuneError:
            raise
        except BaseException:
            self.close()
            raise

    def expect(self, reply: AnyReply, kind: type[Kind]) -> Kind:
        """The reply, if it is of the kind that the request asks for."""
        if not isinstance(reply, kind):
            self.confused()
        return reply

    def confused(self) -> NoReturn:
        """Ends a conversation in which the child's answers do not fit the questions."""
        self.close()
        raise ChildFailed("llama.cpp's process lost its place", file=self.process.subject, hint="open the model again")


def quantize(
    source: Path,
    out: Path,
    file_type: int,
    *,
    threads: int | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> None:
    """Has llama.cpp write `source` again as its file type number `file_type`. On failure part of `out` may exist.

    Raises:
        ModelError: `source` is no GGUF file.
        ChildFailed: llama.cpp refuses or dies.
        DiskFull: the disk is full.
    """
    require_gguf(source)
    request = protocol.Quantize(
        source=os.fsencode(source.absolute()),
        out=os.fsencode(out.absolute()),
        file_type=file_type,
        threads=threads or worker_count(),
    )
    process = ChildProcess(source)
    try:
        process.send(request)
        while isinstance(reply := process.receive(STEP_SECONDS), protocol.Progress):
            if on_progress:
                on_progress(reply.done, reply.total)
    finally:
        process.close()


def require_gguf(path: Path) -> None:
    """Says in words what llama.cpp would say in code, or not at all: a pipe would block it, a folder confuses it.

    Raises:
        ModelError: there is no such file, or it is no GGUF file of a version that llama.cpp reads.
    """
    hint = "a GGUF file ends in .gguf and is made by `edgetune export`"
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            what = "is a folder, not a GGUF file" if stat.S_ISDIR(facts.st_mode) else "is not a regular file"
            raise ModelError(what, file=path, hint=hint)
        with path.open("rb") as file:
            start = file.read(HEADER.size)
    except OSError as error:
        raise ModelError((error.strerror or str(error)).lower(), file=path, hint=hint) from None
    if len(start) < HEADER.size or not start.startswith(b"GGUF"):
        raise ModelError("is not a GGUF file", file=path, hint=hint)
    _, version, tensors, keys = HEADER.unpack(start)
    if version not in (2, 3):
        raise ModelError(f"is GGUF version {version}; versions 2 and 3 are read", file=path, hint="convert the model again")
    if tensors * SMALLEST_TENSOR + keys * SMALLEST_KEY > facts.st_size:
        raise ModelError("is cut short or damaged: it is smaller than its own header", file=path, hint="get it again")
