"""Settings that would make a run smaller or quicker: what each saves, what it costs, the best one first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from edgetune.config import QuantizeBase, RunConfig, convert
from edgetune.planner.facts import Facts
from edgetune.planner.memory import MemoryPlan, plan_memory
from edgetune.planner.numpy_memory import Form
from edgetune.planner.rows import fitted, kept_share, longest_sequences
from edgetune.planner.time import TimePlan, plan_time
from edgetune.units import count, duration, percent, size

WORTH_BYTES, WORTH_SECONDS = 0.05, 0.03  # shares of the peak and of the time: what saves less is not worth a word
MILD_SHARE = 0.95  # of all tokens: fewer are not given up unless nothing else fits
LEAST_SHARE = 0.3  # fewer are no training
ROUNDED: dict[QuantizeBase, str] = {
    "8bit": "frozen weights are rounded to 8 bits, which is hardly felt; steps are a little slower",
    "4bit": "frozen weights are rounded to 4 bits, which the smallest models feel; steps are a little slower",
}
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Suggestion:
    """Some settings, what the run would then take, what that saves, and what it costs.

    `setting`: as after --set; `settings`: the same by key. What is saved is negative where it is more than now.
    """

    setting: str
    peak_bytes: int
    fits: bool
    cost: str
    settings: Settings = field(default_factory=lambda: dict[str, Any]())
    seconds: float = 0.0
    saves_bytes: int = 0
    saves_seconds: float = 0.0

    @property
    def saving(self) -> str:
        """What it saves, and what it takes more, for people."""
        parts = [
            f"{'saves' if saved > 0 else 'takes'} {unit(abs(saved))}{'' if saved > 0 else ' more'}"
            for saved, unit, least in ((self.saves_bytes, size, 1e6), (self.saves_seconds, duration, 1))
            if abs(saved) >= least
        ]
        return ", ".join(parts)


class Change(NamedTuple):
    """Settings that may help, what they cost, and how much that is felt: 0 is not at all, 5 is much."""

    settings: Settings
    cost: str
    felt: int


class Planned(NamedTuple):
    """The memory and the time of one config."""

    memory: MemoryPlan
    time: TimePlan


def planned(facts: Facts, config: RunConfig) -> Planned:
    """Both plans."""
    memory = plan_memory(facts, config)
    return Planned(memory, plan_time(facts, config, Form(memory.recompute, memory.share_weights)))


def suggestions(facts: Facts, config: RunConfig, now: Planned) -> tuple[Suggestion, ...]:
    """What would help, the best first: what fits before what does not, then what is felt least, then what saves most.

    Of the values of one key the mildest that fits is taken, or the strongest where none does; and where no single key is
    enough, the mildest of all together.
    """
    best: dict[tuple[str, ...], tuple[Change, Suggestion]] = {}
    for change in changes(facts, config, now):
        key = tuple(change.settings)
        if key not in best or not best[key][1].fits:
            best[key] = change, weighed(facts, config, now, change)
    found = [pair for pair in best.values() if not now.memory.fits or is_worth(pair[1], now)]
    if not now.memory.fits and not any(suggestion.fits for _, suggestion in found):
        found += together(facts, config, now, [change for change, _ in found])
    found.sort(key=lambda pair: (not pair[1].fits, pair[0].felt, -pair[1].saves_bytes / max(1, now.memory.peak_bytes)))
    return tuple(suggestion for _, suggestion in found)


def weighed(facts: Facts, config: RunConfig, now: Planned, change: Change) -> Suggestion:
    """What a change comes to. A run that already makes its activations again, for want of memory, goes on to do so."""
    changed = with_settings(config, change.settings)
    if now.memory.recompute and not now.memory.fits and "training.recompute" not in change.settings:
        changed = with_settings(changed, {"training.recompute": "layers"})
    then = planned(facts, changed)
    return Suggestion(
        setting=as_setting(change.settings),
        peak_bytes=then.memory.peak_bytes,
        fits=then.memory.fits,
        cost=change.cost,
        settings=dict(change.settings),
        seconds=then.time.seconds,
        saves_bytes=now.memory.peak_bytes - then.memory.peak_bytes,
        saves_seconds=now.time.seconds - then.time.seconds,
    )


def is_worth(suggestion: Suggestion, now: Planned) -> bool:
    """Whether it saves enough of one, and does not cost as much of the other."""
    memory = suggestion.saves_bytes / max(1, now.memory.peak_bytes)
    time = suggestion.saves_seconds / max(1e-9, now.time.seconds)
    return suggestion.fits and (memory >= WORTH_BYTES or time >= WORTH_SECONDS)


def together(facts: Facts, config: RunConfig, now: Planned, found: list[Change]) -> list[tuple[Change, Suggestion]]:
    """The mildest changes, one after the other, until it fits; nothing where even all of them do not."""
    settings: dict[str, Any] = {}
    costs: list[str] = []
    for change in sorted(found, key=lambda change: change.felt):
        settings |= change.settings
        costs.append(change.cost)
        whole = Change(dict(settings), "; ".join(costs), change.felt)
        suggestion = weighed(facts, config, now, whole)
        if suggestion.fits:
            return [(whole, suggestion)]
    return []


def as_setting(settings: Settings) -> str:
    """What to write after --set."""
    return " --set ".join(f"{key}={value}" for key, value in settings.items())


def with_settings(config: RunConfig, settings: Settings) -> RunConfig:
    """The config as `--set` would make it."""
    values = msgspec.to_builtins(config)
    for key, value in settings.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    return convert(values)


# ---- what may help -----------------------------------------------------------------------------------------------------


def changes(facts: Facts, config: RunConfig, now: Planned) -> Iterator[Change]:
    """Settings that may help, those of one key from the mildest to the strongest."""
    yield from of_computing(facts, config, now)
    yield from of_weights(facts, config)
    yield from of_lengths(facts, config, now)
    yield from of_learning(facts, config)
    yield from of_looking(config, now)


def of_computing(facts: Facts, config: RunConfig, now: Planned) -> Iterator[Change]:
    """What changes no number that is learned."""
    training = config.training
    if not now.memory.recompute:
        yield Change({"training.recompute": "layers"}, "each step takes longer; the result is the same", 1)
    elif training.recompute == "layers":
        yield Change({"training.recompute": "auto"}, "none where there is room for activations; the result is the same", 0)
    if not config.data.packing and len(facts.rows) > 1:
        yield Change({"data.packing": True}, "rows share sequences, so that a step holds more of them", 1)
    rows = training.batch
    while facts.backend == "mlx" and rows > 1 and rows % 2 == 0:
        rows //= 2
        accumulate = training.accumulate * training.batch // rows
        smaller = {"training.batch": rows, "training.accumulate": accumulate}
        yield Change(smaller, "steps may be slower; what is learned is the same", 1)


def of_weights(facts: Facts, config: RunConfig) -> Iterator[Change]:
    """Frozen weights in fewer bits."""
    if config.adapter.method == "full":
        return
    for felt, (precision, cost) in enumerate(ROUNDED.items(), 2):
        if facts.weight_bytes(precision) < facts.weight_bytes(config.training.quantize_base):
            yield Change({"training.quantize_base": precision}, cost, felt)


def of_lengths(facts: Facts, config: RunConfig, now: Planned) -> Iterator[Change]:
    """Shorter sequences. Where it fits anyway, only as far as nearly all tokens stay."""
    longest = max(longest_sequences(fitted(facts.rows, config), config, 1), default=0)
    whole = kept_share(facts.rows, config)
    for tokens in (each for power in range(14, 6, -1) for each in (3 << power - 1, 1 << power)):
        if tokens >= longest:
            continue
        shorter = with_settings(config, {"data.max_tokens": tokens})
        share = kept_share(facts.rows, shorter) / max(1e-9, whole)
        if share < (MILD_SHARE if now.memory.fits else LEAST_SHARE):
            return
        long = sum(group.rows for group in facts.rows if tokens < group.tokens)
        fate = {"drop": "left out", "cut": "cut", "split": "split"}[config.data.long_rows]
        lost = f"{percent(share)} of the tokens are kept, {count(long)} rows are {fate}" if long else "no row is longer"
        yield Change({"data.max_tokens": tokens}, lost, 1 if share > 0.995 else 2 if share >= MILD_SHARE else 4)


def of_learning(facts: Facts, config: RunConfig) -> Iterator[Change]:
    """What makes the adapter smaller."""
    adapter = config.adapter
    if adapter.method == "full":
        yield Change({"adapter.method": "lora"}, "an adapter learns less than all weights could", 4)
        return
    if adapter.method == "dora":
        yield Change({"adapter.method": "lora"}, "rows' lengths are not learned apart", 2)
    if adapter.rank >= 16:
        yield Change({"adapter.rank": adapter.rank // 2, "adapter.alpha": adapter.alpha / 2}, "the adapter can learn less", 3)
    if adapter.layers == "all" and facts.shape.layers > 1:
        yield Change({"adapter.layers": facts.shape.layers // 2}, "only the upper half of the layers learns", 4)


def of_looking(config: RunConfig, now: Planned) -> Iterator[Change]:
    """Fewer validations, where they take long."""
    looks = now.time.parts.get("validations", 0.0) + now.time.parts.get("samples", 0.0)
    every = config.checks.eval_every
    if every and looks > 0.1 * now.time.seconds and 2 * every < now.time.steps:
        yield Change({"checks.eval_every": 2 * every}, "the best checkpoint is looked for less often", 1)
