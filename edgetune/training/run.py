"""A run while it happens: the model, what is trained, where it stands, and what can be done with it."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from edgetune.adapters.lora import LoraAdapter
from edgetune.architecture.generate import Generator
from edgetune.architecture.transformer import Model
from edgetune.backend.choice import NUMPY
from edgetune.backend.launch import rank
from edgetune.backend.ops import Row
from edgetune.backend.runner import Arrays, Optimizer, Play, Runner, copy_into
from edgetune.config import RunConfig
from edgetune.errors import ConfigError
from edgetune.events import (
    CheckpointSaved,
    Diverged,
    Event,
    RolledBack,
    SampleWritten,
    StepFinished,
    ValidationFinished,
    Warned,
)
from edgetune.hardware import peak_memory
from edgetune.text.batches import to_row
from edgetune.text.chat_template import ChatTemplate
from edgetune.text.dataset import Example
from edgetune.text.tokenizer import Tokenizer
from edgetune.training import checkpoint, recovery
from edgetune.training.checkpoint import TrainingState
from edgetune.training.loss import mean_loss, row_loss
from edgetune.training.order import StepOrder
from edgetune.training.pace import Work, work_of
from edgetune.training.prefix import PrefixCache, Start
from edgetune.training.schedule import rate_at

SAMPLE_TOKENS = 120
CHECKPOINT_TEXT = 100_000  # bytes of a checkpoint that are no arrays, at most
DIVERGED = 0.5  # nats, and as a share of the best loss, above which a held-out loss is no mere unrest
RECENT = 20  # losses that the final training loss is the mean of


@dataclass
class Run:
    """Everything that the loop asks for. The runner holds what is trained, the optimiser changes it there."""

    config: RunConfig
    folder: Path
    adapter: LoraAdapter | None  # as it was at the beginning; None: the whole model is trained
    model: Model
    runner: Runner
    optimizer: Optimizer
    order: StepOrder
    examples: Sequence[Example]
    valid_rows: Sequence[Row]
    state: TrainingState
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    recompute: bool
    prefix: PrefixCache | None = None
    clock: Callable[[], float] = time.monotonic  # stands still while the machine sleeps, or the process is held
    rates: list[float] = field(default_factory=lambda: list[float]())  # tokens per second of each step of this process
    pace: float = 0.0  # work per second of the last step
    step_seconds: float = 0.0  # of the last step
    rested: float = 0.0  # seconds since then
    held: dict[int, Arrays] = field(default_factory=lambda: dict[int, Arrays]())  # the best, while no disk takes it

    @cached_property
    def loss(self) -> Play:
        """What is played of each row."""
        return row_loss(self.model, self.recompute, self.start)

    @cached_property
    def work(self) -> Work:
        """What makes steps with other rows comparable."""
        return work_of(self.model)

    @property
    def parameters(self) -> Arrays:
        """What is trained, as it is now."""
        return self.runner.trained()

    @property
    def peak_memory(self) -> int:
        """The most bytes that this process, or the backend, ever had in memory."""
        return max(peak_memory(), self.runner.peak_memory())

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.state.step

    @property
    def total_steps(self) -> int:
        """How many steps there are."""
        return self.order.total

    def note(self, **changes: object) -> None:
        """Replaces fields of the state."""
        self.state = msgspec.structs.replace(self.state, **changes)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def learn(self) -> Event:
        """One optimiser update, or none where the loss or a gradient is not finite.

        Raises:
            VerificationFailed: that happened three times in a row, again after the run was taken back (recovery.py).
        """
        started, step, training = self.clock(), self.step, self.config.training
        sequences = self.order.step(step)
        rows = [to_row([self.examples[index] for index in sequence]) for sequence in sequences]
        loss, gradients = self.runner.loss_and_gradients(self.loss, rows, training.seed, step)
        norm = self.optimizer.norm(gradients)
        if not np.isfinite(loss) or not np.isfinite(norm):
            return recovery.skip(self, f"the loss is {loss:.4g}, the length of its gradient {norm:.4g}", rows, sequences)
        rate = rate_at(step, self.total_steps, training) * self.state.rate_factor
        scale = min(1.0, training.clip / (norm + 1e-6)) if training.clip else 1.0
        self.optimizer.update(gradients, rate, scale)
        seconds = max(self.clock() - started, 1e-9)
        tokens = sum(len(row.tokens) for row in rows)
        self.rates.append(tokens / seconds)
        self.pace, self.step_seconds, rested, self.rested = self.work.of(rows) / seconds, seconds, self.rested, 0.0
        self.note(
            step=step + 1,
            updates=self.optimizer.updates,
            tokens=self.state.tokens + tokens,
            seconds=self.state.seconds + seconds,
            skipped_in_row=0,
            skipped_rows=[],
            recent_losses=[*self.state.recent_losses, loss][-RECENT:],
        )
        return StepFinished(
            step=step + 1,
            loss=loss,
            rate=rate,
            gradient_norm=norm,
            tokens=tokens,
            trained_tokens=sum(row.trained_tokens for row in rows),
            seconds=seconds,
            memory_bytes=self.peak_memory,
            rested_seconds=rested,
        )

    @property
    def start(self) -> Start | None:
        """What gives a row's stream after the frozen layers, where it is kept."""
        return self.prefix.start if self.prefix else None

    def save_memory(self) -> bool:
        """Makes activations again in the backward from now on, where that gives the same bits; whether this was news."""
        if self.recompute or self.state.backend != NUMPY.name:
            return False
        self.recompute = True
        self.__dict__.pop("loss", None)
        return True

    # ---- looking -----------------------------------------------------------------------------------------------------

    @property
    def is_finite(self) -> bool:
        """Whether everything that is trained is a number."""
        return all(bool(np.isfinite(array).all()) for array in self.parameters.values())

    def is_due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def validate(self) -> Iterator[Event]:
        """The loss on the held-out rows, then the samples. The state remembers the best."""
        if self.valid_rows:
            started = self.clock()
            loss, tokens = mean_loss(self.runner, self.model, self.valid_rows, self.start)
            yield from self.judge(loss, tokens, self.clock() - started)
        yield from self.samples(self.config.checks.samples)

    def judge(self, loss: float, tokens: int, seconds: float) -> Iterator[Event]:
        """Whether a held-out loss is the best so far, or tells that the run diverges."""
        if not np.isfinite(loss):
            self.note(stale_validations=self.state.stale_validations + 1)
            yield Warned(message=f"the loss on the held-out rows is {loss} after step {self.step}", hint="see training.rate")
            return
        before, best_step = self.state.best_loss, self.state.best_step
        best = before is None or loss < before
        if best:
            self.note(best_step=self.step, best_loss=loss, stale_validations=0)
        else:
            self.note(stale_validations=self.state.stale_validations + 1)
        yield ValidationFinished(step=self.step, loss=loss, tokens=tokens, seconds=seconds, best=best)
        was_diverged = self.state.is_diverged
        self.note(is_diverged=before is not None and loss > before + DIVERGED * max(1.0, before))
        if before is not None and self.state.is_diverged and not was_diverged:
            yield Diverged(step=self.step, loss=loss, best_loss=before, best_step=best_step)

    def samples(self, prompts: Iterable[str]) -> Iterator[Event]:
        """Answers of the model as it is now; a run without a tokenizer has none."""
        for prompt in prompts if self.tokenizer else ():
            yield SampleWritten(step=self.step, prompt=prompt, reply=self.answer(prompt))

    def answer(self, prompt: str) -> str:
        """What the model as it is now says to a prompt, without chance."""
        assert self.tokenizer is not None
        if self.template is not None:
            ids = self.template.prompt([{"role": "user", "content": prompt}])
        else:
            start = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
            ids = [*start, *self.tokenizer.encode(prompt)]
        end_ids = self.template.end_ids if self.template else self.tokenizer.end_ids
        generator = Generator(self.model, {}, new_ops=self.runner.cached_ops)
        return self.tokenizer.decode(list(generator.stream(ids, max_tokens=SAMPLE_TOKENS, end_ids=end_ids)))

    @property
    def is_stale(self) -> bool:
        """Whether the validations have not become better for longer than the config's patience."""
        return 0 < self.config.checks.patience <= self.state.stale_validations

    # ---- keeping -----------------------------------------------------------------------------------------------------

    def save(self) -> CheckpointSaved | RolledBack:
        """Writes a checkpoint of this step. Weights that are no numbers are not written: the run goes back instead.

        Raises:
            DiskFull, InputError: it cannot be written; the older ones are untouched.
            VerificationFailed: the run was rolled back before.
        """
        started = self.clock()
        if not self.is_finite:
            return recovery.roll_back(self, "a trained weight is not finite", [])
        if not self.valid_rows:
            self.note(best_step=self.step)
        if self.prefix:
            self.prefix.flush()
        folder = checkpoint.save(self.folder, self.state, self.parameters, self.optimizer.arrays(), self.config.checks.keep)
        self.held.clear()
        return CheckpointSaved(step=self.step, folder=str(folder), seconds=self.clock() - started)

    @property
    def checkpoint_bytes(self) -> int:
        """What the next checkpoint takes: the trained arrays and their two moments, and what is told of them."""
        return 3 * sum(array.nbytes for array in self.parameters.values()) + CHECKPOINT_TEXT

    def hold_best(self) -> None:
        """Keeps a copy of what cannot be written now, if it is the best so far: the run is to hand it over."""
        if self.state.best_step == self.step:
            self.held = {self.step: {name: array.copy() for name, array in self.parameters.items()}}

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Puts everything back as it was when the checkpoint was written. The arrays stay where they are in memory.

        What the run is made of is what it is made of now: after a forced resume, the next one need not be forced.

        Raises:
            ValueError: the checkpoint is of other arrays.
        """
        copy_into(self.parameters, saved.parameters)
        self.runner.reload()
        self.optimizer.restore(saved.moments, saved.state.updates)
        now = {name: getattr(self.state, name) for name in checkpoint.MADE_OF}
        self.state = msgspec.structs.replace(saved.state, **now)

    def join(self) -> None:
        """Takes where the first process of a team stands: it alone reads and writes the run folder.

        Raises:
            ConfigError: this process's run is made of something else.
        """
        team = self.runner.team
        first = msgspec.json.decode(team.told(msgspec.json.encode(self.state)), type=TrainingState)
        if other := next((name for name in checkpoint.MADE_OF if getattr(first, name) != getattr(self.state, name)), None):
            raise ConfigError(
                f"{other} is not the same as in the first process", hint="use the same files, config and versions everywhere"
            )
        parameters, moments = team.arrays(self.parameters), team.arrays(self.optimizer.arrays())
        if rank():
            self.restore(checkpoint.Checkpoint(self.folder, first, parameters, moments))

    def best_parameters(self) -> Arrays:
        """What the run hands over: the parameters of its best checkpoint."""
        if self.state.best_step == self.step:
            return self.parameters
        if self.state.best_step in self.held:
            return self.held[self.state.best_step]
        return checkpoint.read(checkpoint.folder_of(self.folder, self.state.best_step)).parameters

    @property
    def train_loss(self) -> float:
        """The mean loss of the last steps."""
        return statistics.fmean(self.state.recent_losses) if self.state.recent_losses else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """The median over the steps of this process."""
        return statistics.median(self.rates) if self.rates else 0.0
