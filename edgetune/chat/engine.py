"""What answers: llama.cpp in its child process, or our own decoder where a model has not been exported."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgetune.adapters.attach import AdaptedModel
from edgetune.architecture.generate import Generator, Memory, Sampling
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.hardware import usable_memory
from edgetune.llamacpp import LlamaChild
from edgetune.llamacpp.protocol import StoppedBy
from edgetune.text.tokenizer import Tokenizer

OWN_CONTEXT = 4096
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Settings:
    """How an answer is drawn. Temperature 0 always takes the likeliest token."""

    max_tokens: int = 512
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Ending:
    """How an answer ended. `seconds` are those after the prompt was read."""

    tokens: int
    prompt_seconds: float
    seconds: float
    stopped_by: StoppedBy

    @property
    def tokens_per_second(self) -> float:
        """Of writing; a single token is there as soon as the prompt is read, so that counts the whole time."""
        spent = self.seconds if self.tokens > 1 else self.prompt_seconds + self.seconds
        return self.tokens / spent if spent > 0 else 0.0


class Engine(Protocol):
    """Continues token ids with text. `context`: the most tokens of prompt and answer together."""

    context: int
    ending: Ending | None  # of the last answer; None while one is being given

    def stream(self, ids: Sequence[int], settings: Settings, end_ids: Collection[int]) -> Iterator[str]:
        """The answer in pieces of whole characters; `ending` then says how it ended."""
        ...

    def stop(self) -> None:
        """Ends the answer that is being given. Safe in a signal handler."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds."""
        ...


class LlamaEngine:
    """A GGUF in llama.cpp. What it has read of a conversation it does not read again."""

    def __init__(self, child: LlamaChild):
        self.child, self.context = child, child.info.context
        self.ending: Ending | None = None

    def stream(self, ids: Sequence[int], settings: Settings, end_ids: Collection[int]) -> Iterator[str]:
        """The answer in pieces of whole characters."""
        self.ending = None
        answer = self.child.generate(
            ids,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=0.0,
            seed=settings.seed,
            stop_ids=end_ids,
        )
        for token in answer:
            yield token.text
        if end := self.child.generated:
            self.ending = Ending(end.tokens, end.prompt_seconds, end.seconds, end.stopped_by)

    def stop(self) -> None:
        """Ends the answer that is being given."""
        self.child.stop()

    def close(self) -> None:
        """Ends the child process."""
        self.child.close()


class OwnEngine:
    """A model folder, with an adapter or without, in our own decoder."""

    def __init__(self, opened: AdaptedModel, tokenizer: Tokenizer, context: int = 0):
        fits = opened.spec.parameters * FLOAT_BYTES < usable_memory() // 2
        self.generator = Generator(opened.model, opened.parameters, FoldedWeights() if fits else None)
        self.tokenizer, self.context = tokenizer, min(opened.spec.max_positions, context or OWN_CONTEXT)
        self.ending: Ending | None = None
        self.memory, self.stopped = Memory(), False

    def stream(self, ids: Sequence[int], settings: Settings, end_ids: Collection[int]) -> Iterator[str]:
        """The answer in pieces of whole characters."""
        self.ending, self.stopped = None, False
        sampling = Sampling(settings.temperature, settings.top_k, settings.top_p, settings.seed)
        text, tokens, start, read = self.tokenizer.stream(start=False), 0, time.monotonic(), None
        answer = self.generator.stream(
            ids, max_tokens=settings.max_tokens, sampling=sampling, end_ids=end_ids, memory=self.memory
        )
        for token in answer:
            read = read or time.monotonic()
            tokens += 1
            yield text.push(token)
            if self.stopped:
                break
        end = time.monotonic()
        stopped_by = "user" if self.stopped else "length" if tokens == settings.max_tokens else "end"
        self.ending = Ending(tokens, (read or end) - start, end - (read or end), stopped_by)

    def stop(self) -> None:
        """Ends the answer after the token at hand."""
        self.stopped = True

    def close(self) -> None:
        """Holds nothing that outlives it."""
