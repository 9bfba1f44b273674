"""What a person may ask of a run that trains: lines of JSON in the run's `control.jsonl`, from any process."""

from pathlib import Path

import msgspec
from msgspec import Struct

from edgetune.files import append_line


class Command(Struct, frozen=True, kw_only=True, tag_field="command", tag=str.lower):
    """One wish; the run obeys it between two steps."""


class Pause(Command, frozen=True):
    """Save, and wait."""


class Resume(Command, frozen=True):
    """Go on after a pause."""


class Save(Command, frozen=True):
    """Write a checkpoint now."""


class Sample(Command, frozen=True):
    """Answer a prompt now; without one, those of the config."""

    prompt: str = ""


class Stop(Command, frozen=True):
    """Save, and end; `resume` continues the run."""


AnyCommand = Pause | Resume | Save | Sample | Stop
ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder(AnyCommand)
LONGEST = 1 << 20  # bytes that are read of the file at once: nobody asks for more between two steps


def control_file(run: Path) -> Path:
    """Where a run's commands are written."""
    return run / "control.jsonl"


def send(run: Path, command: AnyCommand) -> None:
    """Asks something of a run.

    Raises:
        DiskFull, InputError: the file cannot be written.
    """
    append_line(control_file(run), ENCODER.encode(command))


class Control:
    """Reads the commands that arrive from now on: those that an earlier process of the run was given are not obeyed again."""

    def __init__(self, run: Path):
        self.file = control_file(run)
        self.offset = self.file.stat().st_size if self.file.is_file() else 0

    def poll(self) -> list[AnyCommand]:
        """The commands since the last call, in their order. Lines that are none are passed over."""
        try:
            if self.file.stat().st_size <= self.offset:
                return []
            with self.file.open("rb") as file:
                file.seek(self.offset)
                content = file.read(LONGEST)
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole) or (len(content) if len(content) == LONGEST else 0)
        return [command for line in whole.splitlines() if (command := decoded(line))]


def decoded(line: bytes) -> AnyCommand | None:
    """The command of one line; None for a line that is none."""
    try:
        return DECODER.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
