"""The words of a report, the same in a terminal and on a Markdown page: plain text, not yet cleaned or escaped."""

import math
import time
from typing import NamedTuple

from edgetune.units import count, duration, parameters, rate, size
from edgetune.workspace.ledger import Incident, Times
from edgetune.workspace.report_facts import Report

LINES = 14  # of what happened: more of them than this, and those in the middle are only counted
STATES = {"finished": "finished", "stopped": "stopped", "failed": "failed", "interrupted": "was interrupted"}


class Fact(NamedTuple):
    """A line of the report."""

    label: str
    text: str


def headline(report: Report) -> str:
    """How it ended, and when."""
    if report.state not in STATES:
        return f"is {report.state}, step {count(report.step)} of {count(report.total_steps)}"
    return f"{STATES[report.state]} on {time.strftime('%a %d %b at %H:%M', time.localtime(report.ended))}"


def number(report: Report) -> tuple[str, str]:
    """The loss that a person came for, and what it is."""
    result = report.result
    if result.best is None:
        loss = "–" if result.train is None else f"{result.train:.4f}"
        return loss, "training loss; no rows were held out" if result.train is not None else "no step was finished"
    if not result.best_step:
        return f"{result.best:.4f}", "held-out loss of the model as it was: nothing was better yet"
    came = ""
    if result.first is not None:
        fall = 100 * (1 - result.best / result.first) if result.first > 0 else 0.0
        came = f", from {result.first:.4f} before training: {fall:.0f} % lower"
    return f"{result.best:.4f}", f"held-out loss at step {count(result.best_step)}{came}"


def facts(report: Report, price: float | None = None) -> list[Fact]:
    """Everything that fits on a line. `price`: of a kWh, in any currency."""
    found = [
        Fact("losses", losses(report)),
        Fact("time", spent(report)),
        Fact("", elsewhere(report.times)),
        Fact(
            "pace", f"{rate(report.tokens_per_second, 'tokens')} · {count(report.tokens)} tokens in {count(report.step)} steps"
        ),
        Fact("memory", memory(report)),
        Fact("energy", energy(report, price)),
        Fact("rows", rows(report)),
        Fact("model", model(report)),
    ]
    return [fact for fact in found if fact.text]


def losses(report: Report) -> str:
    """What the number at the top leaves out."""
    result, parts = report.result, list[str]()
    if result.best is not None and result.best < 20:
        before = f", from {math.exp(result.first):.2f}" if result.first is not None and result.first < 20 else ""
        parts.append(f"perplexity {math.exp(result.best):.2f}{before if result.best_step else ''}")
    if result.last is not None and result.best is not None and result.last_step != result.best_step:
        parts.append(f"{result.last:.4f} at the last check, step {count(result.last_step)}")
    if result.train is not None and result.best is not None:
        parts.append(f"training loss {result.train:.4f}")
    return " · ".join(parts)


def spent(report: Report) -> str:
    """Training against the wall clock and the plan."""
    if not report.times.wall:
        return ""
    planned = f"; planned {duration(report.planned_seconds)}" if report.planned_seconds else ""
    return f"{duration(report.times.training)} of training in {duration(report.times.wall)}{planned}"


def elsewhere(times: Times) -> str:
    """Where the rest of the time went, the longest first."""
    parts = {
        "not running": times.down,
        "paused": times.paused,
        "asleep": times.slept,
        "resting": times.resting,
        "of steps done again": times.again,
        "checks": times.checks,
        "saving": times.saving,
    }
    longest = sorted(parts.items(), key=lambda part: -part[1])
    return " · ".join(f"{duration(seconds)} {what}" for what, seconds in longest if seconds >= max(1.0, 0.002 * times.wall))


def pace(report: Report) -> str:
    """Tokens, and how fast they went."""
    if not report.tokens:
        return ""
    return f"{rate(report.tokens_per_second, 'tokens')} · {count(report.tokens)} tokens in {count(report.step)} steps"


def memory(report: Report) -> str:
    """The peak against the plan."""
    planned = f", planned {size(report.planned_peak_bytes)}" if report.planned_peak_bytes else ""
    return f"{size(report.peak_bytes)} at its peak{planned}" if report.peak_bytes else ""


def energy(report: Report, price: float | None) -> str:
    """Of the whole run, where the machine could tell."""
    if report.energy_kwh is None:
        return ""
    cost = f" · {report.energy_kwh * price:.2f} at {price:.2f} per kWh" if price is not None else ""
    return f"{report.energy_kwh:.3g} kWh{cost}"


def rows(report: Report) -> str:
    """Learned, held out, left out."""
    if not report.train_rows:
        return ""
    kinds = ", ".join(f"{kind}: {count(number)}" for kind, number in report.left_out.items())
    left = f"; {count(sum(report.left_out.values()))} not as they are ({kinds})" if kinds else ""
    return f"{count(report.train_rows)} learned, {count(report.valid_rows)} held out{left}"


def model(report: Report) -> str:
    """What learned, how much of it, and where."""
    learned = f"{parameters(report.trained_parameters)} parameters" if report.trained_parameters else ""
    return " · ".join(filter(None, [report.model, report.method, learned, report.backend]))


# ---- what happened -----------------------------------------------------------------------------------------------------


def story(report: Report) -> list[Fact]:
    """What happened, each with the time of day; of a long story the beginning and the end."""
    lines: list[Fact] = []
    day = ""
    for incident in report.incidents:
        at = time.localtime(incident.time)
        today = time.strftime("%a %d", at)
        lines.append(Fact(time.strftime("%H:%M" if today == day else "%a %H:%M", at), in_words(incident)))
        day = today
    if len(lines) <= LINES:
        return lines
    half = LINES // 2
    return [*lines[:half], Fact("…", f"{count(len(lines) - LINES + 1)} more"), *lines[-half + 1 :]]


def in_words(incident: Incident) -> str:
    """An incident with how long it lasted."""
    if incident.seconds is None:
        return incident.text
    if incident.kind == "continued":
        return f"{duration(incident.seconds)} later {incident.text}"
    ends = [place for sign in (": ", ", and ") if (place := incident.text.find(sign)) >= 0]
    place = min(ends, default=len(incident.text))
    return f"{incident.text[:place]} for {duration(incident.seconds)}{incident.text[place:]}"
