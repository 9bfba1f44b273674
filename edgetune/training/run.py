"""A run while it happens: the model, what is trained, where it stands, and what can be done with it."""

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from edgetune.adapters.lora import LoraAdapter
from edgetune.architecture.generate import Generator
from edgetune.architecture.transformer import Model
from edgetune.backend.launch import rank
from edgetune.backend.ops import Row
from edgetune.backend.runner import Arrays, Optimizer, Play, Runner, copy_into
from edgetune.config import RunConfig
from edgetune.errors import ConfigError, VerificationFailed
from edgetune.events import CheckpointSaved, Event, SampleWritten, StepFinished, StepSkipped, ValidationFinished
from edgetune.hardware import peak_memory
from edgetune.text.batches import to_row
from edgetune.text.chat_template import ChatTemplate
from edgetune.text.dataset import Example
from edgetune.text.tokenizer import Tokenizer
from edgetune.training import checkpoint
from edgetune.training.checkpoint import TrainingState
from edgetune.training.loss import mean_loss, row_loss
from edgetune.training.order import StepOrder
from edgetune.training.prefix import PrefixCache, Start
from edgetune.training.schedule import rate_at

SAMPLE_TOKENS = 120
SKIPS_ALLOWED = 2  # updates in a row that may be skipped for numbers that are not finite
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
    rates: list[float] = field(default_factory=lambda: list[float]())  # tokens per second of each step of this process

    @cached_property
    def loss(self) -> Play:
        """What is played of each row."""
        return row_loss(self.model, self.recompute, self.start)

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
            VerificationFailed: that happened three times in a row; the last good checkpoint stays.
        """
        started, step, training = time.monotonic(), self.step, self.config.training
        sequences = self.order.step(step)
        rows = [to_row([self.examples[index] for index in sequence]) for sequence in sequences]
        loss, gradients = self.runner.loss_and_gradients(self.loss, rows, training.seed, step)
        norm = self.optimizer.norm(gradients)
        if not np.isfinite(loss) or not np.isfinite(norm):
            return self.skip(f"the loss is {loss:.4g}, the length of its gradient {norm:.4g}", sequences)
        rate = rate_at(step, self.total_steps, training)
        scale = min(1.0, training.clip / (norm + 1e-6)) if training.clip else 1.0
        self.optimizer.update(gradients, rate, scale)
        seconds = time.monotonic() - started
        tokens = sum(len(row.tokens) for row in rows)
        self.rates.append(tokens / seconds)
        self.note(
            step=step + 1,
            updates=self.optimizer.updates,
            tokens=self.state.tokens + tokens,
            seconds=self.state.seconds + seconds,
            skipped_in_row=0,
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
        )

    @property
    def start(self) -> Start | None:
        """What gives a row's stream after the frozen layers, where it is kept."""
        return self.prefix.start if self.prefix else None

    def skip(self, reason: str, sequences: Sequence[tuple[int, ...]]) -> StepSkipped:
        """Leaves everything as it is and goes on, if it did not happen too often and something was or can still be learned."""
        rows = [f"{self.examples[index].file}:{self.examples[index].line}" for sequence in sequences for index in sequence]
        skipped = self.state.skipped_in_row + 1
        is_last_chance = self.step + 1 == self.total_steps and not self.state.updates
        if skipped > SKIPS_ALLOWED or is_last_chance:
            message = f"step {self.step + 1}: {reason}, {skipped} times in a row; rows {', '.join(rows[:5])}"
            raise VerificationFailed(
                message, hint="lower training.rate, or look at these rows; the last good checkpoint is kept"
            )
        self.note(step=self.step + 1, skipped_in_row=skipped)
        return StepSkipped(step=self.step, reason=reason, rows=rows)

    # ---- looking -----------------------------------------------------------------------------------------------------

    def is_due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def validate(self) -> Iterator[Event]:
        """The loss on the held-out rows, then the samples. The state remembers the best."""
        if self.valid_rows:
            started = time.monotonic()
            loss, tokens = mean_loss(self.runner, self.model, self.valid_rows, self.start)
            best = self.state.best_loss is None or loss < self.state.best_loss
            if best:
                self.note(best_step=self.step, best_loss=loss, stale_validations=0)
            else:
                self.note(stale_validations=self.state.stale_validations + 1)
            yield ValidationFinished(step=self.step, loss=loss, tokens=tokens, seconds=time.monotonic() - started, best=best)
        yield from self.samples(self.config.checks.samples)

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

    def save(self) -> CheckpointSaved:
        """Writes a checkpoint of this step."""
        started = time.monotonic()
        if not self.valid_rows:
            self.note(best_step=self.step)
        if self.prefix:
            self.prefix.flush()
        folder = checkpoint.save(self.folder, self.state, self.parameters, self.optimizer.arrays(), self.config.checks.keep)
        return CheckpointSaved(step=self.step, folder=str(folder), seconds=time.monotonic() - started)

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
        return checkpoint.read(checkpoint.folder_of(self.folder, self.state.best_step)).parameters

    @property
    def train_loss(self) -> float:
        """The mean loss of the last steps."""
        return statistics.fmean(self.state.recent_losses) if self.state.recent_losses else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """The median over the steps of this process."""
        return statistics.median(self.rates) if self.rates else 0.0
