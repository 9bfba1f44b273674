"""Following a run, or any job, through its file of events; and snapshots, which make the longest run open at once.

A snapshot is the state that the events up to an offset leave a run in. It is only ever a shortcut: one that is absent, damaged,
of another version of the fold, or of another file is ignored, and all events are folded.
"""

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct

from edgetune import events
from edgetune.events import AnyEvent, from_line
from edgetune.files import move, write_file
from edgetune.workspace import run_state
from edgetune.workspace.run_state import RunState, replay

AT_ONCE = 256 << 10  # bytes of events that are read at once: some ten milliseconds
WITNESS = 256  # bytes before the offset that must still be there: else it is another file
DUE = 2_000  # events between two snapshots: what is folded without one takes some twenty milliseconds
DIGEST = 32  # bytes of a hash; that of the rest of the file is its head
WORTH_KEEPING = 1 << 20  # bytes: a reader that had to fold more keeps what came of it


class Snapshot(Struct, frozen=True):
    """What is kept beside a file of events."""

    version: str
    offset: int
    witness: bytes  # a hash of what stands before the offset
    state: RunState


class Follower:
    """Reads a file of events as it grows, and folds them. The file may be absent, cut, replaced, or half written."""

    def __init__(self, file: Path, with_snapshot: bool = True):
        self.file = file
        self.state, self.offset, self.witness = RunState(), 0, b""
        self.identity: tuple[int, int] | None = None
        self.is_behind = False  # whether more is there than the last poll read
        self.skipping = False  # within a line that is no event: longer than any
        if with_snapshot and (known := read_snapshot(file)):
            self.state, self.offset, self.witness = known

    def poll(self, limit: int = AT_ONCE) -> list[AnyEvent]:
        """The events that have come since, in at most `limit` bytes; `is_behind` tells whether there are more."""
        try:
            with self.file.open("rb") as file:
                self.look(os.fstat(file.fileno()), file.fileno())
                chunk = os.pread(file.fileno(), limit, self.offset)
                self.is_behind = os.fstat(file.fileno()).st_size > self.offset + len(chunk)
        except OSError:
            self.is_behind = False
            return []
        return self.take(chunk, limit)

    def take(self, chunk: bytes, limit: int) -> list[AnyEvent]:
        """Folds the whole lines of what was read; half a line is read again when it is whole."""
        end = chunk.rfind(b"\n") + 1
        if not end and len(chunk) == limit:  # no event is that long
            end, self.skipping = len(chunk), True
            self.advance(chunk)
            return []
        lines = chunk[:end].split(b"\n")[:-1]
        if self.skipping and lines:
            lines, self.skipping = lines[1:], False
        found = [event for line in lines if (event := from_line(line)) is not None]
        self.state = replay(found, self.state)
        self.advance(chunk[:end])
        return found

    def advance(self, chunk: bytes) -> None:
        """So much is done."""
        self.offset += len(chunk)
        self.witness = (self.witness + chunk)[-WITNESS:]

    def look(self, now: os.stat_result, descriptor: int) -> None:
        """Begins anew where the file is another than it was."""
        identity = (now.st_dev, now.st_ino)
        same = self.identity in (None, identity) and now.st_size >= self.offset
        if not same or os.pread(descriptor, len(self.witness), self.offset - len(self.witness)) != self.witness:
            self.state, self.offset, self.witness, self.skipping = RunState(), 0, b"", False
        self.identity = identity

    def catch_up(self) -> RunState:
        """The state after all that is there now."""
        began = self.offset
        self.poll()
        while self.is_behind:
            before = self.offset
            self.poll(1 << 22)
            if self.offset == before:
                break
        if self.offset - began > WORTH_KEEPING:
            keep_snapshot(self)
        return self.state


class Snapshots:
    """What a run's own process keeps of its events now and then. To be told of each; the file has it by then."""

    def __init__(self, file: Path):
        self.file, self.count = file, 0
        self.follower: Follower | None = None

    def note(self) -> None:
        """One more event."""
        self.count += 1
        if self.count >= DUE:
            self.count = 0
            self.follower = self.follower or Follower(self.file)
            self.follower.catch_up()
            keep_snapshot(self.follower)


# ---- the file ----------------------------------------------------------------------------------------------------------


def snapshot_file(file: Path) -> Path:
    """Where the snapshot of a file of events lies."""
    return file.with_name("state.snapshot")


def keep_snapshot(follower: Follower) -> None:
    """Writes how far a follower is. Where that cannot be, it is not kept; it is not flushed either: what is damaged is seen."""
    known = Snapshot(version(), follower.offset, digest(follower.witness), follower.state)
    place = snapshot_file(follower.file)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        content = msgspec.msgpack.encode(known)
        write_file(part, digest(content) + content, "snapshot")
        move(part, place, "snapshot")
    except OSError:
        with suppress(OSError):
            part.unlink()


def read_snapshot(file: Path) -> tuple[RunState, int, bytes] | None:
    """(state, offset, what stands before the offset) of the snapshot; None where there is none to be trusted."""
    try:
        stored = snapshot_file(file).read_bytes()
        if digest(stored[DIGEST:]) != stored[:DIGEST]:
            return None
        known = msgspec.msgpack.decode(stored[DIGEST:], type=Snapshot)
        with file.open("rb") as opened:
            length = min(WITNESS, known.offset)
            witness = os.pread(opened.fileno(), length, known.offset - length)
    except (OSError, OverflowError, ValueError, msgspec.MsgspecError):
        return None
    if known.version != version() or len(witness) != length or digest(witness) != known.witness:
        return None
    return known.state, known.offset, witness


def digest(content: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(content).digest()


@cache
def version() -> str:
    """Names the code that folds: a snapshot of any other code is not this one's."""
    found = hashlib.sha256()
    for module in (events, run_state):
        with suppress(OSError):
            found.update(Path(module.__file__ or "").read_bytes())
    return found.hexdigest()
