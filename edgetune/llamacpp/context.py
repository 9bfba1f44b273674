"""Evaluates tokens with an open model: answers and scores. Runs in the child process only."""

import codecs
import time
from collections.abc import Callable, Sequence
from ctypes import c_float
from itertools import pairwise
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetune.errors import ChildFailed
from edgetune.llamacpp import protocol
from edgetune.llamacpp.batches import BATCH, OUTPUTS, common_prefix, log_softmax, parts
from edgetune.llamacpp.log import Log
from edgetune.llamacpp.model import Model
from edgetune.llamacpp.native import lib
from edgetune.llamacpp.protocol import Generate, Generated, Load, Reply, Score, StoppedBy

CHAT_CONTEXT = 4096
LARGEST_CONTEXT = 1 << 20  # beyond it llama.cpp fills all memory with its tables before it gives up
PENALTY_WINDOW = 64
F32 = 0


class Context:
    """A key-value cache of `size` tokens for one sequence; `cached` are the tokens that it holds.

    Raises:
        ChildFailed: there is not enough memory for it.
    """

    def __init__(self, model: Model, load: Load, log: Log):
        if load.context > LARGEST_CONTEXT:
            message = f"a context of {load.context:,} tokens is more than llama.cpp can prepare for"
            raise ChildFailed(message, hint=f"the model was made for {model.trained_context:,}")
        self.model, self.log = model, log
        self.cached, self.adapters = list[int](), list[Any]()
        settings = lib.llama_context_default_params()
        settings.n_ctx = load.context or min(model.trained_context, CHAT_CONTEXT)
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_outputs_max = OUTPUTS
        settings.n_threads = settings.n_threads_batch = load.threads
        if load.cache_type == "f32":
            settings.type_k = settings.type_v = F32
            settings.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.handle = lib.llama_init_from_model(model.handle, settings)
        if not self.handle:
            hint = "the model may need more memory than is free: use a smaller context or a smaller quantisation"
            raise ChildFailed(log.reason("llama.cpp cannot make a context"), hint=hint)
        self.size: int = lib.llama_n_ctx(self.handle)
        self.memory = lib.llama_get_memory(self.handle)
        self.batch = lib.llama_batch_init(BATCH, 0, 1)

    def generate(self, request: Generate, stop: Event, emit: Callable[[Reply], None]) -> Generated:
        """Streams an answer, token by token."""
        self.require_room(request.ids)
        start = time.monotonic()
        reused = self.read_prompt(request.ids, stop)
        read = time.monotonic()
        characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        tokens = 0

        def write(token: int) -> None:
            nonlocal tokens
            tokens += 1
            emit(protocol.Token(id=token, text=characters.decode(self.model.piece(token))))

        stopped_by, end_id = ("user", None) if reused is None else self.answer(request, stop, write)
        return Generated(
            tokens=tokens,
            seconds=time.monotonic() - read,
            prompt_tokens=len(request.ids),
            prompt_seconds=read - start,
            reused=reused or 0,
            stopped_by=stopped_by,
            end_id=end_id,
        )

    def answer(self, request: Generate, stop: Event, write: Callable[[int], None]) -> tuple[StoppedBy, int | None]:
        """Samples and evaluates one token after the other: why it ended, and the end token where there was one."""
        sampler = new_sampler(request, self.model.vocab_size)
        ends = frozenset(request.stop_ids)
        try:
            for left in reversed(range(request.max_tokens)):
                token = lib.llama_sampler_sample(sampler, self.handle, -1)
                if token in ends or self.model.ends(token):
                    return "end", token
                write(token)
                if stop.is_set():
                    return "user", None
                if left and len(self.cached) == self.size:
                    return "context", None
                if left:
                    self.require_decoded(self.decode([token], [0]))
            return "length", None
        finally:
            lib.llama_sampler_free(sampler)

    def score(self, request: Score, emit: Callable[[Reply], None]) -> None:
        """Emits log p(next token | ids[: position + 1]) over the vocabulary, for every position, in their order.

        The sequence is evaluated in parts that hold at most OUTPUTS asked positions: memory stays at OUTPUTS x vocab.
        """
        self.require_room(request.ids)
        positions = request.positions
        if any(a >= b for a, b in pairwise(positions)):
            raise ChildFailed("positions must rise")
        if positions and not 0 <= positions[0] <= positions[-1] < len(request.ids):
            raise ChildFailed("a position lies outside the sequence")
        self.forget_after(0)
        rows_per_line = max(1, protocol.BLOCK_BYTES // (4 * self.model.vocab_size))
        for start, stop, asked in parts(positions):
            self.require_decoded(self.decode(request.ids[start:stop], asked))
            for first in range(0, len(asked), rows_per_line):
                rows = [log_softmax(self.logits(i)) for i in asked[first : first + rows_per_line]]
                emit(protocol.Rows(data=np.stack(rows).astype("<f4").tobytes()))

    def adapt(self, adapters: Sequence[tuple[bytes, float]]) -> None:
        """Puts these adapters in the place of the present ones, which stay if one of the new ones cannot be opened.

        What the cache holds was computed with the old ones and is forgotten.
        """
        new = list[Any]()
        for path, _ in adapters:
            handle = lib.llama_adapter_lora_init(self.model.handle, path)
            if not handle:  # an object either way: a pointer that is null must be tested for its truth
                for opened in new:
                    lib.llama_adapter_lora_free(opened)
                hint = "the adapter belongs to another model, or is no adapter in GGUF form"
                raise ChildFailed(self.log.reason("llama.cpp cannot open the adapter"), hint=hint)
            new.append(handle)
        handles = (lib.llama_adapter_lora_p_ctypes * len(new))(*new)
        scales = (c_float * len(new))(*[scale for _, scale in adapters])
        self.require_decoded(lib.llama_set_adapters_lora(self.handle, handles, len(new), scales))
        for old in self.adapters:
            lib.llama_adapter_lora_free(old)
        self.adapters = new
        self.forget_after(0)

    def logits(self, i: int) -> NDArray[np.float32]:
        """(vocab) of the batch's token number `i`; llama.cpp's own memory, valid until the next decode."""
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self.handle, i), (self.model.vocab_size,))

    def read_prompt(self, ids: Sequence[int], stop: Event) -> int | None:
        """Evaluates a prompt but for what the cache already holds of it: how much that was, or None when stopped.

        The abort callback is asked between the operations of a batch, so even a slow machine stops at once.
        """

        def stopped(_: Any) -> bool:
            return stop.is_set()

        self.forget_after(min(common_prefix(self.cached, ids), len(ids) - 1))
        reused = len(self.cached)
        callback = lib.ggml_abort_callback(stopped)
        lib.llama_set_abort_callback(self.handle, callback, None)
        try:
            while len(self.cached) < len(ids) and not stop.is_set():
                part = ids[len(self.cached) : len(self.cached) + BATCH]
                code = self.decode(part, [len(part) - 1])
                if not stop.is_set():
                    self.require_decoded(code)
        finally:
            lib.llama_set_abort_callback(self.handle, lib.ggml_abort_callback(), None)
        return None if stop.is_set() else reused

    def decode(self, ids: Sequence[int], outputs: Sequence[int]) -> int:
        """Evaluates at most BATCH more tokens and keeps the logits of those numbered `outputs`: llama_decode's code."""
        batch, start = self.batch, len(self.cached)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 0
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        for i in outputs:
            batch.logits[i] = 1
        batch.n_tokens = len(ids)
        code = lib.llama_decode(self.handle, batch)
        if code == 0:
            self.cached += ids
        else:
            self.forget_after(start)
        return code

    def forget_after(self, keep: int) -> None:
        """Cuts the cache behind its first `keep` tokens; a state that cannot be cut is forgotten whole."""
        if not lib.llama_memory_seq_rm(self.memory, 0, keep, -1):
            lib.llama_memory_clear(self.memory, True)
            keep = 0
        del self.cached[keep:]

    def require_decoded(self, code: int) -> None:
        """Turns llama_decode's code into an error."""
        if code:
            raise ChildFailed(self.log.reason(f"llama.cpp cannot evaluate the tokens (code {code})"))

    def require_room(self, ids: Sequence[int]) -> None:
        """Refuses what cannot be evaluated before llama.cpp asserts it."""
        self.model.require_known(ids)
        if not ids:
            raise ChildFailed("there are no tokens to evaluate")
        if len(ids) > self.size:
            message = f"{len(ids)} tokens do not fit into a context of {self.size}"
            raise ChildFailed(message, hint="use a larger context, or a shorter text")


def new_sampler(request: Generate, vocab: int) -> Any:
    """llama.cpp's chain of samplers, in its usual order."""
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if request.repeat_penalty != 1.0:
        penalties = lib.llama_sampler_init_penalties(vocab, PENALTY_WINDOW, request.repeat_penalty, 0.0, 0.0)
        lib.llama_sampler_chain_add(chain, penalties)
    if request.temperature == 0:
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
    else:
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(request.top_k))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_p(request.top_p, 1))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_min_p(request.min_p, 1))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(request.temperature))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(request.seed))
    for token in request.ids[-PENALTY_WINDOW:]:
        lib.llama_sampler_accept(chain, token)
    return chain
