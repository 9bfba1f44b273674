"""What a run does about numbers that are none: it leaves them out, then goes back once, then ends with the rows named."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgetune.backend.launch import rank
from edgetune.backend.ops import Row
from edgetune.errors import CheckpointError, VerificationFailed
from edgetune.events import RolledBack, StepSkipped
from edgetune.training import checkpoint
from edgetune.training.order import Sequences

if TYPE_CHECKING:
    from edgetune.training.run import Run

SKIPS_ALLOWED = 2  # updates in a row that may be skipped for numbers that are not finite
ROLL_BACKS = 1  # that a run gets before it ends
ROLL_BACK_RATE = 0.25  # of the rate with which it went wrong
ROWS_NAMED = 20  # of those that numbers went wrong with


def skip(run: "Run", reason: str, rows: Sequence[Row], sequences: Sequences) -> StepSkipped | RolledBack:
    """Leaves everything as it is and goes on, if it did not happen too often and something was or can still be learned.

    Raises:
        VerificationFailed: it happened too often, and the run was rolled back before.
    """
    names = suspects(run, rows, sequences)
    skipped = run.state.skipped_in_row + 1
    is_last_chance = run.step + 1 == run.total_steps and not run.state.updates
    known = [*run.state.skipped_rows, *(name for name in names if name not in run.state.skipped_rows)]
    if skipped > SKIPS_ALLOWED or is_last_chance:
        return roll_back(run, f"{reason}, {skipped} times in a row", known)
    run.note(step=run.step + 1, skipped_in_row=skipped, skipped_rows=known[:ROWS_NAMED])
    return StepSkipped(step=run.step, reason=reason, rows=names)


def suspects(run: "Run", rows: Sequence[Row], sequences: Sequences) -> list[str]:
    """file:line of the rows whose own loss is not finite; where it is their gradient that is not, of all."""
    losses = run.runner.compute(run.loss, rows)
    guilty = [sequence for sequence, loss in zip(sequences, losses, strict=True) if not np.isfinite(loss)]
    return [name_of(run, index) for sequence in guilty or sequences for index in sequence]


def name_of(run: "Run", index: int) -> str:
    """Where a row stands: file:line."""
    return f"{run.examples[index].file}:{run.examples[index].line}"


def roll_back(run: "Run", reason: str, rows: list[str]) -> RolledBack:
    """Goes back to the last checkpoint before the trouble and on from there at a lower rate, once.

    A process that is killed before it saves again meets the same trouble, and does the same.

    Raises:
        VerificationFailed: the run was rolled back before, or has no such checkpoint.
    """
    failed, energy = run.step + 1, run.state.energy_joules
    good = last_good(run) if not rank() and run.state.rollbacks < ROLL_BACKS else None
    if run.state.rollbacks >= ROLL_BACKS or (good is None and not rank()):
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        named = f"; rows {', '.join(rows[:5])}{more}" if rows else ""
        raise VerificationFailed(
            f"step {failed}: {reason}{named}",
            hint="lower training.rate, or look at these rows; the last good checkpoint is kept",
        )
    if good:
        run.restore(good)
    run.join()
    factor = run.state.rate_factor * ROLL_BACK_RATE
    run.note(rollbacks=run.state.rollbacks + 1, rate_factor=factor, energy_joules=energy)
    return RolledBack(step=failed, to_step=run.step, rate_factor=factor, rows=rows[:ROWS_NAMED], reason=reason)


def last_good(run: "Run") -> checkpoint.Checkpoint | None:
    """The newest checkpoint that verifies and was not written between two skipped steps."""
    saved = (each for each in checkpoint.newest(run.folder) if not isinstance(each, CheckpointError))
    return next((each for each in saved if not each.state.skipped_in_row), None)
