"""The training loop: it yields events and does nothing else."""

from collections.abc import Callable, Generator, Iterator

from edgetune.events import Event, RunStopped
from edgetune.training.run import Run

Between = Callable[[Run], Generator[Event, None, str]]  # what is due between two steps; gives the reason to stop, or ""


def train(run: Run, between_steps: Between) -> Iterator[Event]:
    """Learns from where the run stands to its end.

    A checkpoint is written before the first step, whenever it is due, and for every best validation: the best one is what
    the run hands over. Asked to stop, the loop ends after the step at hand, saved.
    """
    if run.step == 0 and run.state.best_loss is None:  # not where a run goes on from its first checkpoint
        yield from run.validate()
        yield run.save()
    while run.step < run.total_steps and not run.is_stale:
        yield run.learn()
        best_before = run.state.best_step
        if run.is_due(run.config.checks.eval_every):
            yield from run.validate()
        if run.is_stale or run.is_due(run.config.checks.save_every) or run.state.best_step != best_before:
            yield run.save()
        if run.step < run.total_steps and not run.is_stale and (reason := (yield from between_steps(run))):
            yield run.save()
            yield RunStopped(step=run.step, reason=reason)
            return
