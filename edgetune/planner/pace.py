"""How long a run under way still takes: its own steps tell, also where long rows come later or the machine slows."""

import statistics
from collections.abc import Sequence

RECENT = 32  # steps that the pace is taken from: enough for a steady median, few enough to follow a machine that slows down


def remaining_seconds(
    upcoming: Sequence[float],
    recent: Sequence[tuple[float, float]],
    *,
    validations: int = 0,
    validation_seconds: float = 0.0,
    saves: int = 0,
    save_seconds: float = 0.0,
) -> float | None:
    """Seconds until the last step, validation and checkpoint; None before the first step.

    `upcoming`: what each step to come costs by any measure that grows as its time does: its tokens, or better the seconds
    that were planned for it. `recent`: (cost by the same measure, seconds) of steps that are done, the last one last. Their
    median pace is what the machine does now. A validation takes what the last one took, and so does a checkpoint.
    """
    paces = [seconds / cost for cost, seconds in recent[-RECENT:] if cost > 0 and seconds >= 0]
    if not paces:
        return None
    rest = validations * validation_seconds + saves * save_seconds
    return max(0.0, statistics.median(paces) * sum(upcoming) + rest)
