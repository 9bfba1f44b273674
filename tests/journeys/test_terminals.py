"""A run outlives terminals and processes: begun in one terminal, which is killed, followed and paused from others, killed
itself, continued, finished. What it hands over is what an undisturbed run hands over."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIG = """model = "{model}"
[data]
train = ["rows.jsonl"]
valid = 0.2
max_tokens = 64
[adapter]
rank = 4
alpha = 8
dropout = 0.1
[training]
steps = 150
batch = 2
accumulate = 2
rate = 5e-3
[checks]
eval_every = 20
save_every = 7
keep = 2
samples = ["Say 5"]
"""


class Terminal:
    """A terminal of its own with one command in it."""

    def __init__(self, *arguments: str | Path):
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, "-m", "edgetune", *map(str, arguments)])
        self.text = b""

    def until(self, words: str, seconds: float = 90.0) -> None:
        """Reads what is shown until these words come."""
        end = time.monotonic() + seconds
        while words.encode() not in self.text:
            assert time.monotonic() < end, self.text.decode(errors="replace")
            if select.select([self.screen], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.screen, 1 << 16)
                except OSError:  # Linux's end of a terminal
                    assert words.encode() in self.text, self.text.decode(errors="replace")

    def kill(self) -> None:
        """The terminal's window is closed, and its process ended by force."""
        os.close(self.screen)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def leave(self, key: bytes = b"") -> int:
        """Presses a key, and gives the exit code."""
        os.write(self.screen, key)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([self.screen], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self.screen, 1 << 16)
                except OSError:
                    break
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.screen)
        return code


def edgetune(*arguments: str | Path, code: int = 0) -> Any:
    """The JSON document of a command."""
    command = [sys.executable, "-m", "edgetune", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def until(what: Callable[[], bool], seconds: float = 90.0) -> None:
    """Waits for something to be true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_outlives_its_terminals(tiny_model: Path, tmp_path: Path) -> None:
    lines = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} and {n + 1}."}]}
        for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(model=tiny_model))
    edgetune("train", config, "--run", tmp_path / "whole")

    first = Terminal("train", config, "--detach")
    first.until("it goes on when this terminal is closed")
    first.kill()

    run = Path(edgetune("runs")["runs"][0]["run"])
    second = Terminal("watch", run.name)
    second.until("150 steps")
    paused = edgetune("pause", run.name)
    assert paused["obeyed"] and paused["event"]["reason"] == "asked to pause"
    second.until("paused after step")
    assert second.leave(b"\x03") == 0 and b"goes on" in second.text  # Ctrl-C leaves the run alone
    assert edgetune("runs")["runs"][0]["phase"] == "paused"

    assert edgetune("resume", run.name)["obeyed"]
    assert edgetune("sample", run.name, "--prompt", "Say 7")["event"]["prompt"] == "Say 7"
    assert edgetune("save", run.name)["obeyed"]
    pid = edgetune("jobs")["jobs"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: edgetune("runs")["runs"][0]["phase"] == "interrupted")
    assert edgetune("runs")["runs"][0]["why"].startswith("killed (signal 9)")
    told = edgetune("watch", run.name, code=2)["error"]
    assert "interrupted after step" in told["message"] and f"edgetune resume {run.name}" in told["hint"]
    assert "nobody trains" in edgetune("pause", run.name, code=2)["error"]["message"]

    again = edgetune("resume", run.name, "--detach")
    assert again["pid"] != pid
    done = edgetune("watch", run.name)
    assert done["steps"] == 150
    adapters = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (run, tmp_path / "whole")]
    assert adapters[0] == adapters[1]
