"""4 Compare: the same prompt to two sources with the same seed, streamed side by side, rated, blind if one wishes."""

import asyncio
import random
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from edgetune.errors import EdgeTuneError
from edgetune.files import append_line
from edgetune.units import count, percent
from tui.child import ChildError, ask
from tui.literal import literal
from tui.ratings import FILE, Rating, Score, Verdict, rate, ratings, score
from tui.screens.correct import Correct
from tui.screens.stage import Stage
from tui.screens.talk_settings import TalkSettings
from tui.side import Side
from tui.sources import Source, all_sources
from tui.talk import Drawing
from tui.widgets.panel import Panel
from tui.widgets.prompt import Prompt
from tui.widgets.transcript import Transcript

PROMPTS = 200  # held-out rows that are stepped through


class CompareScreen(Stage):
    """Base against tuned. At 80 columns one side is shown at a time, and tab switches."""

    number = 4
    help = (
        "Both sides get the same prompt and the same seed, without memory of the prompts before. Escape leaves the prompt; "
        "then [ = ] rate: A better, no difference, B better. f3 hides which is which until you have rated. f4 asks the next "
        "held-out row, which the run never saw. c turns the answer into one of your own: it becomes a new row."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f2", "settings", "Settings", id="compare.settings"),
        Binding("f3", "blind", "Blind", id="compare.blind"),
        Binding("f4", "next", "Next", id="compare.next", tooltip="ask the next held-out prompt"),
        Binding("c", "correct", "Correct", id="compare.correct", tooltip="write the right answer: it becomes a row"),
        Binding("escape", "halt", "Stop", id="compare.stop"),
        Binding("left_square_bracket", "rate('a')", "A better", show=False, id="compare.a"),
        Binding("equals_sign", "rate('tie')", "No difference", show=False, id="compare.tie"),
        Binding("right_square_bracket", "rate('b')", "B better", show=False, id="compare.b"),
        Binding("tab", "switch", "Other side", show=False, id="compare.switch"),
    ]
    DEFAULT_CSS = """
    CompareScreen #sides { height: 1fr; }
    CompareScreen #sides > Panel { width: 1fr; height: 1fr; }
    CompareScreen #score { height: 3; }
    CompareScreen.-narrow #score { height: 1; border: none; padding: 0 1; }
    CompareScreen.-narrow #sides > .-hidden { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawing = Drawing()
        self.chosen: list[Source] = []
        self.sides: list[Side] = []
        self.shown = 0  # the side that is shown at 80 columns
        self.swapped = False  # blind: A stands at the right
        self.is_blind = False
        self.asked = ""  # the prompt that waits for a rating
        self.replies = ["", ""]
        self.prompts: list[dict[str, Any]] | None = None  # held out
        self.next_prompt = 0
        self.held_out = False

    def body(self) -> ComposeResult:
        """Two sides, the score, and where one writes."""
        with Horizontal(id="sides"):
            for side in ("a", "b"):
                empty = "Ask both below: the answers appear side by side."
                yield Panel(Transcript(empty, id=f"said-{side}"), id=f"side-{side}")
        yield Panel(Static("", id="score-line", markup=False), title="Score", id="score")
        yield Prompt("ask both…", id="prompt")
        yield Static("", id="how", classes="quiet", markup=False)

    # ---- what is compared --------------------------------------------------------------------------------------------

    def desk_changed(self) -> None:
        """The base against the nearest to the finished model, unless others were chosen."""
        sources = self.sources()
        if len(sources) > 1 and not all(each in sources for each in self.chosen or [None]):
            tuned = next((each for each in sources if each.kind == "tuned"), sources[1])
            self.choose([sources[0], tuned])
        self.show()

    def on_screen_resume(self) -> None:
        """One can write at once."""
        super().on_screen_resume()
        self.query_one(Prompt).focus()

    def sources(self) -> list[Source]:
        """What there is to compare."""
        return all_sources(self.desk.base_model, self.desk.run)

    def choose(self, chosen: list[Source]) -> None:
        """Compares these two from now on."""
        for side in self.sides:
            self.run_worker(side.close(), group="closing")
        self.chosen, self.asked = chosen, ""
        self.deal()
        for name in ("a", "b"):
            self.call_later(self.query_one(f"#said-{name}", Transcript).clear)

    def deal(self) -> None:
        """Gives each source its side; where it is blind, by chance."""
        self.swapped = self.is_blind and random.random() < 0.5
        talkers = {side.source: side.talker for side in self.sides if side.source in self.chosen}
        order = self.chosen[::-1] if self.swapped else self.chosen
        names = ("left", "right") if self.is_blind else tuple(self.who(each) for each in order)
        self.sides = [
            Side(source, self.query_one(f"#said-{side}", Transcript), name)
            for source, side, name in zip(order, ("a", "b"), names, strict=True)
        ]
        for side in self.sides:
            side.talker = talkers.get(side.source, side.talker)

    @staticmethod
    def who(source: Source) -> str:
        """A speaker's name in a few letters."""
        return {"base": "base", "tuned": "tuned", "gguf": "gguf"}.get(source.kind, source.label.rpartition(" ")[2][:6])

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Titles, score and settings."""
        if not self.is_standing:
            return
        titles = ["left", "right"] if self.is_hidden else [each.source.label for each in self.sides]
        for number, side in enumerate(("a", "b")):
            panel = self.query_one(f"#side-{side}", Panel)
            title = titles[number] if self.sides else "nothing to compare yet"
            panel.retitle(f"{side.upper()} · {title}")
            panel.remark("[ better" if side == "a" else "better ]")
            panel.set_class(number != self.shown, "-hidden")
        self.query_one("#score-line", Static).update(self.score_line(self.score()))
        self.query_one("#score", Panel).remark("[ A  = tie  ] B" if self.asked else "")
        drawing, blind = self.drawing, " · blind" if self.is_blind else ""
        line = f" temp {drawing.temperature:g} · seed {drawing.seed} · {drawing.max_tokens} tokens{blind}"
        line += "   ctrl+j new line   ↑ history"
        if not self.sides:
            line = " There is only one model so far: train with 3, and compare what it learned."
        self.query_one("#how", Static).update(literal(line))

    @property
    def is_hidden(self) -> bool:
        """Whether the person must not know yet which is which."""
        return self.is_blind and (bool(self.asked) or self.is_busy)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is coming."""
        return any(side.is_busy for side in self.sides)

    def score(self) -> Score:
        """Of the two that are compared."""
        if len(self.chosen) < 2:
            return Score()
        return score(ratings(self.ratings_file), self.chosen[0].label, self.chosen[1].label)

    def score_line(self, found: Score) -> Content:
        """Counts, and who wins."""
        if not found.rated:
            words = "rate with [ = ] after an answer" if self.asked else "nothing rated yet: ask, then rate with [ = ]"
            return Content.styled(words, "$quiet")
        numbers = Content.styled(f"{count(found.rated)} rated", "bold")
        numbers += literal(f"    A {found.a}   = {found.tie}   B {found.b}")
        if found.b_wins is not None:
            style = "$success" if found.b_wins > 0.5 else "$warning" if found.b_wins < 0.5 else "$quiet"
            numbers += Content.styled(f"     B wins {percent(found.b_wins)} of those decided", style)
        return numbers + Content.styled(f"     {count(found.held_out)} held out" if found.held_out else "", "$quiet")

    @property
    def ratings_file(self) -> Path:
        """Where ratings are kept."""
        return self.desk.folder / FILE

    # ---- asking ------------------------------------------------------------------------------------------------------

    def on_prompt_sent(self, message: Prompt.Sent) -> None:
        """Asks both."""
        if not self.sides:
            self.edgetune.complain("There is only one model so far", "train with 3, then compare what it learned")
        elif self.is_busy:
            self.query_one(Prompt).load_text(message.text)
            self.notify("The answers are still coming: escape stops them", markup=False)
        else:
            self.held_out = False
            self.start(message.text)

    def start(self, text: str) -> None:
        """Asks both, each in its own process."""
        self.asked = ""
        self.deal()
        self.show()
        self.run_worker(self.ask_both(text), group="answer", exclusive=True)

    async def ask_both(self, text: str) -> None:
        """The same prompt and seed to both at once."""
        results = await asyncio.gather(
            *(side.ask(text, self.drawing, keep=False) for side in self.sides), return_exceptions=True
        )
        for result in results:
            if isinstance(result, ChildError):
                self.edgetune.complain(result.message, result.hint)
            elif isinstance(result, BaseException):
                raise result
        replies = [result for result in results if isinstance(result, str)]
        if len(replies) == 2:
            self.replies = replies[::-1] if self.swapped else replies
            self.asked = text
        self.show()

    def action_rate(self, verdict: Verdict) -> None:
        """Notes which was better, and says which was which."""
        if not self.asked or len(self.chosen) < 2:
            return
        if self.swapped and verdict != "tie":
            verdict = "b" if verdict == "a" else "a"
        a, b = self.chosen
        rating = Rating(
            prompt=self.asked, a=a.label, b=b.label, reply_a=self.replies[0], reply_b=self.replies[1],
            verdict=verdict, blind=self.is_blind, held_out=self.held_out,
        )  # fmt: skip
        try:
            rate(self.ratings_file, rating)
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        if self.is_blind:
            names = {"a": a.label, "b": b.label}
            told = f"{names[verdict]} was better" if verdict in names else f"left was {(b if self.swapped else a).label}"
            self.notify(told, title="Blind", markup=False)
        self.asked = ""
        self.desk.note_change()
        self.show()

    # ---- keys --------------------------------------------------------------------------------------------------------

    def action_halt(self) -> None:
        """Stops the answers; without any, leaves the prompt, so that letters are keys again; then leads home."""
        if self.is_busy:
            for side in self.sides:
                self.run_worker(side.stop(), group="stopping")
        elif isinstance(self.focused, Prompt):
            self.query_one("#said-b" if self.shown else "#said-a").focus()
        else:
            self.edgetune.open_stage(0)

    def action_blind(self) -> None:
        """Hides which is which, from the next prompt on."""
        if not self.is_busy:
            self.is_blind, self.asked = not self.is_blind, ""
            self.show()

    def action_switch(self) -> None:
        """Shows the other side at 80 columns; elsewhere the focus goes on."""
        if self.has_class("-narrow"):
            self.shown = 1 - self.shown
            self.show()
            if not isinstance(self.focused, Prompt):
                self.query_one("#said-b" if self.shown else "#said-a").focus()
        else:
            self.focus_next()

    def action_next(self) -> None:
        """Asks the next held-out prompt; the rows are read when it is first asked for."""
        if self.sides and not self.is_busy:
            self.run_worker(self.ask_next(), group="held out", exclusive=True)

    async def ask_next(self) -> None:
        """Reads the held-out rows once, then asks one after the other."""
        if self.prompts is None:
            try:
                document = await ask(
                    ["data", *self.desk.data_arguments, "--model", self.desk.base_model, "--held-out", str(PROMPTS)]
                )
            except ChildError as error:
                self.edgetune.complain(error.message, error.hint)
                return
            self.prompts = list(document.get("held_out", []))
        if not self.prompts:
            self.edgetune.complain("There are no held-out prompts", "set data.valid in 3, so that rows are held out")
            return
        row = self.prompts[self.next_prompt % len(self.prompts)]
        self.next_prompt += 1
        self.held_out = True
        self.start(str(row["prompt"]))

    def action_correct(self) -> None:
        """The right answer, in the person's own words, becomes a row of the project."""
        prompt = self.asked or (str(self.prompts[self.next_prompt - 1]["prompt"]) if self.prompts and self.held_out else "")
        if not prompt:
            self.edgetune.complain("Nothing was asked yet", "ask both, then correct the answer with c")
            return

        def decided(answer: str | None) -> None:
            if answer:
                self.keep_correction(prompt, answer)

        self.edgetune.push_screen(Correct(prompt, self.replies[1]), decided)

    def keep_correction(self, prompt: str, answer: str) -> None:
        """Writes the row, and adds its file to the project's data."""
        file = self.desk.folder / "corrections.jsonl"
        row = {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
        try:
            append_line(file, msgspec.json.encode(row), "correction")
        except EdgeTuneError as error:
            self.edgetune.complain(error.message, error.hint)
            return
        self.desk.add_data(file)
        self.notify(f"It is a row of {file.name} now: the next run learns it", title="Corrected", markup=False)

    def action_settings(self) -> None:
        """Which two, and how answers are drawn."""
        sources = self.sources()
        if len(sources) < 2 or not self.chosen:
            self.edgetune.complain("There is only one model so far", "train with 3, then compare what it learned")
            return

        def decided(result: tuple[Drawing, list[Source]] | None) -> None:
            if result:
                self.drawing = result[0]
                if result[1] != self.chosen:
                    self.choose(result[1])
                self.show()

        self.edgetune.push_screen(TalkSettings(self.drawing, sources, self.chosen, ["A", "B"]), decided)
