"""Answers against the right ones: the model continues each prompt, and a metric compares what it says with the reference."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from threadpoolctl import ThreadpoolController

from edgetune.adapters.attach import AdaptedModel
from edgetune.architecture.generate import Generator
from edgetune.backend.choice import NUMPY, Backend
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.errors import ConfigError, DataError
from edgetune.text.chat_template import ChatTemplate
from edgetune.text.tokenizer import Tokenizer

Message = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked, as chat messages or as plain text, and the right answer."""

    messages: Sequence[Message] | str
    reference: str
    tools: Sequence[Any] | None = None  # that the assistant may call


@dataclass(frozen=True)
class Answered:
    """A question's prompt as a person reads it, the right answer, and the model's."""

    prompt: str
    reference: str
    reply: str


def exact(replies: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The share of replies that equal the reference but for spaces around and between words, and Unicode's form."""
    equal = [plain(reply) == plain(reference) for reply, reference in zip(replies, references, strict=True)]
    return {"accuracy": sum(equal) / len(equal)}


def label(replies: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """As exact, but capitals and a mark at the end do not count: for classification."""
    equal = [bare(reply) == bare(reference) for reply, reference in zip(replies, references, strict=True)]
    return {"accuracy": sum(equal) / len(equal)}


def overlap(replies: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """chrF (Popović 2015) and BLEU, as sacrebleu computes them, from 0 to 100: for texts that may be worded freely."""
    import sacrebleu

    answers, right = list(replies), [list(references)]
    return {"chrf": sacrebleu.corpus_chrf(answers, right).score, "bleu": sacrebleu.corpus_bleu(answers, right).score}


TASKS: dict[str, Callable[[Sequence[str], Sequence[str]], dict[str, float]]] = {
    "exact": exact,
    "label": label,
    "overlap": overlap,
}


def task(name: str) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
    """The metric of a task.

    Raises:
        ConfigError: there is no task of that name.
    """
    if name not in TASKS:
        raise ConfigError(f"--task {name}: no such task", hint="there are: " + ", ".join(TASKS))
    return TASKS[name]


def plain(text: str) -> str:
    """Composed characters, single spaces."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def bare(text: str) -> str:
    """Also without capitals and without marks at the end."""
    return plain(text).casefold().rstrip(" .!?")


def answer_all(
    model: AdaptedModel,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    questions: Sequence[Question],
    *,
    workers: int,
    max_tokens: int = 128,
    on_answer: Callable[[int], None] = lambda done: None,
    backend: Backend = NUMPY,
) -> list[Answered]:
    """The model's likeliest answer to each question. `on_answer` is told how many are done.

    On NumPy every worker answers one question; MLX is touched by one thread alone, which answers them in turn.

    Raises:
        DataError: there is no question, or chat messages come without a chat template.
    """
    if not questions:
        raise DataError("no row has an answer to compare with", hint="a task needs chat rows or prompt/completion rows")
    prompts = [prompt_ids(question, tokenizer, template) for question in questions]
    new_ops = None if backend is NUMPY else backend.runner(model.parameters, 1).cached_ops
    generator = Generator(model.model, model.parameters, FoldedWeights(), new_ops)
    done = 0

    end_ids = template.end_ids if template else tokenizer.end_ids

    def answer(ids: list[int]) -> str:
        return tokenizer.decode(list(generator.stream(ids, max_tokens=max_tokens, end_ids=end_ids)))

    answered: list[Answered] = []
    with ThreadpoolController().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        replies = map(answer, prompts) if new_ops else pool.map(answer, prompts)
        for question, reply in zip(questions, replies, strict=True):
            done += 1
            on_answer(done)
            answered.append(Answered(readable(question), question.reference, reply))
    return answered


def prompt_ids(question: Question, tokenizer: Tokenizer, template: ChatTemplate | None) -> list[int]:
    """The tokens that the answer follows."""
    if isinstance(question.messages, str):
        if template is not None:
            return template.prompt([{"role": "user", "content": question.messages}])
        start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        return [*start, *tokenizer.encode(question.messages)]
    if template is None:
        raise DataError("chat rows need a chat template, the model folder has none", hint="use prompt/completion rows")
    return template.prompt(list(question.messages), tools=question.tools)


def readable(question: Question) -> str:
    """The last thing that was asked."""
    return question.messages if isinstance(question.messages, str) else str(question.messages[-1].get("content", ""))
