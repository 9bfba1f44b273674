"""What the dashboard says, as content: pure functions of a run as it stands, and of the width there is."""

from datetime import datetime

from textual.content import Content

from edgetune.events import RunFinished, RunStopped
from edgetune.units import count, duration, parameters, percent, size
from edgetune.workspace.run_state import Point, RunState
from tui.event_lines import event_line
from tui.literal import literal, one_line
from tui.run_view import Phase, RunView
from tui.widgets.bars import bar, track

TREND = 50  # steps whose mean loss is held against that of as many before
FLAT = 0.003  # a smaller difference is no trend
LOOKS: dict[Phase, tuple[str, str, str]] = {  # glyph, word, style
    "none": ("○", "no run", "$quiet"),
    "starting": ("◌", "starting", "$primary"),
    "training": ("●", "running", "$primary"),
    "paused": ("‖", "paused", "$warning"),
    "stopped": ("■", "stopped", "$warning"),
    "finished": ("✓", "finished", "$success"),
    "failed": ("✗", "failed", "$error"),
    "interrupted": ("!", "interrupted", "$error"),
}


def quiet(text: object) -> Content:
    """A label."""
    return literal(text, "$quiet")


def loss(value: float | None) -> str:
    """A loss with three decimals."""
    return "–" if value is None else f"{value:.3f}"


def power(value: float) -> str:
    """A learning rate: 1.1e-4."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def short_count(number: float) -> str:
    """A count in four characters or five: 412k, 1.20M."""
    return count(number) if number < 10_000 else f"{number / 1e3:.0f}k" if number < 999_500 else f"{number / 1e6:.2f}M"


def clock(seconds: float) -> str:
    """The time left: 5:12, 1:05:00, 2 d 04 h."""
    whole = round(seconds)
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def ends_at(view: RunView) -> str:
    """When the last step will be done."""
    left = view.state.seconds_left
    if left is None:
        return ""
    end, today = datetime.fromtimestamp(view.now + left), datetime.fromtimestamp(view.now)
    return f"{end:%H:%M}" if end.date() == today.date() else f"{end:%a %H:%M}"


# ---- the status line ---------------------------------------------------------------------------------------------------


def status_line(view: RunView, width: int) -> Content:
    """State, run, model and method at the left; steps, a bar and the time at the right, in places that do not move."""
    glyph, word, style = LOOKS[view.phase]
    wide = width >= 100
    left = literal(f" {glyph} {view.wish or word}", f"bold {style}") + Content("  ")
    right = progress_part(view, wide)
    about = one_line(" · ".join(about_run(view, wide)))
    room = width - left.cell_length - right.cell_length - 2
    about = about.truncate(max(room, 0), ellipsis=True)
    return left + about + Content(" " * max(width - left.cell_length - about.cell_length - right.cell_length - 1, 1)) + right


def about_run(view: RunView, wide: bool) -> list[str]:
    """What is trained, and how."""
    if view.config is None:
        return [view.name] if view.name else []
    adapter = view.config.adapter
    method = "all weights" if adapter.method == "full" else f"{adapter.method.replace('lora', 'LoRA').replace('dora', 'DoRA')}"
    method = method if adapter.method == "full" else f"{method} r{adapter.rank}"
    model = view.config.model.rstrip("/").rsplit("/", 1)[-1]
    return [view.name, model, method] if wide else [view.name, method]


def progress_part(view: RunView, wide: bool) -> Content:
    """Steps, bar, percent, time left."""
    state = view.state
    if not view.total:
        return Content("")
    steps = f"{state.step:>{len(str(view.total))}}/{view.total}"
    style = {"finished": "$success", "failed": "$error", "interrupted": "$error"}.get(view.phase, "$primary")
    shown = literal(steps, "bold") + Content("  ") + track(view.share, 24 if wide else 14, style)
    shown += literal(f" {int(100 * view.share + 1e-9):>3}%")
    return shown + literal(f"  {time_part(view, wide):<{25 if wide else 12}}", "$quiet" if view.phase != "training" else "")


def time_part(view: RunView, wide: bool) -> str:
    """The time left and the end, or how long it took."""
    state = view.state
    if view.phase == "training" and state.seconds_left is not None:
        left = f"{clock(state.seconds_left):>7} left"
        return f"{left} · ends {ends_at(view)}" if wide else left
    if isinstance(state.ended, RunFinished):
        return f"took {duration(state.ended.seconds)}"
    return ""


# ---- tiles -------------------------------------------------------------------------------------------------------------


def mean_loss(points: tuple[Point, ...], first: int, last: int) -> float | None:
    """The mean loss of the points with first < step <= last."""
    losses = [point.loss for point in points if first < point.step <= last]
    return sum(losses) / len(losses) if losses else None


def trend(state: RunState) -> float | None:
    """By how much the loss of the last steps differs from that of as many before."""
    span = max(TREND, 4 * state.curve.stride)
    after = mean_loss(state.curve.points, state.step - span, state.step)
    before = mean_loss(state.curve.points, state.step - 2 * span, state.step - span)
    return None if after is None or before is None else after - before


def train_tile(view: RunView) -> list[Content]:
    """The smoothed loss, and where it goes."""
    state, change = view.state, trend(view.state)
    shown = literal(f"{loss(state.smooth_loss):<6}", "bold")
    if change is not None:
        glyph, style = ("↓", "$success") if change < -FLAT else ("↑", "$warning") if change > FLAT else ("→", "$quiet")
        shown += literal(f" {glyph}{abs(change):.3f}", style)
    return [shown, quiet("mean of 10 steps" if change is None else f"against {TREND} steps before")]


def valid_tile(view: RunView) -> list[Content]:
    """The held-out loss, and which one was best."""
    state = view.state
    if state.valid_loss is None:
        every = view.config.checks.eval_every if view.config else 0
        return [literal("–", "bold"), quiet(f"first at step {every}" if every else "at the end")]
    best = state.best_loss is not None and state.valid_loss <= state.best_loss
    shown = literal(f"{loss(state.valid_loss):<6}", "bold") + (literal(" best", "$success") if best else Content(""))
    return [shown, quiet(f"step {state.best_step}" if best else f"best {loss(state.best_loss)} at {state.best_step}")]


def speed_tile(view: RunView) -> list[Content]:
    """Tokens a second, and by how much the machine has become slower."""
    state = view.state
    shown = literal(count(state.tokens_per_second) if state.recent else "–", "bold")
    if state.throttled:
        slow = f"! {state.throttled.percent:.0f}% slower" if state.throttled.percent > 0 else "! too hot"
        return [shown, literal(slow, "$warning")]
    return [shown, quiet(f"{short_count(state.tokens)} tokens so far")]


def rate_tile(view: RunView) -> list[Content]:
    """The learning rate, and how it changes."""
    schedule = view.config.training.schedule if view.config else ""
    return [literal(power(view.state.rate) if view.state.step else "–", "bold"), quiet(schedule)]


def norm_tile(view: RunView) -> list[Content]:
    """The gradient's norm before it is clipped."""
    clip = view.config.training.clip if view.config else 0.0
    norm = view.state.gradient_norm
    shown = literal(f"{norm:.3g}" if view.state.step else "–", "bold")
    clipped = bool(clip) and norm > clip
    return [shown, literal(f"clipped to {clip:g}", "$warning") if clipped else quiet(f"clip {clip:g}" if clip else "no clip")]


def memory_tile(view: RunView) -> list[Content]:
    """At 80 columns: peak of what is here."""
    used = view.memory_bytes or view.state.memory_bytes
    if not used:
        return [literal("–", "bold")]
    return [literal(f"{used / 1e9:.1f}", "bold") + quiet(f"/{view.limit_bytes / 1e9:.1f} GB")]


# ---- memory ------------------------------------------------------------------------------------------------------------


def memory_lines(view: RunView, width: int) -> list[Content]:
    """Now, peak and plan on one scale, which ends at the limit."""
    started = view.state.started
    rows = [("now", view.memory_bytes, "$primary"), ("peak", view.state.memory_bytes, "$primary")]
    rows.append(("plan", started.planned_peak_bytes if started else 0, "$quiet"))
    cells = max(width - 16, 4)
    lines = [
        quiet(f"{label:<6}") + literal(f"{size(value) if value else '–':>8}", "bold" if label == "now" else "")
        + Content("  ") + bar(value / view.limit_bytes if view.limit_bytes else 0, cells, style)
        for label, value, style in rows
    ]  # fmt: skip
    lines += [quiet(f"{'limit':<6}{size(view.limit_bytes):>8}"), Content("")]
    planned, peak = rows[2][1], view.state.memory_bytes
    if planned and peak:
        over = peak > planned
        text = f"! {size(peak - planned)} above the plan" if over else f"✓ {size(planned - peak)} below the plan"
        lines.append(literal(text, "$warning" if over else "$success"))
    swapped = view.swapped_bytes > 1e9
    lines.append(literal(f"{'! ' if swapped else ''}swap {size(view.swapped_bytes)}", "$warning" if swapped else "$quiet"))
    return [*lines, pace_line(view), Content(""), *fact_lines(view)]


def fact_lines(view: RunView) -> list[Content]:
    """What is trained on what."""
    started, config = view.state.started, view.config
    if not started or not config:
        return []
    training = config.training
    facts = (
        ("trained", f"{parameters(started.trained_parameters)} numbers"),
        ("rows", f"{count(started.train_rows)} + {count(started.valid_rows)} held out"),
        ("batch", f"{training.batch} × {training.accumulate} of {count(config.data.max_tokens)}"),
        ("saved", f"step {count(view.state.saved_step)}" if view.state.saved_step else "not yet"),
        ("on", started.backend),
    )
    return [quiet(f"{label:<9}") + literal(text) for label, text in facts]


def pace_line(view: RunView) -> Content:
    """How the machine does."""
    throttled = view.state.throttled
    if throttled is None:
        return quiet("pace steady" if view.state.recent else "")
    return literal(f"! {event_line(throttled).text}", "$warning")


# ---- events and notices ------------------------------------------------------------------------------------------------


def log_lines(state: RunState, width: int) -> list[Content]:
    """The newest first, a line each."""
    return [log_line(event, width) for event in reversed(state.log)]


def log_line(event: object, width: int) -> Content:
    """The time, the glyph, and what happened."""
    from edgetune.events import Event

    assert isinstance(event, Event)
    line = event_line(event)
    head = quiet(f"{datetime.fromtimestamp(event.time):%H:%M:%S} ") + literal(f"{line.glyph} ", line.style)
    return (head + one_line(line.text, "" if line.style == "$quiet" else line.style)).truncate(width, ellipsis=True)


def notice(view: RunView) -> tuple[str, str, list[Content]]:
    """Title, style and lines of what a person must know of the run; no lines while it simply trains."""
    _, word, style = LOOKS[view.phase]
    match view.phase:
        case "none":
            return (
                "No run yet",
                "$quiet",
                [literal("Choose settings and start a run: it is watched from here."), keys("n", "settings")],
            )
        case "paused":
            return (
                "Paused",
                style,
                [literal(f"Saved, and waiting: {view.state.waits_for or 'asked to pause'}"), keys("space", "go on")],
            )
        case "stopped":
            why = view.state.ended.reason if isinstance(view.state.ended, RunStopped) else ""
            return (
                "Stopped",
                style,
                [
                    literal(f"Everything is saved up to step {count(view.state.step)}: {why}"),
                    keys("r", "go on", "n", "new run"),
                ],
            )
        case "failed" | "interrupted":
            return word.capitalize(), style, trouble_lines(view)
        case "finished":
            return "Finished", style, finished_lines(view)
        case _:
            return "", "", []


def trouble_lines(view: RunView) -> list[Content]:
    """What went wrong, what to do about it, and the key that does it."""
    message, hint = view.trouble
    saved = view.state.saved_step
    if not message and view.phase == "interrupted":
        message = "The process that trained is gone without a word: it was killed, or the machine was switched off."
    lines = [literal(message or "The process ended without a word.", "bold")]
    if hint:
        lines.append(quiet(hint))
    if view.total:
        return [*lines, keys("r", f"go on from step {count(saved)}" if saved else "begin again", "n", "settings", "l", "log")]
    return [*lines, keys("n", "settings", "l", "log")]


def finished_lines(view: RunView) -> list[Content]:
    """The result, and what comes next."""
    end = view.state.ended
    assert isinstance(end, RunFinished)
    if end.valid_loss is None:
        result = literal(f"training loss {end.train_loss:.3f}", "bold") + quiet("  no rows were held out")
    else:
        first = view.state.validations[0].loss if view.state.validations else end.valid_loss
        result = literal(f"val loss {end.valid_loss:.3f}", "bold") + quiet(f" at step {count(end.best_step)}")
        if first > end.valid_loss > 0:
            result += quiet(f", {percent(1 - end.valid_loss / first)} below the first")
    energy = f" · {end.energy_joules / 3.6e6:.2g} kWh" if end.energy_joules else ""
    figures = quiet(f"{count(end.steps)} steps in {duration(end.seconds)} · peak {size(end.peak_bytes)}{energy}")
    return [result, figures, keys("4", "compare with the base", "5", "export", "n", "new run")]


def keys(*pairs: str) -> Content:
    """Keys and what they do: `keys("r", "go on")`."""
    shown = [literal(key, "bold $primary") + literal(f" {does}") for key, does in zip(pairs[::2], pairs[1::2], strict=True)]
    return Content("   ").join(shown)
