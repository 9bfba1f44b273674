"""The events of a run on the disk: what cannot be written now is written later, and never ends the run."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgetune.errors import EdgeTuneError
from edgetune.events import Event, to_line
from edgetune.files import append_line

KEPT = 10_000  # events that wait for room; of more the oldest are lost


class EventFile:
    """`events.jsonl` of a run. `on_event` hears of every event, written or not."""

    def __init__(self, folder: Path, on_event: Callable[[Event], None]):
        self.file, self.on_event = folder / "events.jsonl", on_event
        self.waiting: deque[bytes] = deque(maxlen=KEPT)

    def tell(self, event: Event) -> None:
        """Appends an event, and those that wait before it; then tells whoever follows."""
        self.waiting.append(to_line(event))
        with suppress(OSError, EdgeTuneError):  # it stays among those that wait
            while self.waiting:
                append_line(self.file, self.waiting[0], "event")
                self.waiting.popleft()
        self.on_event(event)
