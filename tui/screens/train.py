"""3 Train, while it runs: the dashboard. It follows a run in another process, and sends it wishes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from edgetune.errors import EdgeTuneError
from edgetune.training.control import AnyCommand, Pause, Resume, Sample, Save, Stop, send
from edgetune.units import duration
from edgetune.workspace.run_state import RunState
from tui import dashboard
from tui.literal import literal, one_line
from tui.run_view import RunReader, RunView
from tui.screens.event_log import EventLog
from tui.screens.stage import Stage
from tui.widgets.dialogs import Ask, Question
from tui.widgets.panel import Lines, Panel
from tui.widgets.plot import LossPlot
from tui.widgets.samples import SampleView

Tile = Callable[[RunView], list[Content]]
TILES: tuple[tuple[str, str, str, Tile], ...] = (  # id, title, class, what it says
    ("train", "Train loss", "", dashboard.train_tile),
    ("valid", "Val loss", "", dashboard.valid_tile),
    ("speed", "Tokens/s", "", dashboard.speed_tile),
    ("rate", "Rate", "", dashboard.rate_tile),
    ("norm", "Grad norm", "wide-only", dashboard.norm_tile),
    ("room", "Memory", "narrow-only", dashboard.memory_tile),
)
ACTIONS = {  # which keys there are in which phase
    "pause": ("training", "paused"),
    "save": ("training", "paused"),
    "sample": ("training", "paused"),
    "stop": ("starting", "training", "paused"),
    "resume": ("stopped", "failed", "interrupted"),
    "new": ("none", "stopped", "finished", "failed", "interrupted"),
    "zoom": ("training", "paused", "stopped", "finished", "failed", "interrupted"),
}


class TrainScreen(Stage):
    """Status, tiles, loss, memory, samples and events of the run that is open."""

    number = 3
    help = (
        "It trains in a process of its own: leaving the app does not stop it. Space pauses it after the step at hand, with "
        "everything saved, and lets it go on. s saves a checkpoint, g asks it a prompt of yours, x stops it; r goes on later, "
        "exactly where it stopped. z shows fewer steps of the loss, ← → move along, [ ] step through the samples."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause", id="train.pause", tooltip="save and wait; once more: go on"),
        Binding("s", "save", "Save", id="train.save", tooltip="write a checkpoint now"),
        Binding("g", "sample", "Sample", id="train.sample", tooltip="ask the model a prompt as it is now"),
        Binding("r", "resume", "Resume", id="train.resume", tooltip="go on where it stopped"),
        Binding("n", "new", "Settings", id="train.new", tooltip="settings of a new run"),
        Binding("l", "log", "Log", id="train.log", tooltip="everything that the run has told"),
        Binding("z", "zoom", "Zoom", id="train.zoom", tooltip="fewer steps of the loss; then all again"),
        Binding("x", "stop", "Stop", id="train.stop", tooltip="stop the run; it can go on later"),
        Binding("left_square_bracket", "prompt(-1)", "Previous sample", show=False, id="train.previous"),
        Binding("right_square_bracket", "prompt(1)", "Next sample", show=False, id="train.next"),
    ]
    DEFAULT_CSS = """
    TrainScreen #status { height: 1; }
    TrainScreen #tiles { height: 4; }
    TrainScreen #tiles > Panel { width: 1fr; height: 4; }
    TrainScreen.-narrow #tiles, TrainScreen.-narrow #tiles > Panel { height: 3; }
    TrainScreen #notice { display: none; }
    TrainScreen #notice.-shown { display: block; }
    TrainScreen #middle { height: 3fr; }
    TrainScreen #loss { width: 2fr; height: 1fr; }
    TrainScreen #memory { width: 1fr; height: 1fr; }
    TrainScreen #below { height: 2fr; min-height: 6; }
    TrainScreen #sample { width: 2fr; height: 1fr; }
    TrainScreen #events { width: 1fr; height: 1fr; }
    TrainScreen.-wide #sample-prompt, TrainScreen.-wide #row-first { margin-bottom: 1; }
    TrainScreen.-narrow #middle { height: 5fr; min-height: 6; }
    TrainScreen.-narrow #below { height: 4fr; min-height: 5; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.reader: RunReader | None = None
        self.view = RunView()
        self.noticed = ""  # the title of the notice
        self.wish = ""
        self.wished: RunState | None = None  # how the run stood when something was asked of it

    def body(self) -> ComposeResult:
        """The frame; `desk_changed` fills it."""
        yield Lines(id="status")
        with Horizontal(id="tiles"):
            for name, title, kind, _ in TILES:
                yield Panel(Lines(id=f"tile-{name}"), title=title, classes=kind or None)
        yield Panel(Lines(id="notice-lines"), id="notice")
        with Horizontal(id="middle"):
            yield Panel(LossPlot(id="plot"), title="Loss", remark="⠒ train  ◆ val", id="loss")
            yield Panel(Lines(id="memory-lines"), title="Memory", id="memory", classes="wide-only")
        with Horizontal(id="below"):
            yield Panel(SampleView(id="samples"), title="Samples", remark="g new sample", id="sample")
            yield Panel(Vertical(Lines(id="event-lines")), title="Events", remark="l all", id="events", classes="wide-only")

    def on_mount(self) -> None:
        """The plot is at hand: its keys are arrows, which nothing else here needs."""
        super().on_mount()
        self.query_one(LossPlot).focus()
        self.set_interval(1.0, self.beat)

    def beat(self) -> None:
        """Time, memory and log move without an event."""
        if self.is_current and self.view.phase in ("starting", "training", "paused"):
            self.desk_changed()

    def on_resize(self) -> None:
        """Lines that fill their width are laid out anew."""
        self.call_after_refresh(self.draw)

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def desk_changed(self) -> None:
        """Reads the run as it stands, and shows what differs."""
        run, phase = self.desk.run, self.view.phase
        if run is None:
            self.reader, self.view = None, RunView()
        else:
            if self.reader is None or self.reader.run != run:
                self.reader, self.wish = RunReader(run, self.log_file(run)), ""
            self.forget_wish()
            self.view = self.reader.view(self.desk.state, self.desk.alive, self.wish)
        if self.view.phase != phase:
            self.refresh_bindings()  # the footer is made anew: only where other keys are offered
        self.draw()

    def log_file(self, run: Path) -> Path:
        """What a run's process writes besides its events."""
        return self.desk.log_of(run)

    def forget_wish(self) -> None:
        """A wish is over once the run has done it, or is at its end."""
        state, before = self.desk.state, self.wished
        if before is None or not self.wish:
            return
        done = state.phase != before.phase or len(state.log) != len(before.log) or state.log[-1:] != before.log[-1:]
        if done or state.samples != before.samples or state.starts != before.starts:
            self.wish, self.wished = "", None

    def draw(self) -> None:
        """One frame."""
        if not self.is_standing or not self.size.width:
            return
        view = self.view
        self.query_one("#status", Lines).show(dashboard.status_line(view, self.size.width))
        lines = 1 if self.has_class("-narrow") else 2
        for name, _, _, tile in TILES:
            self.query_one(f"#tile-{name}", Lines).show(*tile(view)[:lines])
        self.draw_notice(view)
        self.draw_plot(view)
        self.draw_samples(view)
        if not self.has_class("-narrow"):
            memory, events = self.query_one("#memory-lines", Lines), self.query_one("#event-lines", Lines)
            memory.show(*dashboard.memory_lines(view, memory.size.width or 34))
            events.show(*dashboard.log_lines(view.state, events.size.width or 34)[:40])

    def draw_notice(self, view: RunView) -> None:
        """What a person must know before anything else."""
        title, style, lines = dashboard.notice(view)
        panel = self.query_one("#notice", Panel)
        panel.set_class(bool(lines), "-shown")
        if lines:
            if title != self.noticed:
                self.noticed = title
                panel.border_title = literal(title, f"bold {style}")  # pyright: ignore[reportAttributeAccessIssue]
            self.query_one("#notice-lines", Lines).show(*lines)

    def draw_plot(self, view: RunView) -> None:
        """The loss, and which steps of it are seen."""
        plot, panel = self.query_one(LossPlot), self.query_one("#loss", Panel)
        plot.show(view.state.curve, view.state.validations, view.total, self.nothing_yet(view))
        first, last = plot.window
        panel.retitle("Loss" if plot.zoom >= 1 else f"Loss · steps {first:,}–{last:,}")

    def nothing_yet(self, view: RunView) -> Content:
        """What stands where the loss will appear."""
        first = dashboard.quiet("The loss appears with the first step.")
        if view.phase != "starting":
            return first if view.phase in ("training", "none") else dashboard.quiet("No step was made.")
        lines = [first, Content("")]
        if progress := view.state.progress:
            share = progress.done / progress.total if progress.total else 0
            part = f"{share:.0%}" if progress.total else f"{progress.done:,.0f} {progress.unit}"
            lines.append(one_line(f"{progress.stage}  {part}", "$primary"))
        elif wrote := view.log.strip().splitlines():
            lines.append(one_line(wrote[-1], "$primary"))
        else:
            waited = f" · {duration(self.reader.waited)}" if self.reader else ""
            lines.append(literal(f"reading the model and the rows{waited}", "$primary"))
        return Content("\n").join(lines)

    def draw_samples(self, view: RunView) -> None:
        """One prompt, before and now."""
        samples, panel = self.query_one(SampleView), self.query_one("#sample", Panel)
        wanted = bool(view.config and view.config.checks.samples)
        text = "Answers appear with each validation." if wanted else "What the model answers while it trains appears here."
        samples.show(view.state.samples, dashboard.quiet(text))
        panel.retitle(samples.title)
        panel.remark("[ ] other prompts · g new sample" if len(view.state.samples) > 1 else "g new sample")

    # ---- keys --------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that mean nothing in this phase are not offered."""
        return action not in ACTIONS or self.view.phase in ACTIONS[action]

    def ask_run(self, command: AnyCommand, wish: str) -> None:
        """Sends a wish, and shows that it was heard."""
        run = self.desk.run
        if run is None:
            return
        try:
            send(run, command)
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        self.want(wish)

    def want(self, wish: str) -> None:
        """What was asked for stands in the status line until it is done."""
        self.wish, self.wished = wish, self.desk.state
        self.desk_changed()

    def action_pause(self) -> None:
        """Pauses, or goes on."""
        if self.view.phase == "paused":
            self.ask_run(Resume(), "going on…")
        else:
            self.ask_run(Pause(), "pausing…")

    def action_save(self) -> None:
        """Writes a checkpoint."""
        self.ask_run(Save(), "saving…")

    def action_sample(self) -> None:
        """Asks for a prompt, and has it answered."""

        def decided(prompt: str | None) -> None:
            if prompt:
                self.ask_run(Sample(prompt=prompt), "answering…")

        hint = "It is answered between two steps, by the model as it is now."
        self.edgetune.push_screen(Ask("Ask the model", hint, placeholder="a prompt"), decided)

    def action_stop(self) -> None:
        """Stops the run, after a question."""

        def decided(yes: bool | None) -> None:
            if yes and self.view.phase == "starting":
                self.end_process()
            elif yes:
                self.ask_run(Stop(), "stopping…")

        text = "It stops after the step at hand, with everything saved. r goes on later exactly there."
        self.edgetune.push_screen(Question("Stop this run?", text, yes="Stop", no="Go on"), decided)

    def end_process(self) -> None:
        """A run that has made no step yet hears only signals."""
        process = self.reader.process() if self.reader else None
        if process is not None and self.desk.alive:
            os.kill(process, signal.SIGINT)
            self.want("stopping…")

    def action_resume(self) -> None:
        """Goes on from the newest checkpoint."""
        try:
            self.desk.resume_run()
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        self.want("resuming…")

    def action_new(self) -> None:
        """Settings of a new run."""
        self.edgetune.open_screen("plan")

    def action_zoom(self) -> None:
        """Fewer steps of the loss."""
        self.query_one(LossPlot).cycle()
        self.draw_plot(self.view)

    def action_prompt(self, by: int) -> None:
        """Another sample."""
        self.query_one(SampleView).step(by)
        self.draw_samples(self.view)

    def action_log(self) -> None:
        """Everything that happened."""
        tail = self.reader.tail() if self.reader else ""
        self.edgetune.push_screen(EventLog(self.view.state.log, tail, f"Log of {self.view.name or 'no run'}"))
