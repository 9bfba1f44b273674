"""Asks for files of rows: a path is typed, and what lies there is offered."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from edgetune.units import size
from tui.literal import literal
from tui.widgets.panel import Lines

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".ndjson", ".md")
MOST, LOOKED = 60, 4000  # entries that are offered, and names of a folder that are looked at


class ChooseFiles(ModalScreen[list[str] | None]):
    """Gives the files that were chosen; None where the person left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="files.leave"),
        Binding("tab", "complete", "Complete", id="files.complete", priority=True),
        Binding("down", "offer", "Choose", id="files.down"),
        Binding("ctrl+d", "forget", "Remove last", id="files.remove"),
    ]
    DEFAULT_CSS = """
    ChooseFiles { align: center middle; background: $background 60%; }
    ChooseFiles > Vertical { width: 84; max-width: 96%; height: auto; max-height: 92%; border: round $primary; padding: 1 2;
        background: $panel; border-subtitle-color: $quiet; }
    ChooseFiles Input { margin-top: 1; border: round $line; background: $panel; }
    ChooseFiles Input:focus { border: round $primary; }
    ChooseFiles OptionList { height: auto; max-height: 10; border: none; background: $panel; padding: 0; }
    ChooseFiles #wrong { color: $error; height: auto; }
    """

    def __init__(self, title: str, files: Sequence[str], start: Path | None = None):
        super().__init__()
        self.asked, self.files = title, list(files)
        self.start = start or (Path(files[-1]).parent if files else Path.home())

    def compose(self) -> ComposeResult:
        """The question, what is chosen already, the line, and what it may become."""
        with Vertical() as box:
            box.border_subtitle = "⏎ adds a file, again ⏎ on an empty line is done · tab completes · esc leaves"
            yield Static(literal(self.asked, "bold"))
            yield Lines(id="chosen")
            yield Input(self.folder_text(self.start), id="path")
            yield OptionList(id="offers", markup=False)
            yield Static("", id="wrong", markup=False)

    def on_mount(self) -> None:
        """The line is at hand."""
        self.show_chosen()
        field = self.query_one(Input)
        field.focus()
        field.cursor_position = len(field.value)
        self.offer(field.value)

    def folder_text(self, folder: Path) -> str:
        """A folder as a person types it."""
        text, own = str(folder), str(Path.home())
        return ("~" + text[len(own) :] if text == own or text.startswith(own + "/") else text).rstrip("/") + "/"

    def show_chosen(self) -> None:
        """The files so far."""
        lines = [Content.styled("✓ ", "$success") + literal(Path(file).name) for file in self.files[-6:]]
        hint = "JSONL, JSON, CSV, TSV, text or Parquet. Several files are learned together."
        self.query_one("#chosen", Lines).show(Content.styled(hint, "$quiet"), *lines)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Offers follow what is typed."""
        self.query_one("#wrong", Static).update("")
        self.offer(event.value)

    def offer(self, text: str) -> None:
        """Folders and files of rows that begin as the text does."""
        found = completions(text)
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(literal(shown), id=path) for path, shown in found])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """An offer was taken: a folder is entered, a file is chosen."""
        self.take(event.option_id or "")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter adds the file; on an empty line, or a folder's, it is done."""
        text = event.value.strip()
        if self.files and (not text or text.endswith("/")):
            self.dismiss(self.files)
            return
        self.take(str(Path(text).expanduser().absolute()) if text else "")

    def take(self, path: str) -> None:
        """A path was chosen."""
        field = self.query_one(Input)
        place = Path(path)
        if path and place.is_dir():
            field.value = self.folder_text(place)
            field.cursor_position = len(field.value)
            field.focus()
            return
        if problem := problem_of(place) if path else "Type the path of a file.":
            self.query_one("#wrong", Static).update(literal(problem))
            field.focus()
            return
        if path not in self.files:
            self.files.append(path)
        self.show_chosen()
        field.value = self.folder_text(place.parent)
        field.cursor_position = len(field.value)
        field.focus()
        self.query_one(OptionList).clear_options()

    def action_complete(self) -> None:
        """What all offers have in common is filled in; a single one is taken."""
        found = completions(self.query_one(Input).value)
        if len(found) == 1:
            path = found[0][0]
            self.fill(path + ("/" if Path(path).is_dir() else ""))
        elif found:
            self.fill(shared_beginning([path for path, _ in found]))

    def fill(self, path: str) -> None:
        """Puts a path into the line."""
        field, own = self.query_one(Input), str(Path.home())
        field.value = "~" + path[len(own) :] if path.startswith(own + "/") and field.value.startswith("~") else path
        field.cursor_position = len(field.value)

    def action_offer(self) -> None:
        """Into the list of offers."""
        options = self.query_one(OptionList)
        options.focus()
        options.highlighted = 0 if options.option_count else None

    def action_forget(self) -> None:
        """The file that was chosen last is none any more."""
        self.files = self.files[:-1]
        self.show_chosen()

    def action_leave(self) -> None:
        """Nothing is changed."""
        self.dismiss(None)


def completions(text: str) -> list[tuple[str, str]]:
    """(path, how it is shown) of folders and files of rows that begin as `text` does."""
    folder, _, start = os.path.expanduser(text or "~/").rpartition("/")
    found: list[tuple[bool, str, str, str]] = []  # folders first
    try:
        with os.scandir(folder or "/") as entries:
            for _, entry in zip(range(LOOKED), entries, strict=False):
                if not entry.name.casefold().startswith(start.casefold()) or (
                    entry.name.startswith(".") and not start.startswith(".")
                ):
                    continue
                if entry.is_dir():
                    found.append((False, entry.name.casefold(), entry.path, f"{entry.name}/"))
                elif entry.name.lower().endswith(KINDS) and entry.is_file():
                    found.append((True, entry.name.casefold(), entry.path, f"{entry.name}   {size(entry.stat().st_size)}"))
    except OSError:
        return []
    return [(path, shown) for _, _, path, shown in sorted(found)[:MOST]]


def shared_beginning(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    first, last = min(texts), max(texts)
    return next((first[:at] for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), first)


def problem_of(file: Path) -> str:
    """What speaks against a file; empty where nothing does."""
    if not file.exists():
        return f"There is no {file}"
    if not file.is_file():
        return f"{file} is not a file of rows"
    if file.suffix.lower() not in KINDS:
        return f"{file.name} is of an unknown form: rows are read from {', '.join(KINDS[:6])}"
    return ""


def project_name(file: str, taken: Sequence[str]) -> str:
    """A name for the project of a file: what its name is made of, and a number where that is taken."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(file).stem).strip("-")[:40] or "project"
    return next(name for name in [stem, *(f"{stem}-{number}" for number in range(2, 1000))] if name not in taken)
