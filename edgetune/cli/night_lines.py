"""What happens to a run in the night, and what it does about it: calm lines, one for each event."""

from edgetune import events
from edgetune.events import Event
from edgetune.units import count, duration, size


def trouble(event: events.RolledBack | events.Diverged) -> tuple[str, str]:
    """What a run did about numbers that went wrong, and a hint: the rows, or the best that is kept."""
    if isinstance(event, events.Diverged):
        best = f"the best, {event.best_loss:.4f} at step {count(event.best_step)}"
        return f"the held-out loss {event.loss:.4f} is far above {best}", "the best is kept; checks.patience ends such runs"
    back = f"after step {count(event.step)} the run went back to step {count(event.to_step)}"
    rows = f"rows {', '.join(event.rows)}" if event.rows else ""
    return f"{back}, at {event.rate_factor:g} times the rate", "; ".join(filter(None, [event.reason, rows]))


def night_line(event: Event) -> tuple[str, str]:
    """What became of the machine while the run trained, and a hint, which most have no need of."""
    match event:
        case events.KeptAwake():
            lid = "a closed lid puts it to sleep all the same: leave it open" if event.has_lid else ""
            return "the machine stays awake while it trains, the display may sleep", lid
        case events.PowerChanged():
            charge = f", {event.percent:.0f} % charged" if event.percent is not None else ""
            return f"{'on mains again' if event.source == 'mains' else 'on battery'}{charge}", ""
        case events.Throttled():
            return slower(event), ""
        case events.Recovered():
            return f"the machine is back at its pace after {duration(event.seconds)}", ""
        case events.Slept():
            what = "the machine slept" if event.kind == "asleep" else "the run was held"
            return f"{what} for {duration(event.seconds)}", ""
        case events.ClockChanged():
            way = "forward" if event.seconds > 0 else "back"
            return f"the clock was set {way} by {duration(abs(event.seconds))}", ""
        case events.MemoryShort():
            saves = ": activations are recomputed from now on" if event.recomputes else ""
            servers = f"other programs hold models: {', '.join(event.servers)}" if event.servers else ""
            return f"memory is short, {size(event.available_bytes)} left{saves}", servers
        case _:
            return "", ""


def slower(event: events.Throttled) -> str:
    """By how much, how hot, and what is done about it."""
    what = f"{event.percent:.0f} % slower than it was" if event.percent > 0 else "too hot"
    heat = f" at {event.celsius:.0f} °C" if event.celsius is not None else ""
    rest = f": it rests {event.rest_share:.0%} of each step" if event.rest_share else ""
    return f"the machine is {what}{heat}{rest}"
