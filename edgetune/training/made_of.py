"""What a run is made of, and what of it has changed since it began, in a person's words."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from edgetune.training.checkpoint import TrainingState


def data_fingerprint(rows: str, tokenizer: str, template: str) -> str:
    """One text that tells which of the three has changed where it differs from another."""
    return " ".join(
        f"{name}={value or '-'}" for name, value in (("rows", rows), ("tokenizer", tokenizer), ("template", template))
    )


class Change(NamedTuple):
    """What has changed, and how; the latter is empty where it cannot be told."""

    what: str
    how: str = ""

    def __str__(self) -> str:
        return f"{self.what} changed since the run began{': ' if self.how else ''}{self.how}"


def changes(saved: TrainingState, now: TrainingState) -> Iterator[Change]:
    """What differs between a checkpoint and the run that would go on from it."""
    if saved.config_hash != now.config_hash:
        yield Change("run.toml", "; ".join(changed_keys(saved.config, now.config)))
    if saved.data_fingerprint != now.data_fingerprint:
        before, after = parts(saved.data_fingerprint), parts(now.data_fingerprint)
        yield Change(" and ".join(f"the {name}" for name in after if after[name] != before.get(name)) or "the rows")
    if saved.base_fingerprint != now.base_fingerprint:
        yield Change("the base model, or the adapter that it starts from,")
    if saved.backend != now.backend:
        yield Change("the backend", f"{saved.backend} then, {now.backend} now")
    if saved.workers != now.workers:
        yield Change("the number of workers", f"{saved.workers} then, {now.workers} now")
    for name in sorted(saved.versions.keys() | now.versions.keys()):
        before, after = saved.versions.get(name, "none"), now.versions.get(name, "none")
        if before != after:
            yield Change(f"the version of {name}", f"{before} then, {after} now")


def parts(fingerprint: str) -> dict[str, str]:
    """The fingerprints of rows, tokenizer and template by name."""
    return dict(each.split("=", 1) for each in fingerprint.split(" ") if "=" in each)


def changed_keys(saved: str, now: str) -> Iterator[str]:
    """The keys of two TOML texts whose values differ; none where the older one was not kept."""
    if saved:
        before, after = flat(tomllib.loads(saved)), flat(tomllib.loads(now))
        for key in [*after, *(key for key in before if key not in after)]:
            if before.get(key) != after.get(key):
                yield f"{key} was {before.get(key)}, is {after.get(key)}"


def flat(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Keys with the names of their sections before them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found
