"""Events as lines of the app: a glyph, a word, and a colour that says no more than both."""

from typing import NamedTuple

from edgetune import events
from edgetune.cli.night_lines import night_line, trouble
from edgetune.events import Event
from edgetune.units import count, duration


class EventLine(NamedTuple):
    """What happened, and what to do about it where that is needed. `style` is a theme's role."""

    glyph: str
    text: str
    hint: str = ""
    style: str = "$quiet"


WARNING, ERROR, GOOD = "$warning", "$error", "$success"


def event_line(event: Event) -> EventLine:
    """One event in words."""
    match event:
        case events.ValidationFinished():
            best = " best" if event.best else ""
            text = f"val {event.loss:.3f}{best} in {duration(event.seconds)}"
            return EventLine("◆", text, style=GOOD if event.best else "$quiet")
        case events.CheckpointSaved():
            return EventLine("✓", f"saved step {count(event.step)}")
        case events.Warned():
            return EventLine("!", event.message, event.hint, WARNING)
        case events.RunFailed():
            return EventLine("✗", event.message, event.hint, ERROR)
        case events.StepSkipped():
            rows = f"rows {', '.join(event.rows)}" if event.rows else ""
            return EventLine("!", f"step {count(event.step)} changed nothing: {event.reason}", rows, WARNING)
        case events.CheckpointRejected():
            return EventLine("!", f"{event.folder} is not used: {event.reason}", style=WARNING)
        case events.RolledBack() | events.Diverged():
            return EventLine("!", *trouble(event), WARNING)
        case events.Throttled() | events.MemoryShort():
            return EventLine("!", *night_line(event), WARNING)
        case _:
            return calm_line(event)


def calm_line(event: Event) -> EventLine:
    """What happens in every run, or needs nobody."""
    match event:
        case events.RunStarted():
            if event.first_step:
                return EventLine("▸", f"went on after step {count(event.first_step)}")
            return EventLine("▸", f"started on {event.backend}: {count(event.train_rows)} rows")
        case events.RunPaused():
            return EventLine("‖", f"paused at step {count(event.step)}: {event.reason or 'asked to'}", style=WARNING)
        case events.RunResumed():
            return EventLine("▸", f"went on at step {count(event.step)}")
        case events.RunStopped():
            return EventLine("■", f"stopped at step {count(event.step)}: {event.reason}", style=WARNING)
        case events.RunFinished():
            return EventLine("✓", f"done: {count(event.steps)} steps in {duration(event.seconds)}", style=GOOD)
        case _:
            text, hint = night_line(event)
            return EventLine("·", text or type(event).__name__, hint)
