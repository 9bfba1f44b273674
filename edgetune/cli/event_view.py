"""Events as a person reads them: calm lines for what matters, and one line at the bottom for what moves."""

import time
from collections import Counter
from collections.abc import Callable

from edgetune import events
from edgetune.cli.night_lines import night_line, trouble
from edgetune.cli.output import Output, Part, Styled, one_line
from edgetune.events import Event
from edgetune.units import count, duration, parameters, percent, rate, size
from edgetune.workspace.run_state import RunState, fold

BAR = 24  # cells
SAMPLE = 200  # characters of a sample that are shown
LINES = 20  # step lines of a whole run, whatever its length
NEWEST = 10  # rare events that are told of a run's past
TOLD_BY_THE_TABLE = (
    events.RunStarted | events.ValidationFinished | events.CheckpointSaved | events.RunFinished | events.RunStopped
    | events.RunFailed
)  # fmt: skip
LONG = 2.0  # seconds after which a job owes a sign of life
CALM = 10.0  # seconds between two lines where there is no bottom line to draw over
REDRAW = 0.1  # seconds between two drawings of the bottom line


class EventView:
    """Shows one event after the other. The clock is told, so that tests need none."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic):
        self.output, self.clock = output, clock
        self.run = RunState()
        self.left_out: list[events.RowsLeftOut] = []
        self.stage, self.stage_start, self.stage_first, self.drawn = "", 0.0, 0.0, 0.0
        self.table_begun, self.line_time = False, 0.0

    def show(self, event: Event) -> None:
        """Draws what this event changes."""
        self.run = fold(self.run, event)
        if not isinstance(event, events.RowsLeftOut):
            self.tell_left_out()
        match event:
            case events.Progress():
                self.progress(event)
            case events.RowsLeftOut():
                self.left_out.append(event)
            case events.RunStarted():
                self.started(event)
            case events.StepFinished():
                self.step(event)
            case events.ValidationFinished():
                best = Styled("best so far", "green") if event.best else f"best {self.run.best_loss or event.loss:.4f}"
                self.row(event.step, event.loss, "held-out rows · ", best)
            case events.SampleWritten():
                self.output.note(Styled(f"          › {event.prompt}", "dim"))
                reply = one_line(event.reply)
                self.output.note(f"            {reply if len(reply) <= SAMPLE else reply[:SAMPLE] + '…'}")
            case _:
                self.rare(event)

    def rare(self, event: Event) -> None:
        """Events that most runs never see."""
        match event:
            case events.Warned():
                self.warn(event.message, event.hint)
            case events.StepSkipped():
                self.warn(
                    f"step {count(event.step)} changed nothing: {event.reason}",
                    f"rows {', '.join(event.rows)}" if event.rows else "",
                )
            case events.CheckpointRejected():
                self.warn(f"{event.folder} is not used: {event.reason}")
            case events.RolledBack() | events.Diverged():
                self.warn(*trouble(event))
            case events.RunPaused():
                self.output.note(f"paused after step {count(event.step)}{f': {event.reason}' if event.reason else ''}")
            case events.RunResumed():
                self.output.note(f"goes on after step {count(event.step)}")
            case events.MemoryShort() | events.Throttled():
                self.quiet(*night_line(event), "yellow")
            case events.KeptAwake() | events.PowerChanged() | events.Recovered() | events.Slept() | events.ClockChanged():
                self.quiet(*night_line(event), "dim")
            case events.HopScored():
                loss = f"loss {event.loss:.4f} ({event.loss_delta:+.4f})"
                scores = f"{loss} · KL {event.kl:.4f} · same token {percent(event.top1_agreement)}"
                self.output.note(f"  {event.hop:<10} {scores}")
            case _:
                self.output.clear_status()

    def warn(self, message: str, hint: str = "") -> None:
        """A line that stands out, and what to do about it."""
        self.output.note(Styled("warning:", "yellow"), f" {message}")
        if hint:
            self.output.note(Styled("hint:", "cyan"), f" {hint}")

    def quiet(self, message: str, hint: str, style: str) -> None:
        """A line that says what happened by itself, and what to do about it if there is anything."""
        self.output.note(Styled(message, style))
        if hint:
            self.output.note(Styled("hint:", "cyan"), f" {hint}")

    def tell_left_out(self) -> None:
        """Rows that are left out, counted by kind in one line; the first of them as an example."""
        if self.left_out:
            kinds = Counter(event.kind for event in self.left_out)
            first = self.left_out[0]
            counts = ", ".join(f"{count(number)} {kind}" for kind, number in kinds.most_common())
            self.warn(
                f"rows not learned as they are: {count(len(self.left_out))} ({counts})",
                f"the first is {first.file}:{first.line}: {first.message}; `edgetune data` lists them all",
            )
            self.left_out = []

    # ---- a run -----------------------------------------------------------------------------------------------------

    def started(self, event: events.RunStarted) -> None:
        """What is trained, on what, how long, and how much memory it was planned to take."""
        rows = f"{count(event.train_rows)} rows ({count(event.trained_tokens)} trained tokens)"
        self.output.note(
            f"{parameters(event.trained_parameters)} parameters learn {rows}; {count(event.valid_rows)} rows are held out"
        )
        memory = f" · memory at most {size(event.planned_peak_bytes)}" if event.planned_peak_bytes else ""
        begin = f"after step {count(event.first_step)} of " if event.first_step else ""
        self.output.note(f"{begin}{count(event.total_steps)} steps · {event.backend}{memory}")
        self.table_begun = False

    def catch_up(self, state: RunState) -> None:
        """What a run has told before somebody began to look: its table so far, in as many lines as it would have had."""
        self.run = state
        if state.started is None:
            return
        self.started(state.started)
        points = state.curve.points
        shown = points[:: -(-len(points) // LINES)] if points else ()
        rows = [(point.step, 0, point.loss) for point in shown] + [(point.step, 1, point.loss) for point in state.validations]
        for step, held_out, loss in sorted(rows):
            self.row(step, loss, *([f"held-out rows{' · best so far' if loss == state.best_loss else ''}"] if held_out else []))
        for event in state.log[-NEWEST:]:
            if not isinstance(event, TOLD_BY_THE_TABLE):
                self.rare(event)

    def step(self, event: events.StepFinished) -> None:
        """A line for each twentieth of the run (in a log also when the last one is long ago), and the bottom line."""
        due = event.step % max(1, self.run.total_steps // LINES) == 0 or event.step == self.run.total_steps
        if due or not self.table_begun or (not self.output.live and self.clock() - self.line_time >= 60):
            left = duration(self.run.seconds_left or 0)
            self.row(event.step, event.loss, f"{self.run.tokens_per_second:8,.0f}   {left}")
        done = event.step / max(1, self.run.total_steps)
        pace = f"{rate(self.run.tokens_per_second, 'tokens')} · {duration(self.run.seconds_left or 0)} left"
        self.bottom(*bar(done), f" {count(event.step)}/{count(self.run.total_steps)} · loss {event.loss:.4f} · {pace}")

    def row(self, step: int, loss: float, *rest: Part) -> None:
        """One line of the table of steps; the head comes before the first."""
        if not self.table_begun:
            self.output.note(Styled(f"{'step':>8}  {'loss':>8}   tokens/s   left", "dim"))
        self.table_begun, self.line_time = True, self.clock()
        self.output.note(f"{count(step):>8}  {loss:8.4f}{'   ' if rest else ''}", *rest)

    # ---- any job of many equal parts -------------------------------------------------------------------------------

    def progress(self, event: events.Progress) -> None:
        """Nothing for what is quick; a bar, or a line now and then, for what takes more than two seconds."""
        now = self.clock()
        if event.stage != self.stage:
            self.stage, self.stage_start, self.stage_first, self.drawn = event.stage, now, event.done, now
        passed = now - self.stage_start
        if event.total and event.done >= event.total:
            self.stage = ""
            self.output.clear_status()
            if passed > LONG:
                self.output.note(f"{event.stage} took {duration(passed)}")
        elif self.output.live and passed > LONG / 4:
            share = event.done / event.total if event.total else 0.0
            self.bottom(f"{event.stage} ", *bar(share), f" {self.how_far(event, passed)}")
        elif not self.output.live and passed > LONG and now - self.drawn >= CALM:
            self.drawn = now
            self.output.note(f"{event.stage} {self.how_far(event, passed)}")

    def how_far(self, event: events.Progress, passed: float) -> str:
        """The share that is done, the pace since the stage began, and what is left at that pace."""
        pace = (event.done - self.stage_first) / passed if passed > 0 else 0.0
        parts = [percent(event.done / event.total)] if event.total else []
        parts.append(f"{size(pace)}/s" if event.unit == "bytes" else rate(pace, event.unit))
        if event.total and pace > 0:
            parts.append(f"{duration((event.total - event.done) / pace)} left")
        return " · ".join(parts)

    def bottom(self, *parts: Part) -> None:
        """Draws the bottom line, not more often than an eye can follow."""
        if self.clock() - self.drawn >= REDRAW or not self.output.status_is_shown:
            self.drawn = self.clock()
            self.output.status(*parts)


def bar(share: float) -> list[Part]:
    """A bar of BAR cells, filled to `share`."""
    full = round(BAR * min(max(share, 0.0), 1.0))
    return [Styled("━" * full, "green"), Styled("╌" * (BAR - full), "dim")]
