"""f2: what answers, and how answers are drawn."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.validation import Integer, Number
from textual.widgets import Button, Input, Label, Select, Static, TextArea

from tui.literal import literal
from tui.sources import Source
from tui.talk import Drawing


class TalkSettings(ModalScreen[tuple[Drawing, list[Source]] | None]):
    """One choice of a source for each side, then the numbers. Escape leaves everything as it was."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="talk_settings.leave"),
        Binding("ctrl+s", "take", "Use", id="talk_settings.take"),
    ]
    DEFAULT_CSS = """
    TalkSettings { align: center middle; background: $background 60%; }
    TalkSettings > Vertical { width: 72; max-width: 96%; height: auto; max-height: 96%; border: round $primary; padding: 0 2;
        background: $panel; border-title-color: $primary; }
    TalkSettings .row { height: 1; margin-top: 1; }
    TalkSettings Label { width: 14; color: $quiet; }
    TalkSettings Input { width: 1fr; height: 1; border: none; background: $surface; padding: 0 1; }
    TalkSettings Input:focus { border: none; background: $block-cursor-background; }
    TalkSettings Select { width: 1fr; }
    TalkSettings TextArea { width: 1fr; height: 3; border: none; background: $surface; }
    TalkSettings TextArea:focus { border: none; background: $block-cursor-background; }
    TalkSettings #system-row { height: 3; }
    TalkSettings #wrong { color: $error; height: auto; margin-top: 1; }
    TalkSettings #answers { height: 1; align-horizontal: right; }
    TalkSettings Button { margin-left: 2; }
    """

    def __init__(self, drawing: Drawing, sources: list[Source], chosen: list[Source], names: list[str]):
        super().__init__()
        self.drawing, self.sources, self.chosen, self.names = drawing, sources, chosen, names

    def compose(self) -> ComposeResult:
        """The form."""
        box = Vertical()
        box.border_title = "Settings"
        with box:
            for index, (name, source) in enumerate(zip(self.names, self.chosen, strict=True)):
                options = [(literal(each.label), number) for number, each in enumerate(self.sources)]
                value = next((number for number, each in enumerate(self.sources) if each == source), 0)
                with Horizontal(classes="row"):
                    yield Label(name)
                    yield Select(options, value=value, allow_blank=False, compact=True, id=f"source{index}")
            fields = (
                ("temperature", Number(0, 10)), ("top_p", Number(0.01, 1)),
                ("seed", Integer(0, (1 << 32) - 1)), ("max_tokens", Integer(1, 1 << 20)),
            )  # fmt: skip
            for name, validator in fields:
                with Horizontal(classes="row"):
                    yield Label(name.replace("_", " "))
                    yield Input(str(getattr(self.drawing, name)), id=name, validators=[validator], compact=True)
            with Horizontal(classes="row", id="system-row"):
                yield Label("system text")
                yield TextArea(self.drawing.system, id="system", tab_behavior="focus", compact=True)
            yield Static("", id="wrong", markup=False)
            with Horizontal(id="answers"):
                yield Button("Back (esc)", id="no", compact=True)
                yield Button("Use (ctrl+s)", variant="primary", id="yes", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A click is an answer."""
        if event.button.id == "yes":
            self.action_take()
        else:
            self.action_leave()

    def on_input_submitted(self) -> None:
        """Enter in a field takes the form."""
        self.action_take()

    def action_take(self) -> None:
        """Gives the settings, if every field is within its bounds."""
        for field in self.query(Input):
            result = field.validate(field.value)
            if result is not None and not result.is_valid:
                self.query_one("#wrong", Static).update(literal(f"{field.id}: {result.failure_descriptions[0]}"))
                field.focus()
                return
        value = {field.id: field.value for field in self.query(Input)}
        drawing = Drawing(
            float(value["temperature"]), float(value["top_p"]), int(value["seed"]), int(value["max_tokens"]),
            self.query_one("#system", TextArea).text.strip(),
        )  # fmt: skip
        chosen: list[Source] = []
        for index in range(len(self.names)):
            number: object = self.query_one(f"#source{index}", Select).value
            chosen.append(self.sources[number] if isinstance(number, int) else self.chosen[index])
        self.dismiss((drawing, chosen))

    def action_leave(self) -> None:
        """Nothing changes."""
        self.dismiss(None)
