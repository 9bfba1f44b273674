"""What a plan says, as content: pure functions of the plan, the config and the width there is."""

from collections.abc import Callable

from textual.content import Content

from edgetune.config import RunConfig
from edgetune.planner.facts import Facts
from edgetune.planner.plan import RunPlan, replan
from edgetune.planner.suggestions import Suggestion, with_settings
from edgetune.planner.trained import trained_parameters
from edgetune.units import count, duration, parameters, size
from tui.dashboard import keys, quiet
from tui.literal import literal, one_line
from tui.plan_form import Row
from tui.widgets.bars import amount

MOST = 8  # suggestions that are taken one after the other


def verdict(plan: RunPlan) -> Content:
    """Whether it fits, and the peak."""
    memory = plan.memory
    fits = literal("✓ fits", "bold $success") if plan.fits else literal("✗ does not fit", "bold $error")
    return fits + quiet("   peak ") + literal(size(memory.peak_bytes), "bold") + quiet(f" of {size(memory.usable_bytes)}")


def plan_lines(plan: RunPlan, facts: Facts, config: RunConfig, width: int) -> list[Content]:
    """The whole plan: memory by part, time, what is trained, disk."""
    memory, time = plan.memory, plan.time
    parts = [(name, number) for name, number in sorted(memory.parts.items(), key=lambda part: -part[1]) if number]
    cells, most = max(width - 27, 4), max((number for _, number in parts), default=1)
    lines = [verdict(plan), Content("")]
    lines += [
        quiet(f"{name:<15}") + literal(f"{size(number):>8}") + Content("  ") + amount(number, most, cells)
        for name, number in parts
    ]
    if memory.recompute:
        lines.append(quiet("activations are made again in the backward"))
    how = "timed here" if facts.speed.probed else "estimated"
    pace = f"{count(time.tokens_per_second)} tokens/s, {how}"
    lines += [Content(""), literal(f"{duration(time.seconds):<13}", "bold") + quiet(pace)]
    lines.append(literal(f"{count(time.steps) + ' steps':<13}") + quiet(f"{count(time.tokens)} tokens"))
    lines.append(trained_line(facts, config))
    disk = plan.disk_bytes > plan.free_bytes
    text = f"{size(plan.disk_bytes):<13}of disk, {size(plan.free_bytes)} free"
    return [*lines, literal(f"! {text}", "$error") if disk else literal(text[:13]) + quiet(text[13:])]


def trained_line(facts: Facts, config: RunConfig) -> Content:
    """How many numbers are trained."""
    trained, whole = trained_parameters(facts.shape, config.adapter), facts.shape.parameters
    if config.adapter.method == "full":
        return literal(f"{parameters(trained):<13}") + quiet("trained: every number")
    share = 100 * trained / max(whole, 1)
    return literal(f"{parameters(trained):<13}") + quiet(f"trained: {share:.2g}% of {parameters(whole)}")


def short_lines(plan: RunPlan, facts: Facts, config: RunConfig) -> list[Content]:
    """The same at 80 columns: two lines."""
    time = plan.time
    trained = parameters(trained_parameters(facts.shape, config.adapter))
    first = verdict(plan) + quiet("   ") + literal(duration(time.seconds), "bold")
    first += quiet(f" at {count(time.tokens_per_second)} tok/s   {trained} trained")
    best = plan.suggestions[0] if plan.suggestions else None
    return [
        first,
        suggestion_line(best) + Content("  ") + keys("a", "apply") if best else quiet("nothing would make it better"),
    ]


def suggestion_line(suggestion: Suggestion) -> Content:
    """What it changes, what that saves, what it costs."""
    return literal(named(suggestion), "bold") + quiet(" ") + one_line(suggestion.saving, "$success" if suggestion.fits else "")


def named(suggestion: Suggestion) -> str:
    """The settings in the form's words."""
    from tui.plan_form import LABELS, shown

    return ", ".join(
        f"{LABELS.get(key, key.rpartition('.')[2].replace('_', ' '))} {shown(value)}"
        for key, value in suggestion.settings.items()
    )


def why(row: Row, config: RunConfig, plan: RunPlan | None) -> str:
    """What a setting comes to where that can be said, or else what it is."""
    training = config.training
    match row.key:
        case "training.batch":
            return f"× {training.accumulate} = {training.batch * training.accumulate} sequences a step"
        case "training.epochs" if plan and not training.steps:
            return f"= {count(plan.time.steps)} steps"
        case "training.recompute" if plan and training.recompute == "auto":
            return "on here: it would not fit otherwise" if plan.memory.recompute else "off here: there is room"
        case "training.rate":
            return f"{training.schedule} after a warm-up of {training.warmup:.0%}"
        case _:
            return row.description or ", ".join(str(choice) for choice in row.choices)


def improved(facts: Facts, config: RunConfig, enough: Callable[[RunPlan], bool]) -> tuple[RunConfig, list[str]]:
    """Takes the best suggestions one after the other until it is enough; gives the config, and what was changed.

    Nothing is changed where no suggestion helps.
    """
    done: list[str] = []
    plan = replan(facts, config)
    while not enough(plan) and len(done) < MOST:
        better = helpful(plan)
        if better is None:
            break
        config = with_settings(config, better.settings)
        done.append(named(better))
        plan = replan(facts, config)
    return config, done


def helpful(plan: RunPlan) -> Suggestion | None:
    """The best suggestion: what saves memory while it does not fit, and then what saves time without taking it past."""
    if not plan.fits:
        return next((each for each in plan.suggestions if each.saves_bytes > 0), None)
    return max(
        (each for each in plan.suggestions if each.fits and each.saves_seconds > 0),
        key=lambda each: each.saves_seconds,
        default=None,
    )
