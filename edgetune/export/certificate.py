"""The certificate: proof, hop by hop, that what is handed over is what was trained.

The same held-out rows are scored by the base, by base and adapter (the reference), by the merged model, by the F16 GGUF (or
what takes its place) and by every quantisation: mean loss, Kullback-Leibler divergence from the reference, and how often the
likeliest token agrees. A hop that loses what was learned is refused.
"""

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgetune.adapters.attach import AdaptedModel
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.errors import VerificationFailed
from edgetune.files import sha256
from edgetune.llamacpp.client import LlamaChild
from edgetune.text.batches import to_row
from edgetune.text.dataset import Example
from edgetune.training.loss import trained_logits

Floats = NDArray[np.float32]
Verdict = Literal["reference", "proved", "refused"]
REFERENCE_BYTES = 400_000_000  # of the reference's log-probabilities on the disk, while hops are compared


class Limit(Struct, frozen=True):
    """How much a hop may lose: nats per token, and a share of what training gained over the base."""

    nats: float
    share_of_gain: float


EXACT = Limit(0.01, 0.05)  # casts between floats, and llama.cpp's own arithmetic
QUANTIZED = Limit(0.05, 0.30)


class Hop(Struct, frozen=True, kw_only=True):
    """One model of the chain on the held-out rows. Losses in nats per trained token."""

    name: str
    file: str = ""
    bytes: int = 0
    sha256: str = ""
    loss: float
    loss_delta: float = 0.0
    kl: float = 0.0
    top1_agreement: float = 1.0
    verdict: Verdict


class TokenCheck(Struct, frozen=True, kw_only=True):
    """Texts whose token ids the GGUF's tokenizer and that of the training were asked for."""

    texts: int
    tokens: int
    differences: list[str] = []  # the first texts whose ids differ


class EndCheck(Struct, frozen=True, kw_only=True):
    """Answers to held-out prompts: how many the reference ended by itself, and how many of those the GGUF did."""

    asked: int
    reference_ended: int
    gguf_ended: int


class TrainedOn(Struct, frozen=True, kw_only=True):
    """The adapter on the quantised weights that it was trained on. `loss_delta`: against the reference, which has floats."""

    quantize_base: str
    loss: float
    loss_delta: float
    kl: float
    top1_agreement: float


class Certificate(Struct, frozen=True, kw_only=True):
    """What was proved, of which files."""

    format: int = 1
    edgetune: str
    base: str
    held_out: bool  # False: no row was kept out of training, so rows that were trained on had to serve
    rows: int
    tokens: int
    base_loss: float
    trained_on: TrainedOn | None = None  # None: on the base as it is
    first: str = "F16"  # the floats that were proved first, and that the others were quantised from
    first_reason: str = ""  # why they are not F16
    hops: list[Hop]
    tokenizer: TokenCheck | None = None
    turn_end: EndCheck | None = None

    @property
    def refusals(self) -> list[str]:
        """Why something is not handed over; empty: everything is proved."""
        reasons = [f"{hop.name} loses {hop.loss_delta:+.3f} nats per token" for hop in self.hops if hop.verdict == "refused"]
        if self.tokenizer is not None and self.tokenizer.differences:
            reasons.append(f"the GGUF's tokenizer reads {self.tokenizer.differences[0]!r} otherwise")
        if self.turn_end is not None and self.turn_end.gguf_ended < self.turn_end.reference_ended:
            missing = self.turn_end.reference_ended - self.turn_end.gguf_ended
            reasons.append(f"{missing} of {self.turn_end.reference_ended} answers of the GGUF do not end")
        return reasons


@dataclass(frozen=True)
class Scores:
    """A model on the rows, compared with the reference."""

    loss: float
    kl: float
    top1_agreement: float


class Reference:
    """The reference's log-probabilities at every trained position of the rows, kept on the disk.

    Rows beyond what fits there are left out, the last first: `rows` are those that serve.
    """

    def __init__(self, examples: Sequence[Example], vocab: int, file: Path):
        most = max(1, REFERENCE_BYTES // (4 * vocab))
        self.rows = [to_row([example]) for example in examples]
        while len(self.rows) > 1 and sum(row.trained_tokens for row in self.rows) > most:
            self.rows.pop()
        self.tokens = sum(row.trained_tokens for row in self.rows)
        self.values = np.memmap(file, np.float32, "w+", shape=(self.tokens, vocab))
        self.targets = np.concatenate([row.targets[row.targets >= 0] for row in self.rows])

    def fill(self, blocks: Iterable[Floats]) -> Scores:
        """Writes the reference down, from blocks of log-probabilities in the rows' order."""
        done, loss = 0, 0.0
        for block in blocks:
            self.values[done : done + len(block)] = block
            loss -= picked(block, self.targets[done : done + len(block)])
            done += len(block)
        return Scores(loss / self.tokens, 0.0, 1.0)

    def compare(self, blocks: Iterable[Floats]) -> Scores:
        """Another model's log-probabilities against the reference's."""
        done, loss, divergence, agreed = 0, 0.0, 0.0, 0
        for block in blocks:
            own = self.values[done : done + len(block)]
            loss -= picked(block, self.targets[done : done + len(block)])
            divergence += float(np.sum(np.exp(own) * (own - block), dtype=float))
            agreed += int(np.count_nonzero(own.argmax(-1) == block.argmax(-1)))
            done += len(block)
        kl = divergence / self.tokens
        return Scores(loss / self.tokens, 0.0 if kl < 0 else kl, agreed / self.tokens)  # below zero by rounding only

    def loss_of(self, blocks: Iterable[Floats]) -> float:
        """The mean loss alone."""
        return self.compare(blocks).loss


@contextmanager
def reference_of(examples: Sequence[Example], vocab: int, folder: Path) -> Generator[Reference]:
    """A reference whose file is gone at the end, whatever happens."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".certificate-") as temporary:
        yield Reference(examples, vocab, Path(temporary) / "reference")


def picked(block: Floats, targets: NDArray[np.int32]) -> float:
    """The sum of the targets' log-probabilities."""
    return float(np.take_along_axis(block, targets[:, None], -1).sum(dtype=float))


def own_blocks(model: AdaptedModel, reference: Reference, workers: int, on_row: Callable[[], None]) -> Iterator[Floats]:
    """(tokens of a row, vocab) log-probabilities of our decoder, row by row."""
    runner = NumpyRunner(model.parameters, workers)
    for row in reference.rows:
        logits = trained_logits(runner, model.model, row)
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        yield logits
        on_row()


def gguf_blocks(child: LlamaChild, reference: Reference, on_row: Callable[[], None]) -> Iterator[Floats]:
    """The same of llama.cpp.

    Raises:
        VerificationFailed: its vocabulary has another size.
    """
    vocab = reference.values.shape[1]
    if child.info.vocab_size != vocab:
        message = f"the GGUF has {child.info.vocab_size} tokens, the model {vocab}"
        raise VerificationFailed(message, hint="this is not the model that was trained")
    for row in reference.rows:
        yield from child.score_blocks(row.tokens.tolist(), np.flatnonzero(row.targets >= 0).tolist())
        on_row()


def judged(name: str, scores: Scores, reference_loss: float, base_loss: float, limit: Limit, file: Path | None = None) -> Hop:
    """A hop and its verdict: what it loses must stay within the limit."""
    delta = scores.loss - reference_loss
    allowed = allowed_loss(base_loss, reference_loss, limit)
    return Hop(
        name=name,
        file=file.name if file else "",
        bytes=file.stat().st_size if file else 0,
        sha256=sha256(file) if file else "",
        loss=scores.loss,
        loss_delta=delta,
        kl=scores.kl,
        top1_agreement=scores.top1_agreement,
        verdict="proved" if delta <= allowed and np.isfinite(scores.loss) else "refused",
    )


def allowed_loss(base_loss: float, reference_loss: float, limit: Limit) -> float:
    """Nats per token that may be lost: more where training gained more."""
    return max(limit.nats, limit.share_of_gain * max(0.0, base_loss - reference_loss))
