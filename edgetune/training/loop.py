"""The training loop: it yields events and does nothing else."""

from collections.abc import Generator, Iterator
from typing import Protocol

from edgetune.events import Event, RolledBack, RunStopped
from edgetune.training.run import Run


class Between(Protocol):
    """What happens to a run around its steps."""

    def between_steps(self, run: Run) -> Generator[Event, None, str]:
        """Everything that is due before the next step; gives the reason to stop, or an empty text."""
        ...

    def save(self, run: Run) -> Iterator[Event]:
        """Writes a checkpoint."""
        ...


def train(run: Run, between: Between) -> Iterator[Event]:
    """Learns from where the run stands to its end.

    A checkpoint is written before the first step, whenever it is due, and for every best validation: the best one is what
    the run hands over. Asked to stop, the loop ends after the step at hand, saved.
    """
    if run.step == 0 and run.state.best_loss is None:  # not where a run goes on from its first checkpoint
        yield from run.validate()
        yield from between.save(run)
    while run.step < run.total_steps and not run.is_stale:
        event = run.learn()
        yield event
        if not isinstance(event, RolledBack):
            yield from after_step(run, between)
        if run.step < run.total_steps and not run.is_stale and (reason := (yield from between.between_steps(run))):
            yield from between.save(run)
            yield RunStopped(step=run.step, reason=reason)
            return


def after_step(run: Run, between: Between) -> Iterator[Event]:
    """What is due after a step: a validation, a checkpoint."""
    best_before = run.state.best_step
    if run.is_due(run.config.checks.eval_every):
        yield from run.validate()
    if run.is_stale or run.is_due(run.config.checks.save_every) or run.state.best_step != best_before:
        yield from between.save(run)
