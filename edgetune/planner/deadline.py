"""`plan --done-by`: the work is cut to end at a moment of the clock, and what is given up for that is said."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from edgetune.config import RunConfig
from edgetune.errors import ConfigError, Refused
from edgetune.planner.facts import Facts
from edgetune.planner.rows import kept_share
from edgetune.planner.suggestions import MILD_SHARE, Planned, planned, with_settings
from edgetune.units import count, duration, percent

MARGIN = 0.05  # of the time there is, kept free: machines slow down in the night
LEAST_MARGIN = 10.0  # seconds
LEAST_STEPS = 10  # fewer are no training, unless one pass over the rows has fewer
FORMS = "a time of the clock as 07:00, or a time from now as +8h, +90m or +1h30m"


@dataclass(frozen=True)
class Fitted:
    """The settings with which a run ends in time, what they give up, and its plan. No settings: it ends in time as it is."""

    settings: dict[str, Any]
    given_up: tuple[str, ...]
    plan: Planned
    seconds: float  # that there are
    ends_at: float  # by the wall clock, seconds since 1970


def seconds_until(text: str, now: float, zone: tzinfo | None = None) -> float:
    """From `now` (seconds since 1970) to the next such moment of the local clock, or `+8h` from now. Never negative: where
    clocks are changed in between, the seconds that really pass are counted.

    Raises:
        ConfigError: it is neither form.
    """
    if ahead := re.fullmatch(r"\+(?:(\d{1,4})h)?(?:(\d{1,5})m(?:in)?)?", text.strip()):
        seconds = 3600 * int(ahead[1] or 0) + 60 * int(ahead[2] or 0)
        if seconds:
            return float(seconds)
    clock = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
    if clock is None:
        raise ConfigError(f"--done-by {text!r} is no moment", hint=f"give {FORMS}")
    today = datetime.fromtimestamp(now, zone)
    wanted = today.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
    for days in range(3):
        for fold in (0, 1):  # an hour that the clock shows twice
            moment = (wanted.replace(tzinfo=None) + timedelta(days=days)).replace(tzinfo=zone, fold=fold)
            if moment.timestamp() > now:
                return moment.timestamp() - now
    raise AssertionError("a day has no more than 25 hours")


def fit_into(facts: Facts, config: RunConfig, seconds: float, now: float) -> Fitted:
    """The settings that give up least for a run which ends within `seconds`, a margin left.

    In this order: nothing; memory for time; passes over the rows, after as many tokens of long rows as are hardly missed; and
    at last a part of one pass.

    Raises:
        Refused: there is not the time for one useful piece of work; the hint says what there would be for.
    """
    room = seconds - max(MARGIN * seconds, LEAST_MARGIN)
    best: tuple[float, dict[str, Any], Planned] | None = None
    for settings in milder_first(facts, config):
        plan = planned(facts, with_settings(config, settings))
        if plan.memory.fits and plan.time.seconds <= room:
            return Fitted(settings, given_up(facts, config, settings, plan), plan, seconds, now + seconds)
        shorter = shortened(facts, config, settings, plan, room) if plan.memory.fits else None
        if shorter and (best is None or shorter[0] > best[0] + 0.1 * best[0]):
            best = shorter
    if best is None:
        raise too_little(facts, config, seconds)
    _, settings, plan = best
    return Fitted(settings, given_up(facts, config, settings, plan), plan, seconds, now + seconds)


def milder_first(facts: Facts, config: RunConfig) -> Iterator[dict[str, Any]]:
    """Settings that make the same passes quicker, those that are felt least first."""
    computing = [{}]
    if config.training.recompute == "layers":
        computing.append({"training.recompute": "auto"})
    yield from computing
    whole = kept_share(facts.rows, config)
    for tokens in (each for power in range(14, 6, -1) for each in (3 << power - 1, 1 << power)):
        shorter = {"data.max_tokens": tokens}
        if tokens < config.data.max_tokens and kept_share(facts.rows, with_settings(config, shorter)) >= MILD_SHARE * whole:
            yield computing[-1] | shorter


def shortened(
    facts: Facts, config: RunConfig, settings: dict[str, Any], plan: Planned, room: float
) -> tuple[float, dict[str, Any], Planned] | None:
    """As many steps of that form as there is time for: (tokens learned from, settings, plan); None: too few to be useful."""

    def of(steps: int) -> Planned:
        return planned(facts, with_settings(config, settings | {"training.steps": steps}))

    fits, too_many = useful_steps(facts, config), plan.time.steps
    if fits >= too_many or of(fits).time.seconds > room:
        return None
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if of(middle).time.seconds <= room else (fits, middle)
    then = of(fits)
    return then.time.tokens, settings | {"training.steps": fits}, then


def useful_steps(facts: Facts, config: RunConfig) -> int:
    """The fewest steps that are worth a run: some, or what the config asks for where that is less."""
    one_pass = planned(facts, with_settings(config, {"training.steps": 0, "training.epochs": 1.0})).time.steps
    return min(LEAST_STEPS, one_pass, config.training.steps or one_pass)


def given_up(facts: Facts, config: RunConfig, settings: dict[str, Any], plan: Planned) -> tuple[str, ...]:
    """What the settings cost, for people."""
    before = planned(facts, config).time
    told: list[str] = []
    if "data.max_tokens" in settings:
        changed = with_settings(config, {"data.max_tokens": settings["data.max_tokens"]})
        share = kept_share(facts.rows, changed) / max(1e-9, kept_share(facts.rows, config))
        told.append(f"rows of more than {count(settings['data.max_tokens'])} tokens: {percent(share)} of the tokens are kept")
    if "training.steps" in settings:
        told.append(f"{count(before.steps - plan.time.steps)} of {count(before.steps)} steps")
    if "training.recompute" in settings:
        told.append("memory: activations are kept")
    return tuple(told)


def too_little(facts: Facts, config: RunConfig, seconds: float) -> Refused:
    """The refusal, with what the least work would take."""
    least = useful_steps(facts, config)
    need = planned(facts, with_settings(config, {"training.steps": least})).time.seconds
    room = max(need / (1 - MARGIN), need + LEAST_MARGIN)
    message = f"{duration(seconds)} is too little: {count(least)} steps take {duration(need)}"
    return Refused(message, hint=f"give it {duration(room)} or more, or take a smaller model, fewer or shorter rows")
