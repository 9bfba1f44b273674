"""5 Export: which files, how they are made and proved, and what runs them. A job works; cancelling leaves files whole."""

import asyncio
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import DataTable

from edgetune.config import RunConfig, load
from edgetune.errors import EdgeTuneError
from edgetune.events import AnyEvent
from edgetune.files import free_space
from edgetune.units import size
from edgetune.workspace.job import Job
from tui import export_view as view
from tui.child import ChildError, ask
from tui.dashboard import keys, quiet
from tui.export_state import ADAPTER, FORMATS, USUAL, Certified, ExportState, Format, Phase, read_certificate
from tui.literal import cell, literal, one_line
from tui.screens.choose_run import ChooseRun
from tui.screens.stage import Stage
from tui.sources import Source
from tui.widgets.dialogs import Question
from tui.widgets.panel import Lines, Panel
from tui.work import follow, running, work

FRAME = 0.1  # seconds between two drawings of a child that tells more than an eye can follow


class Formats(DataTable[Any]):
    """The types of file; space selects."""

    help_text = "Space selects a type, e makes all that are selected. What was proved stands beside each: loss, KL, same token."


class ExportScreen(Stage):
    """Formats, source, steps, proof, and the command that runs a file anywhere."""

    number = 5
    help = (
        "Space selects the types, e makes them: merge, convert, quantise, and prove each file on rows that training never saw. "
        "A file that lost what was learned is not handed over. loss: nats per token more than the trained model; KL: how far "
        "its predictions are from it; same: how often the likeliest token agrees. t talks with the file under the cursor, c "
        "copies the command that runs it, o shows it in its folder, r takes another run. Esc cancels; files stay whole."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "select", "Select", id="export.select"),
        Binding("e", "export", "Export", id="export.start", tooltip="make and prove the selected files"),
        Binding("c", "copy", "Copy", id="export.copy", tooltip="copy the command that runs the file"),
        Binding("o", "reveal", "Reveal", id="export.reveal", tooltip="show the file in its folder"),
        Binding("t", "talk", "Try it", id="export.try", tooltip="talk with the file under the cursor"),
        Binding("r", "run", "Another run", id="export.run", show=False, tooltip="export another run"),
        Binding("escape", "halt", "Back", id="export.back", show=False),
    ]
    DEFAULT_CSS = """
    ExportScreen #above { height: 1fr; min-height: 9; }
    ExportScreen #formats { width: 2fr; height: 1fr; padding: 0; }
    ExportScreen #beside { width: 1fr; height: 1fr; }
    ExportScreen #proof { height: 1fr; }
    ExportScreen #steps-panel { height: 7; }
    ExportScreen #problem { display: none; border: round $error; }
    ExportScreen #problem.-shown { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.selected = set(USUAL)
        self.state = ExportState()
        self.certified = Certified({}, {})
        self.run_folder: Path | None = None
        self.config: RunConfig | None = None
        self.parameters = 0
        self.license = ""
        self.asked_model = ""
        self.problem: tuple[str, str] = ("", "")
        self.job: Job | None = None
        self.drawn = 0.0

    def body(self) -> ComposeResult:
        """Formats beside source and proof, the steps, the command."""
        with Horizontal(id="above"):
            yield Panel(Formats(cursor_type="row"), title="Formats", id="formats")
            with Vertical(id="beside", classes="wide-only"):
                yield Panel(Lines(id="source-lines"), title="Source", remark="r another run", id="source")
                yield Panel(Lines(id="proof-lines"), title="Proof", id="proof")
        yield Panel(Lines(id="problem-lines"), title="Not handed over", id="problem")
        yield Panel(Lines(id="step-lines"), title="Steps", id="steps-panel")
        yield Panel(Lines(id="command-lines"), title="Run it anywhere", remark="c copies", id="command", classes="wide-only")

    def on_mount(self) -> None:
        """The table, once."""
        super().on_mount()
        table = self.query_one(Formats)
        for name, width in (("", 1), ("Format", 9), ("Size", 8), ("Loss", 7), ("KL", 7), ("Same", 6), ("For", 24)):
            right = name in ("Size", "Loss", "KL", "Same")
            table.add_column(cell(name, right=right), key=name or "mark", width=width)
        for each in FORMATS:
            table.add_row(*[""] * 7, key=each.kind)
        table.focus()

    def on_resize(self) -> None:
        """Bars fill the width there is."""
        self.call_after_refresh(self.draw)

    # ---- what is exported --------------------------------------------------------------------------------------------

    @property
    def out(self) -> Path:
        """Where the files go: beside the run, where chat and compare find them."""
        return (self.run_folder or self.desk.folder) / "exports"

    def desk_changed(self) -> None:
        """Another run brings its own files and proofs."""
        if self.state.phase != "working" and self.desk.run != self.run_folder:
            self.take_run(self.desk.run)
        self.draw()

    def take_run(self, run: Path | None) -> None:
        """Reads what a run is of, and what was exported of it before."""
        self.run_folder, self.state, self.problem, self.config = run, ExportState(), ("", ""), None
        self.certified = read_certificate(self.out) if run else Certified({}, {})
        if run:
            try:
                self.config = load(run / "run.toml")
            except EdgeTuneError as error:
                self.problem = error.message, error.hint
            self.run_worker(self.attach(run), group="attach", exclusive=True)
        if self.config and self.config.model != self.asked_model:
            self.asked_model, self.parameters, self.license = self.config.model, 0, ""
            self.run_worker(self.learn_model(self.config.model), group="model", exclusive=True)

    async def learn_model(self, name: str) -> None:
        """How large the model is, from the list of models."""
        try:
            document = await ask(["models"])
        except ChildError:
            return  # sizes stay unknown: nothing depends on them
        for each in document.get("models", []):
            if name in (each.get("name"), each.get("repository"), each.get("path")):
                self.parameters, self.license = int(each.get("parameters", 0)), str(each.get("license", ""))
        self.draw()

    def size_of(self, each: Format) -> tuple[int, bool]:
        """Bytes of a file, and whether they are measured. 0: unknown."""
        file = self.certified.files.get(each.kind)
        if file is not None:
            try:
                return file.stat().st_size, True
            except OSError:
                pass
        if each.kind == ADAPTER:
            started = self.desk.state.started
            return 4 * started.trained_parameters if started and self.run_folder == self.desk.run else 0, False
        return round(self.parameters * each.bits / 8), False

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """One frame."""
        if not self.is_standing:
            return
        self.draw_formats()
        self.draw_source()
        proofs = self.state.proofs or self.certified.proofs
        told = view.proof_lines(proofs, self.certified.files) if proofs else [quiet("How each file scores appears here.")]
        self.query_one("#proof-lines", Lines).show(*told)
        message, hint = self.problem
        self.query_one("#problem").set_class(bool(message), "-shown")
        self.query_one("#problem-lines", Lines).show(literal(f"✗ {message}", "$error"), *([quiet(hint)] if hint else []))
        self.draw_steps()
        command = self.command
        self.query_one("#command-lines", Lines).show(
            literal(command) if command else quiet("A command appears here once a file is made.")
        )

    def draw_formats(self) -> None:
        """Selected or not, how large, how good, what for."""
        table, colours = self.query_one(Formats), self.app.theme_variables
        total = 0
        for each in FORMATS:
            chosen, (number, measured) = each.kind in self.selected, self.size_of(each)
            total += number if chosen else 0
            proof = view.quality(each.kind, self.state, self.certified)
            text, style = view.delta(proof) if proof else ("", "$quiet")
            values = {
                "mark": cell("●" if chosen else "○", colours["primary"] if chosen else colours["quiet"]),
                "Format": cell("adapter" if each.kind == ADAPTER else each.kind, "bold" if chosen else ""),
                "Size": cell((size(number) if measured else f"~{size(number)}") if number else "–", right=True),
                "Loss": cell(text, colours[style.removeprefix("$")], right=True),
                "KL": cell(f"{proof.kl:.4f}" if proof else "", right=True),
                "Same": cell(view.same(proof) if proof else "", right=True),
                "For": cell(self.made(each) + each.use, colours["quiet"]),
            }
            for column, value in values.items():
                if table.get_cell(each.kind, column) != value:
                    table.update_cell(each.kind, column, value)
        panel = self.query_one("#formats", Panel)
        panel.retitle(f"Formats · {self.run_folder.name}" if self.run_folder else "Formats")
        about = f" · ~{size(total)}" if total else ""
        panel.remark(f"space selects · {len(self.selected)} selected{about}")

    def made(self, each: Format) -> str:
        """A glyph for what is there."""
        return "✓ " if each.kind in self.certified.files else ""

    def draw_source(self) -> None:
        """What is exported, and whether there is room."""
        lines = self.query_one("#source-lines", Lines)
        if self.run_folder is None or self.config is None:
            lines.show(quiet("Nothing to export yet: train a run first."), keys("3", "train"))
            return
        state = self.desk.state
        best = f" step {state.best_step} (best)" if state.best_step and self.run_folder == self.desk.run else ""
        model = self.config.model.rstrip("/").rpartition("/")[2]
        whole = 2 * self.parameters
        need = round(self.parameters * 6 + sum(self.size_of(each)[0] for each in FORMATS if each.kind in self.selected))
        rows: list[Content] = [
            one_line(self.run_folder.name, "bold") + literal(best),
            one_line(f"{model} · {self.license or 'license unknown'}", "$quiet"),
            view.need_line(need if whole else 0, self.free()),
        ]
        if self.config.training.quantize_base != "none":
            rows.append(literal(f"! trained on {self.config.training.quantize_base} weights", "$warning"))
        lines.show(*rows)

    def free(self) -> int:
        """Room on the disk of the files."""
        try:
            return free_space(self.out)
        except (OSError, EdgeTuneError):
            return 0

    def draw_steps(self) -> None:
        """The steps, the result, or what will be there."""
        lines, panel = self.query_one("#step-lines", Lines), self.query_one("#steps-panel", Panel)
        working = self.state.phase == "working"
        panel.remark("esc cancels, files stay whole" if working else "")
        width = lines.size.width or 70
        if working or self.state.phase == "failed":
            lines.show(*view.step_lines(self.state, self.out, width))
        elif self.certified.files:
            shown = [view.result_line(self.certified), quiet(str(self.out)), Content("")]
            lines.show(*shown, keys("t", "talk with it", "c", "copy the command", "o", "show the file", "e", "export again"))
        else:
            lines.show(*view.waiting(self.state.phase))

    @property
    def kind(self) -> str:
        """The type under the cursor; where it is not made, one that is."""
        here = FORMATS[self.query_one(Formats).cursor_row].kind
        made = self.certified.files
        return (
            here
            if here in made or not made
            else next((kind for kind in ("Q8_0", "Q4_K_M", "F16") if kind in made), next(iter(made)))
        )

    @property
    def command(self) -> str:
        """What runs the file under the cursor anywhere; empty where there is none."""
        file = self.certified.files.get(self.kind)
        model = self.config.model.rstrip("/").rpartition("/")[2] if self.config else "base"
        return view.command_for(self.kind, file, model) if file else ""

    def on_data_table_row_highlighted(self) -> None:
        """The command is that of the file under the cursor."""
        self.draw()

    def on_data_table_row_selected(self) -> None:
        """Enter or a click selects, as space does."""
        self.action_select()

    # ---- the export --------------------------------------------------------------------------------------------------

    def action_select(self) -> None:
        """Takes a type in, or leaves it out."""
        if self.state.phase != "working":
            self.selected ^= {FORMATS[self.query_one(Formats).cursor_row].kind}
            self.draw()

    def action_export(self) -> None:
        """Makes the files in a job, which goes on when the app is left."""
        if self.state.phase == "working":
            return
        if self.run_folder is None or not self.selected:
            missing = "no type is selected" if self.run_folder else "there is no run to export"
            self.edgetune.complain(missing, "space selects one" if self.run_folder else "3 trains one")
            return
        kinds = tuple(each.kind for each in FORMATS if each.kind in self.selected)
        self.state, self.problem = ExportState(kinds=kinds, phase="working"), ("", "")
        files = [kind for kind in kinds if kind != ADAPTER] or ["F16"]
        extra = ["--adapter-gguf"] if ADAPTER in kinds else []
        arguments = ["export", str(self.run_folder), "--out", str(self.out), "--to", ",".join(files), *extra]
        self.run_worker(self.to_the_end(work(arguments, self.heard, self.begun), self.run_folder), group="export")
        self.draw()

    def begun(self, job: Job) -> None:
        """The job that may be cancelled."""
        self.job = job

    async def attach(self, run: Path) -> None:
        """Follows an export of this run that goes on since before the app was opened."""
        job = await asyncio.to_thread(running, "export", str(run))
        if job and self.state.phase != "working" and run == self.run_folder:
            words = job.record.arguments
            kinds = words[words.index("--to") + 1].split(",") if "--to" in words else []
            kinds += [ADAPTER] if "--adapter-gguf" in words else []
            self.job, self.state = job, ExportState(kinds=tuple(kinds), phase="working")
            await self.to_the_end(follow(job, self.heard), run)

    async def to_the_end(self, following: Coroutine[Any, Any, dict[str, Any]], run: Path) -> None:
        """Follows a job to its end, whatever that is. The app may end before: the job goes on."""
        phase: Phase = "failed"
        try:
            await following
            phase = "done"
        except (ChildError, EdgeTuneError) as error:
            if isinstance(error, ChildError) and error.kind == "cancelled":
                phase = "cancelled"
            else:
                self.problem = error.message, error.hint
        self.job, self.state = None, view.ended(self.state, phase)
        self.certified = read_certificate(self.out)
        self.draw()
        if self.app.screen is not self:
            self.edgetune.notify(
                f"{run.name} is exported" if phase == "done" else self.problem[0], title="Export", markup=False
            )

    def heard(self, event: AnyEvent) -> None:
        """How far it is."""
        self.state = self.state.after(event)
        if event.time - self.drawn > FRAME or event.time < self.drawn:
            self.drawn = event.time
            self.draw()

    def action_halt(self) -> None:
        """Cancels an export, after a question; otherwise leads home."""
        if self.state.phase != "working":
            self.edgetune.open_stage(0)
            return

        def decided(yes: bool | None) -> None:
            if yes and self.job is not None:
                self.job.cancel()

        text = "What is half made goes; files of an earlier export stay as they are."
        self.edgetune.push_screen(Question("Cancel the export?", text, yes="Cancel", no="Go on"), decided)

    # ---- what is done with a file ------------------------------------------------------------------------------------

    def action_copy(self) -> None:
        """Copies the command, and shows it."""
        if command := self.command:
            self.app.copy_to_clipboard(command)
            self.edgetune.notify(command, title="Copied", markup=False)
        else:
            self.edgetune.complain("There is no file yet", "e exports the selected types")

    def action_talk(self) -> None:
        """Opens a conversation with the file."""
        kind, file = self.kind, self.certified.files.get(self.kind)
        if file is None or kind == ADAPTER:
            self.edgetune.complain("There is no file to talk with yet", "e exports the selected types")
            return
        from tui.screens.chat import ChatScreen

        self.edgetune.open_screen("chat")
        chat = self.edgetune.made["chat"]
        if isinstance(chat, ChatScreen):
            self.edgetune.call_after_refresh(chat.take_source, Source(f"GGUF · {file.stem}", (str(file),), "gguf"))

    def action_reveal(self) -> None:
        """Shows the file where it lies; where no desktop does that, its path."""
        file = self.certified.files.get(self.kind)
        if file is None:
            self.edgetune.complain("There is no file yet", "e exports the selected types")
            return
        command = ["open", "-R", str(file)] if sys.platform == "darwin" else ["xdg-open", str(file.parent)]
        nowhere = subprocess.DEVNULL
        try:
            subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
        except OSError:
            self.edgetune.notify(str(file), title="It lies here", timeout=12, markup=False)

    def action_run(self) -> None:
        """Takes another run of the project."""
        if self.state.phase == "working":
            return

        def decided(run: Path | None) -> None:
            if run is not None:
                self.desk.open_run(run)
                self.edgetune.show_desk()

        self.edgetune.push_screen(ChooseRun(self.desk.runs), decided)
