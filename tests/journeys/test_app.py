"""The app in a real terminal, by its keys alone: first run, train, compare, export, chat; and what goes on without it."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("tmux"), reason="a real terminal is tmux's, which is not installed here"),
]


class Terminal:
    """A terminal of its own, with the app in a shell."""

    def __init__(self, home: Path, size: tuple[int, int] = (100, 30)):
        self.socket = f"edgetune-{os.getpid()}-{time.monotonic_ns()}"
        environment = {**os.environ, "EDGETUNE_HOME": str(home), "PS1": "$ ", "TERM": "xterm-256color"}
        environment.pop("TMUX", None)
        shell = ["env", "-u", "EDGETUNE_SENSORS", "sh"]
        self.tmux("new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), *shell, environment=environment)
        self.type(f"cd {ROOT} && {sys.executable} -m tui\n")

    def tmux(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tmux("send-keys", key)
            time.sleep(0.2)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def wait(self, pattern: str, seconds: float = 60.0) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if re.search(pattern, shown := self.screen(), re.DOTALL):
                return shown
            time.sleep(0.1)
        raise AssertionError(f"{pattern!r} never came:\n{self.screen()}")

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True)


@pytest.fixture
def terminal(isolated: Path) -> Iterator[Terminal]:
    opened = Terminal(isolated)
    yield opened
    opened.close()


def shorten(home: Path, steps: int) -> None:
    """The starter project as it is, only with fewer steps."""
    file = home / "projects" / "starter" / "project.toml"
    text = file.read_text("utf-8")
    assert "\nsteps = 0\n" in text
    file.write_text(text.replace("\nsteps = 0\n", f"\nsteps = {steps}\n"), "utf-8")


def test_first_run_train_compare_export_chat(terminal: Terminal, isolated: Path) -> None:
    terminal.wait("Ready to train.*start training")
    terminal.press("C-q")
    terminal.wait(r"\$\s*$")  # the terminal is as it was: the shell asks again
    shorten(isolated, 45)
    terminal.type(f"{sys.executable} -m tui\n")
    terminal.wait("start training")
    terminal.press("Enter")
    terminal.wait("running|starting")
    terminal.wait("✓ finished", 120)
    terminal.press("4")
    terminal.wait("ask both")
    terminal.type("What is the Dewbell?")
    terminal.press("Enter")
    assert terminal.wait("tok/s.*tok/s").count("Dewbell") >= 3  # asked twice, and the trained one knows the name
    terminal.press("Escape", "]")
    terminal.wait("1 rated.*B 1")
    terminal.press("5")
    terminal.wait("Formats")
    terminal.press("e")
    terminal.wait("2 files proved", 120)
    terminal.press("t")
    terminal.wait("Chat · GGUF")
    terminal.type("Who makes the Dewbell?")
    terminal.press("Enter")
    terminal.wait("tok/s")
    terminal.press("C-q")
    terminal.wait(r"\$\s*$")


def test_a_run_goes_on_without_the_app_and_is_found_again(terminal: Terminal, isolated: Path) -> None:
    """The window is closed while it trains; a new one shows it live, pauses it, and it ends there."""
    terminal.wait("start training")
    terminal.press("C-q")
    terminal.wait(r"\$\s*$")
    shorten(isolated, 60)
    terminal.type(f"{sys.executable} -m tui\n")
    terminal.wait("start training")
    terminal.press("Enter")
    terminal.wait(r"running.* [2-9]/60", 60)
    terminal.close()
    again = Terminal(isolated, (80, 24))
    try:
        again.wait(r"running.*/60")  # it opens at the run that trains
        again.press("Space")
        again.wait("paused")
        again.press("Space")
        again.wait("running|finished")
        again.wait("✓ finished", 120)
    finally:
        again.close()
