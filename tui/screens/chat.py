"""Chat: a conversation with what was made, through llama.cpp where there is a GGUF."""

from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from tui.child import ChildError
from tui.literal import literal
from tui.screens.stage import Stage
from tui.screens.talk_settings import TalkSettings
from tui.side import Side
from tui.sources import Source, all_sources
from tui.talk import Drawing
from tui.widgets.panel import Panel
from tui.widgets.prompt import Prompt
from tui.widgets.transcript import Transcript

BEST_FIRST = ("gguf", "tuned", "step", "base")


class ChatScreen(Stage):
    """One conversation: the newest export if there is one, else what the run has learned, else the base."""

    help = (
        "Talk with your model. It runs in a process of its own; nothing leaves this machine. Enter sends, ctrl+j is a new "
        "line, ↑ brings back what you sent. Escape stops an answer, then leaves the prompt."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f2", "settings", "Settings", id="chat.settings"),
        Binding("f3", "retry", "Again", id="chat.retry", tooltip="another answer to the last message"),
        Binding("f4", "edit", "Edit", id="chat.edit", tooltip="take your last message back and change it"),
        Binding("f5", "anew", "New", id="chat.new", tooltip="forget what was said"),
        Binding("escape", "halt", "Stop", id="chat.stop"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.drawing = Drawing(max_tokens=512)
        self.side: Side | None = None
        self.source: Source | None = None

    def body(self) -> ComposeResult:
        """The conversation, and where one writes."""
        yield Panel(Transcript("Say something below: Enter sends it.", id="said"), title="Chat", id="chat", classes="fill")
        yield Prompt("your message…", id="prompt")
        yield Static("", id="how", classes="quiet", markup=False)

    def desk_changed(self) -> None:
        """The best source that there is, unless one was chosen."""
        sources = self.sources()
        if self.source is None and sources:
            self.take_source(min(sources, key=lambda each: BEST_FIRST.index(each.kind)))
        self.show_how()

    def on_screen_resume(self) -> None:
        """One can write at once."""
        super().on_screen_resume()
        self.query_one(Prompt).focus()

    def sources(self) -> list[Source]:
        """What one can talk with."""
        return all_sources(self.desk.base_model, self.desk.run)

    def open_source(self, source: Source) -> None:
        """Talks with this from now on: how the export screen hands its file over."""
        self.take_source(source)

    def take_source(self, source: Source) -> None:
        """Another source begins another conversation."""
        if source == self.source:
            return
        if self.side:
            self.run_worker(self.side.close(), group="closing")
        self.source = source
        self.side = Side(source, self.query_one(Transcript), "model")
        self.query_one("#chat", Panel).retitle(f"Chat · {source.label}")
        self.call_later(self.query_one(Transcript).clear)

    def show_how(self) -> None:
        """How answers are drawn, on one line."""
        drawing = self.drawing
        what = f" temp {drawing.temperature:g} · seed {drawing.seed} · {drawing.max_tokens} tokens"
        system = f" · system: {drawing.system}" if drawing.system else ""
        line = literal(" ".join((what + system).split())) if self.source else Content("There is no model yet: press 1.")
        self.query_one("#how", Static).update(Content(" ") + line)

    # ---- talking -----------------------------------------------------------------------------------------------------

    def on_prompt_sent(self, message: Prompt.Sent) -> None:
        """Asks."""
        if self.side is None:
            self.edgetune.complain("There is nothing to talk with yet", "choose a model with 1, or train with 3")
        elif self.side.is_busy:
            self.query_one(Prompt).load_text(message.text)
            self.notify("The answer is still coming: escape stops it", markup=False)
        else:
            self.run_worker(self.ask(message.text), group="answer", exclusive=True)

    async def ask(self, text: str) -> None:
        """One turn."""
        assert self.side is not None
        try:
            await self.side.ask(text, self.drawing)
        except ChildError as error:
            self.edgetune.complain(error.message, error.hint)

    def action_halt(self) -> None:
        """Stops the answer; without one, leaves the prompt; then leads home."""
        if self.side and self.side.is_busy:
            self.run_worker(self.side.stop(), group="stopping")
        elif isinstance(self.focused, Prompt):
            self.query_one(Transcript).focus()
        else:
            self.edgetune.open_stage(0)

    def action_retry(self) -> None:
        """Another answer to the last message, with the next seed."""
        if self.side and not self.side.is_busy and (turn := self.side.take_back()):
            self.drawing = self.drawing._replace(seed=(self.drawing.seed + 1) % (1 << 32))
            self.show_how()
            self.run_worker(self.ask(turn.user), group="answer", exclusive=True)

    def action_edit(self) -> None:
        """The last message comes back into the prompt, its answer is forgotten."""
        if self.side and not self.side.is_busy and (turn := self.side.take_back()):
            prompt = self.query_one(Prompt)
            prompt.load_text(turn.user)
            prompt.move_cursor(prompt.document.end)
            prompt.focus()

    def action_anew(self) -> None:
        """Forgets what was said."""
        if self.side and not self.side.is_busy:
            self.side.turns.clear()
            self.call_later(self.query_one(Transcript).clear)

    def action_settings(self) -> None:
        """What answers, and how."""
        sources = self.sources()
        if not sources or self.source is None:
            self.edgetune.complain("There is nothing to talk with yet", "choose a model with 1, or train with 3")
            return

        def decided(result: tuple[Drawing, list[Source]] | None) -> None:
            if result:
                self.drawing = result[0]
                self.take_source(result[1][0])
                self.show_how()

        screen = TalkSettings(self.drawing, sources, [self.source], ["Model"])
        self.edgetune.push_screen(screen, partial(decided))
