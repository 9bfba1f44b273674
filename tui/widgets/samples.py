"""What the model answers while it learns: a prompt, the first answer, and the newest beside it."""

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from edgetune.workspace.run_state import Sample
from tui.literal import literal


class SampleView(VerticalScroll):
    """One prompt at a time."""

    help_text = "The same prompt, answered before and now. [ and ] step through the prompts, g asks one of your own."
    DEFAULT_CSS = """
    SampleView { height: 1fr; scrollbar-size-vertical: 1; }
    SampleView Horizontal { height: auto; }
    SampleView .who { width: 8; color: $quiet; }
    SampleView .said { width: 1fr; height: auto; }
    SampleView #sample-first { color: $quiet; }
    SampleView .-hidden { display: none; }
    """

    def __init__(self, id: str | None = None):
        super().__init__(id=id)
        self.samples: tuple[Sample, ...] = ()
        self.at = 0
        self.drawn: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """Prompt, first answer, newest answer."""
        yield Static("", id="sample-prompt", markup=False)
        for name in ("first", "newest"):
            with Horizontal(id=f"row-{name}"):
                yield Static("", id=f"who-{name}", classes="who", markup=False)
                yield Static("", id=f"sample-{name}", classes="said", markup=False)

    def show(self, samples: tuple[Sample, ...], empty: Content) -> None:
        """What there is to see now."""
        self.samples = samples
        self.at = min(self.at, max(len(samples) - 1, 0))
        drawn = (samples[self.at] if samples else empty,)
        if drawn != self.drawn:
            self.drawn = drawn
            self.draw_sample(samples[self.at] if samples else None, empty)

    def draw_sample(self, sample: Sample | None, empty: Content) -> None:
        """Replaces the texts."""
        prompt = self.query_one("#sample-prompt", Static)
        prompt.update(literal("› ", "$primary") + literal(sample.prompt.strip(), "bold") if sample else empty)
        both = sample is not None and sample.step != sample.first_step
        self.query_one("#row-first").set_class(not both, "-hidden")
        self.query_one("#row-newest").set_class(sample is None, "-hidden")
        if sample is None:
            return
        texts = (("first", sample.first_step, sample.first), ("newest", sample.step, sample.reply))
        for name, step, text in texts:
            self.query_one(f"#who-{name}", Static).update(literal("base" if step == 0 else str(step)))
            self.query_one(f"#sample-{name}", Static).update(literal(text.strip() or "(it said nothing)"))

    def step(self, by: int) -> None:
        """Another prompt."""
        if self.samples:
            self.at = (self.at + by) % len(self.samples)

    @property
    def title(self) -> str:
        """Which one is shown."""
        if not self.samples:
            return "Samples"
        return f"Sample {self.at + 1}/{len(self.samples)} · step {self.samples[self.at].step}"
