"""What to do next with a run: one recommendation, the first rule that has one, each with its reason.

Rules look at what a person loses most by not knowing: a run that is not done, numbers that went wrong, rows that were left
out, then what the losses tell, and at last what to do with a run that went well.
"""

import shlex
from collections.abc import Callable

from edgetune.config import RunConfig
from edgetune.units import count, duration, percent
from edgetune.workspace.report_facts import Advice, Report

MANY = 0.1  # of the rows: so many left out change what is learned
EARLY = 0.75  # of the steps: a best loss before this came long before the end
RISE = 1.01  # times the best loss: what the last one must be above it to count
FALL = 0.02  # of the loss in the last quarter: still worth going on
GAP = 1.5  # times the training loss: a held-out loss above it means that rows are learned by heart
WARM = 0.15  # of the time: so much of it slower is worth a thought


def advise(report: Report, config: RunConfig | None, place: str) -> Advice:
    """The one thing to do next. `place`: the run's folder, as commands name it."""
    case = Case(report, config, place)
    return next(advice for rule in RULES if (advice := rule(case)))


class Case:
    """A run, and how commands speak of it."""

    def __init__(self, report: Report, config: RunConfig | None, place: str):
        self.report, self.config, self.result, self.place = report, config, report.result, quoted(place)

    def command(self, verb: str, *words: str) -> str:
        """A command on this run."""
        return " ".join(["edgetune", verb, self.place, *words])

    def train(self, *settings: str) -> str:
        """The command that trains the same again, with other settings."""
        return " ".join([f"edgetune train {self.place}/run.toml", *(f"--set {setting}" for setting in settings)])

    def slower_rate(self, factor: float) -> str:
        """The command that trains at a lower rate."""
        return self.train(f"training.rate={self.config.training.rate * factor:.2g}") if self.config else ""

    def share_of_work(self, share: float) -> tuple[str, str]:
        """A part, or a multiple, of the run's work: in words, and as a setting."""
        if self.config is None or self.config.training.steps:
            steps = max(round(self.report.total_steps * share), 1)
            return f"{count(steps)} steps", f"training.steps={steps}"
        epochs = max(round(self.config.training.epochs * share, 1), 0.1)
        return f"{epochs:g} epoch{'' if epochs == 1 else 's'}", f"training.epochs={epochs:g}"


def quoted(place: str) -> str:
    """A path as a shell takes it; a leading ~ stays one."""
    return f"~/{shlex.quote(place[2:])}" if place.startswith("~/") else shlex.quote(place)


# ---- a run that is not done --------------------------------------------------------------------------------------------


def still_running(case: Case) -> Advice | None:
    """It goes on."""
    if case.report.state not in ("starting", "training", "paused"):
        return None
    why = "the run is paused" if case.report.state == "paused" else "the run goes on"
    return Advice(what="Wait for it", why=f"{why}; this report is of the moment", command=case.command("watch"))


def failed(case: Case) -> Advice | None:
    """It ended with an error."""
    report = case.report
    if report.state != "failed":
        return None
    if report.error_kind == "verification_failed":
        what, command = "Train again at a quarter of the rate, and look at the rows that it names", case.slower_rate(0.25)
        return Advice(
            what=what, why=f"its numbers were not finite, for the last time at step {count(report.step)}", command=command
        )
    todo = {"disk_full": "Free some disk space, then continue it"}.get(report.error_kind, "Mend what it says, then continue it")
    why = f"it failed after step {count(report.step)}, and goes on after step {count(report.saved_step)}"
    return Advice(what=todo, why=why, command=case.command("resume"))


def interrupted(case: Case) -> Advice | None:
    """Its process is gone, or was asked to stop."""
    report = case.report
    if report.state not in ("interrupted", "stopped"):
        return None
    gone = "its process ended without a word (killed, a crash, or the power)" if report.state == "interrupted" else "it stopped"
    left = report.total_steps - report.saved_step
    time = f", about {duration(report.times.training / report.step * left)}" if report.step else ""
    on = f"it goes on after step {count(report.saved_step)}, {count(left)} are left{time}"
    why = f"{gone} after step {count(report.step)}; {on}"
    return Advice(what="Continue it, nothing that was saved is lost", why=why, command=case.command("resume"))


# ---- numbers and rows --------------------------------------------------------------------------------------------------


def nothing_held_out(case: Case) -> Advice | None:
    """Nobody can say whether it learned or only remembers."""
    if case.report.valid_rows:
        return None
    why = "no rows were held out, so nothing tells learning from remembering, and the last step is the result"
    return Advice(what="Hold some rows out, and train again", why=why, command=case.train("data.valid=0.1"))


def unstable(case: Case) -> Advice | None:
    """Losses were not finite, or ran away."""
    report = case.report
    ran_away = any(incident.kind == "diverged" for incident in report.incidents)
    if not (report.rolled_back or ran_away or report.skipped_steps > 2):
        return None
    if report.rolled_back:
        times = "once" if report.rolled_back == 1 else f"{report.rolled_back} times"
        why = f"the run had to go back {times} because its numbers were not finite"
    elif ran_away:
        why = "the held-out loss ran far above its best"
    else:
        why = f"{count(report.skipped_steps)} steps changed nothing because their numbers were not finite"
    return Advice(what="Train at half the rate", why=why, command=case.slower_rate(0.5))


def learned_nothing(case: Case) -> Advice | None:
    """The model as it was is still the best."""
    if case.result.best_step or case.result.best is None:
        return None
    why = "the held-out loss never fell below that of the model as it was"
    return Advice(what="Train at a quarter of the rate, or look at the rows", why=why, command=case.slower_rate(0.25))


def rows_left_out(case: Case) -> Advice | None:
    """Much of what was to be learned was not."""
    report = case.report
    left = sum(report.left_out.values())
    share = left / max(left + report.train_rows + report.valid_rows, 1)
    if share < MANY:
        return None
    kinds = ", ".join(f"{kind}: {count(number)}" for kind, number in report.left_out.items())
    why = f"{percent(share)} of them were not learned as they are ({kinds}); the first: {report.first_left_out}"
    if report.left_out.get("dropped", 0) + report.left_out.get("cut", 0) > left / 2 and case.config:
        longer = case.train(f"data.max_tokens={2 * case.config.data.max_tokens}")
        return Advice(what="Make room for the long rows", why=why, command=longer)
    files = " ".join(quoted(name) for name in case.config.data.train) if case.config else "FILE"
    model = f" --model {quoted(case.config.model)}" if case.config else ""
    return Advice(what="Look at the rows", why=why, command=f"edgetune data {files}{model}")


# ---- what the losses tell ----------------------------------------------------------------------------------------------


def best_long_ago(case: Case) -> Advice | None:
    """The loss on the held-out rows rose at the end."""
    result, steps = case.result, case.report.step
    if result.best is None or result.last is None or result.best_step > EARLY * steps or result.last < RISE * result.best:
        return None
    much, setting = case.share_of_work(result.best_step / max(case.report.total_steps, 1))
    why = (
        f"after step {count(result.best_step)} of {count(steps)} the held-out loss only rose, from {result.best:.4f} to "
        f"{result.last:.4f}. Nothing is lost: the result is that of step {count(result.best_step)}"
    )
    return Advice(what=f"Next time train {much}", why=why, command=case.train(setting))


def still_falling(case: Case) -> Advice | None:
    """It would have become better with more time."""
    report, result = case.report, case.result
    before = [point for point in report.validations if 0 < point.step <= EARLY * report.step]
    if result.best is None or result.best_step != report.step or report.step != report.total_steps or not before:
        return None
    fall = (before[-1].loss - result.best) / before[-1].loss if before[-1].loss > 0 else 0.0
    if fall < FALL:
        return None
    share = 1.0 if fall >= 2.5 * FALL else 0.5
    much, setting = case.share_of_work(share)
    time = duration(share * (report.times.training + report.times.resting))
    why = (
        f"the held-out loss still fell, by {percent(fall)} since step {count(before[-1].step)}, and the last step is the "
        f"best; that takes about {time} more"
    )
    if case.config is None or case.config.adapter.method == "full":
        much, setting = case.share_of_work(1 + share)
        return Advice(what=f"Train {much} in all", why=why, command=case.train(setting))
    return Advice(what=f"Train {much} more", why=why, command=case.train("adapter.init_from=.", setting))


def wide_gap(case: Case) -> Advice | None:
    """The rows were learned by heart."""
    result = case.result
    if result.best is None or result.train is None or result.best < GAP * result.train or result.best - result.train < 0.2:
        return None
    why = (
        f"it knows the rows that it learned ({result.train:.4f}) much better than those it did not see ({result.best:.4f}); "
        f"{count(case.report.train_rows)} rows are few for what it can remember"
    )
    rank = max(case.config.adapter.rank // 2, 1) if case.config else 8
    lora = case.config is not None and case.config.adapter.method != "full"
    command = case.train(f"adapter.rank={rank}", "adapter.dropout=0.1") if lora else ""
    return Advice(what="Add rows; without more, let it remember less", why=why, command=command)


def worked(case: Case) -> Advice:
    """All is well: on with it. A machine that was slow for long is worth a word."""
    report, result = case.report, case.result
    why = "it went well"
    if result.best is not None:
        near = "and hardly changed at the end" if result.best_step == report.step else "and the result is that step"
        why = f"the held-out loss was best at step {count(result.best_step)} of {count(report.step)}, {near}"
    if report.times.wall and report.times.throttled > WARM * report.times.wall:
        slow = f" by up to {report.slowest_percent:.0f} %" if report.slowest_percent > 0 else ""
        why += f". For {duration(report.times.throttled)} the machine was slowed{slow} by heat: let air under it next time"
    out = f"{case.place}/exports"
    return Advice(what="Export it", why=why, command=case.command("export", "--to", "Q8_0,Q4_K_M", "--out", out))


RULES: tuple[Callable[[Case], Advice | None], ...] = (
    still_running, failed, interrupted, nothing_held_out, unstable, learned_nothing, rows_left_out, best_long_ago,
    still_falling, wide_gap, worked,
)  # fmt: skip
