"""What is open: a project, its run, and what is known of them. Screens show it and change it; it draws nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgetune.files import home
from edgetune.workspace.run_state import RunState
from tui.widgets.top_bar import Way


@dataclass(frozen=True)
class Note:
    """Something that a person should hear of, whichever screen is shown."""

    title: str
    text: str
    severity: Literal["information", "warning", "error"] = "information"


class Desk:
    """The project and the run that are open."""

    def __init__(self) -> None:
        self.name = ""
        self.base_model = ""
        self.run: Path | None = None
        self.state = RunState()
        self.way = Way()
        self.changed = False

    @property
    def folder(self) -> Path:
        """Where the project keeps its own files."""
        return home()

    @property
    def data_arguments(self) -> list[str]:
        """What names the project's rows to `edgetune data`."""
        return []

    def add_data(self, file: Path) -> None:
        """One more file of rows."""

    @property
    def is_live(self) -> bool:
        """Whether a run of this desk is training now."""
        return False

    def screen_of(self, stage: int) -> str:
        """The screen that shows a stage now: training is two, before and while it runs."""
        if stage == 3:
            return "train" if self.run else "plan"
        return ("home", "model", "data", "plan", "compare", "export")[stage]

    def follow(self) -> list[Note]:
        """Reads what the run has said since the last call; gives what a person should hear of."""
        return []

    def take_change(self) -> bool:
        """Whether something has changed since the last call."""
        changed, self.changed = self.changed, False
        return changed
