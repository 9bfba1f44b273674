"""The learning rate of each step, a pure function of the step."""

import math

from edgetune.config import TrainingConfig


def rate_at(step: int, total: int, config: TrainingConfig) -> float:
    """The rate of a step, counted from 0: it rises evenly in the warm-up, then stays, falls evenly, or falls as a cosine.

    The warm-up takes its share of all steps, at least one; the fall would reach zero one step after the last.
    """
    warm = max(1, round(config.warmup * total)) if config.warmup else 0
    if step < warm:
        return config.rate * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    if config.schedule == "linear":
        return config.rate * (1 - done)
    if config.schedule == "cosine":
        return config.rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.rate
