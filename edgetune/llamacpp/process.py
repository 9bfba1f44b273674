"""The parent's end of the child process: lines in, lines out, and a sentence for every way in which it can end."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from edgetune.errors import ChildFailed, DiskFull
from edgetune.exits import explain_exit
from edgetune.files import clean
from edgetune.llamacpp import protocol
from edgetune.llamacpp.protocol import Alive, AnyReply, Failed, Request

COMMAND = (sys.executable, "-P", "-m", "edgetune.llamacpp.child")
SILENCE_SECONDS = 60.0
"""The child says every two seconds that it is alive; a heavily loaded machine may delay that."""
EXIT_SECONDS = 5.0
KEPT_ERRORS = 4000
READ_BYTES = 1 << 20
SECRETS = ("TOKEN", "SECRET", "PASSWORD", "KEY")
DAMAGED = "the file is damaged, or made for another version of llama.cpp: export or download it again"
ENDS: Mapping[int, tuple[str, str]] = {
    signal.SIGABRT: ("llama.cpp gave up", DAMAGED),
    signal.SIGSEGV: ("llama.cpp crashed", DAMAGED),
    signal.SIGFPE: ("llama.cpp crashed", DAMAGED),
    signal.SIGBUS: ("the file was cut or overwritten while it was in use", "put the whole file back and open it again"),
    signal.SIGKILL: (
        "llama.cpp's process was killed, most likely because memory ran out",
        "close other programs, or use a smaller quantisation or context",
    ),
    signal.SIGILL: (
        "llama.cpp was built for another processor",
        "build it here: pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python",
    ),
}


class ChildProcess:
    """Starts `python -m edgetune.llamacpp.child` and exchanges messages with it. `subject` is named in errors.

    It gets a session of its own, so that Ctrl-C in the terminal reaches only the parent, which then says `Stop`.
    """

    def __init__(self, subject: Path):
        self.subject = subject
        self.unread, self.errors = bytearray(), bytearray()
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = (
            pipe.fileno() for pipe in (self.process.stdin, self.process.stdout, self.process.stderr)
        )
        os.set_blocking(self.stdin, False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.stdout, selectors.EVENT_READ)
        self.selector.register(self.stderr, selectors.EVENT_READ)
        os.set_blocking(self.stderr, False)

    @property
    def open(self) -> bool:
        """Whether there is still a process to talk to."""
        return self.process.stdin is not None and not self.process.stdin.closed

    def send(self, request: Request) -> None:
        """Writes one line.

        Raises:
            ChildFailed: the process has ended, or takes nothing in.
        """
        if not self.open:
            raise ChildFailed("llama.cpp's process has ended", file=self.subject)
        line = memoryview(protocol.to_line(request))
        with selectors.DefaultSelector() as writable:
            writable.register(self.stdin, selectors.EVENT_WRITE)
            while line:
                if not writable.select(SILENCE_SECONDS):
                    raise self.silent()
                try:
                    line = line[os.write(self.stdin, line) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise self.ended() from None

    def interrupt(self, request: Request) -> None:
        """Writes one short line at once or not at all; safe in a signal handler."""
        if self.open:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self.stdin, protocol.to_line(request))

    def receive(self, patience: float) -> AnyReply:
        """The next reply that is more than a sign of life, within `patience` seconds.

        Raises:
            ChildFailed: the process ended, was silent, took too long, or says why it cannot.
            DiskFull: it says that the disk is full.
        """
        deadline = time.monotonic() + patience
        while True:
            line = self.line(min(time.monotonic() + SILENCE_SECONDS, deadline))
            if line is None:
                raise self.silent()
            reply = self.reply(line)
            if isinstance(reply, Failed):
                raise self.failed(reply)
            if not isinstance(reply, Alive):
                return reply
            if time.monotonic() > deadline:
                raise self.silent()

    def failed(self, reply: Failed) -> ChildFailed | DiskFull:
        """The child's own error; what llama.cpp logged goes with it for a bug report."""
        kind = DiskFull if reply.disk else ChildFailed
        error = kind(clean(reply.message), hint=clean(reply.hint), file=self.subject)
        if reply.log:
            error.add_note(reply.log)
        return error

    def reply(self, line: bytes) -> AnyReply:
        """One line as a message."""
        try:
            return protocol.REPLIES.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.close()
            raise ChildFailed("llama.cpp's process sent what is no message", file=self.subject, hint=DAMAGED) from None

    def line(self, until: float) -> bytes | None:
        """The next whole line; None when it is not there at that time. What has arrived comes before the clock."""
        searched = 0
        while (end := self.unread.find(b"\n", searched)) < 0:
            searched = len(self.unread)
            if searched > protocol.MAX_LINE:
                self.close()
                raise ChildFailed("llama.cpp's process sent an endless line", file=self.subject, hint=DAMAGED)
            ready = {key.fd for key, _ in self.selector.select(max(until - time.monotonic(), 0))}
            if self.stderr in ready and not self.keep_errors():
                self.selector.unregister(self.stderr)
            if self.stdout not in ready and time.monotonic() >= until:
                return None
            if self.stdout in ready:
                chunk = os.read(self.stdout, READ_BYTES)
                if not chunk:
                    raise self.ended()
                self.unread += chunk
        line = bytes(self.unread[:end])
        del self.unread[: end + 1]
        return line

    def keep_errors(self) -> bool:
        """Takes from standard error what is there and keeps the end of it. False when there will be no more."""
        try:
            chunk = os.read(self.stderr, READ_BYTES)
        except BlockingIOError:
            return False
        self.errors += chunk
        del self.errors[:-KEPT_ERRORS]
        return bool(chunk)

    def silent(self) -> ChildFailed:
        """The error for a process that does not answer; it is ended."""
        self.close()
        hint = "the machine may be overloaded or the file damaged: try again, or another file"
        return ChildFailed("llama.cpp does not answer any more", file=self.subject, hint=hint)

    def ended(self) -> ChildFailed:
        """The error for a process that is no more."""
        try:
            code = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return self.silent()
        while self.keep_errors():
            continue
        self.close()
        sentence, hint = explain(code)
        last = last_line(self.errors)
        return ChildFailed(f"{sentence}: {last}" if last else sentence, file=self.subject, hint=hint)

    def close(self) -> None:
        """Ends the process. Its own answer to the end of its input is to exit; nothing it does needs longer."""
        if not self.open:
            return
        self.selector.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        self.process.kill()
        self.process.wait()


def environment() -> dict[str, str]:
    """The parent's environment without its secrets and relative paths, with this package in reach and our settings.

    GNU's OpenMP lets waiting threads spin; beside a training run on the same cores that made answers 50 times slower.
    """
    kept = {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in SECRETS)}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(os.path.isabs, kept.get("PYTHONPATH", "").split(os.pathsep))]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "GGML_NO_BACKTRACE": "1"}
    return {"GOMP_SPINCOUNT": "1000", **kept, **ours}


def explain(code: int) -> tuple[str, str]:
    """What an exit code means, and what to do. A negative one is the signal that ended the process."""
    if -code in ENDS:
        return ENDS[-code]
    if code < 0:
        return f"llama.cpp's process was {explain_exit(code)[0]}", "try again"
    return f"llama.cpp's process ended unexpectedly (code {code})", DAMAGED


def last_line(errors: bytes | bytearray) -> str:
    """The last line of standard error that says something, without the source file that an assertion names first."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    return clean(lines[-1].rpartition("/")[2].strip()[:300]) if lines else ""
