"""`edgetune chat`: one turn for scripts, a conversation for people, and Ctrl-C that ends the answer, not the program."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgetune.cli.chat import CtrlC, show
from edgetune.cli.main import main
from edgetune.cli.output import Output
from tests.faults.gguf_bytes import decode

pytestmark = pytest.mark.slow  # together

ROOT = Path(__file__).resolve().parents[3]
PROC = Path("/proc")


@pytest.fixture(scope="module")
def story(assets: Path) -> Path:
    return assets / "weights" / "stories260K-gguf" / "stories260K.gguf"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["chat", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_turn_for_a_script(capsys: pytest.CaptureFixture[str], story: Path):
    asked = (str(story), "--prompt", "Once upon a time", "--seed", "7", "--max-tokens", "12", "--json")
    code, out, _ = run(capsys, *asked)
    document = json.loads(out)
    assert code == 0 and document["reply"] and document["tokens"] == 12
    assert document["stopped_by"] == "length" and document["seed"] == 7 and document["tokens_per_second"] > 0
    assert json.loads(run(capsys, *asked)[1])["reply"] == document["reply"]


def test_one_turn_for_a_person_is_the_answer_and_nothing_else(capsys: pytest.CaptureFixture[str], story: Path):
    asked = (str(story), "--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "20")
    code, out, err = run(capsys, *asked)
    assert code == 0 and out == ", there was a little girl named Lily. She loved to play outsid\n"
    assert "error" not in err


def test_without_a_seed_every_answer_is_another(capsys: pytest.CaptureFixture[str], story: Path):
    asked = (str(story), "--prompt", "Once", "--max-tokens", "30", "--temperature", "1.5", "--json")
    first, second = (json.loads(run(capsys, *asked)[1]) for _ in range(2))
    assert first["seed"] != second["seed"] and first["reply"] != second["reply"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "--json needs --prompt"),
        (["--prompt", "x", "--temperature", "-1"], "temperature"),
        (["--prompt", "x", "--top-p", "0"], "top-p"),
        (["--prompt", "x", "--max-tokens", "0"], "max-tokens"),
        (["--prompt", "x", "--seed", "-1"], "seed"),
        (["--prompt", "x" * 20_000], "the message is too long"),
        (["--prompt", "x", "--adapter", "peft"], "only an adapter in GGUF form"),
    ],
)
def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], story: Path, arguments: list[str], message: str):
    code, _, err = run(capsys, str(story), *arguments)
    assert code == 2 and message in err and "hint:" in err and "Traceback" not in err


def test_a_bad_file_is_explained_by_its_header_where_llama_cpp_just_dies(
    capsys: pytest.CaptureFixture[str], story: Path, tmp_path: Path
):
    model = decode(story.read_bytes())
    tokens = model.texts("tokenizer.ggml.tokens")
    model.put_texts("tokenizer.ggml.tokens", [tokens[-1], *tokens[1:]])
    (tmp_path / "bad.gguf").write_bytes(model.encode())
    code, out, _ = run(capsys, str(tmp_path / "bad.gguf"), "--prompt", "x", "--json")
    error = json.loads(out)["error"]
    assert code == 2 and "are there twice" in error["message"] and error["hint"]


def piped(story: Path, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgetune", "chat", str(story), *arguments]
    return subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, timeout=240, check=False)


def test_a_conversation_from_a_pipe(story: Path):
    done = piped(story, "Once upon a time\n\n/retry\n/nonsense\n/help\n//x\n/quit\nnever\n", "--max-tokens", "5", "--seed", "1")
    assert done.returncode == 0
    assert len([line for line in done.stderr.splitlines() if "tokens/s" in line]) == 3
    assert "there is no /nonsense" in done.stderr and "hint:" in done.stderr
    assert "no chat template" in done.stderr and "cut at --max-tokens 5" in done.stderr
    assert "/retry" in done.stdout and "> " not in done.stdout


def test_control_bytes_of_an_answer_never_reach_the_terminal(story: Path):
    done = piped(story, "Once\n" * 3, "--temperature", "10", "--top-p", "1", "--max-tokens", "300", "--seed", "5")
    assert done.returncode == 0
    assert not any(ord(character) < 32 and character not in "\n\t" for character in done.stdout)


def test_without_standard_input_there_is_nothing_to_say(story: Path):
    command = ["sh", "-c", 'exec "$0" -m edgetune chat "$1" <&-', sys.executable, str(story)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, check=False)
    assert done.returncode == 0 and "bug of ours" not in done.stderr


# ---- in a terminal ---------------------------------------------------------------------------------------------------


class Terminal:
    """`edgetune chat` in a pseudo-terminal."""

    def __init__(self, *arguments: str):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "dumb"
            os.execv(sys.executable, [sys.executable, "-m", "edgetune", "chat", *arguments])
        self.seen = ""

    def until(self, text: str, seconds: float = 120) -> str:
        """What was written up to `text`."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"{text!r} did not come before the end: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def echoed(self, text: str) -> None:
        """Types, and waits for the echo and until the line editor listens again.

        A signal between the two would be seen only with the next key: CPython's readline looks for signals when it is woken
        from its wait, not before it begins to. No finger is that fast, but this test is.
        """
        self.type(text)
        self.until(text)
        if PROC.is_dir():
            while (PROC / str(self.pid) / "stat").read_text().rpartition(")")[2].split()[0] != "S":
                time.sleep(0.001)
        else:
            time.sleep(0.5)

    def code(self, seconds: float = 60) -> int:
        """The exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError("it does not leave")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture
def terminal(story: Path) -> Iterator[Terminal]:
    opened = Terminal(str(story), "--max-tokens", "2000", "--seed", "1")
    yield opened
    opened.close()


CTRL_C, CTRL_D = "\x03", "\x04"


def test_ctrl_c_ends_the_answer_and_not_the_program(terminal: Terminal):
    terminal.until("> ")
    terminal.type("Once upon a time\r")
    terminal.until("Once upon a time\r\n")
    time.sleep(0.15)
    terminal.type(CTRL_C)
    told = terminal.until("· stopped")
    tokens = int(told.rpartition(" tokens ·")[0].split()[-1].replace(",", ""))
    assert 0 <= tokens < 1900
    terminal.until("> ")
    terminal.type("/quit\r")
    assert terminal.code() == 0


def test_ctrl_c_twice_at_the_prompt_leaves_and_once_only_clears_the_line(terminal: Terminal):
    terminal.until("> ")
    terminal.echoed("half a mess")
    terminal.type(CTRL_C)
    terminal.until("once more leaves")
    terminal.until("> ")
    terminal.type("/help\r")
    terminal.until("/retry")
    for _ in range(2):
        terminal.until("> ")
        terminal.echoed("x")
        terminal.type(CTRL_C)
    assert terminal.code() == 0


def test_ctrl_d_leaves(terminal: Terminal):
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.code() == 0


def test_the_last_lines_come_back_with_the_arrow_key(terminal: Terminal):
    terminal.until("> ")
    terminal.type("/nonsense\r")
    terminal.until("there is no /nonsense")
    terminal.until("> ")
    terminal.type("\x1b[A\r")
    terminal.until("there is no /nonsense")


def test_a_closed_terminal_ends_it(story: Path):
    opened = Terminal(str(story))
    opened.until("> ")
    os.close(opened.master)
    try:
        assert opened.code() != 1
    finally:
        opened.master = os.open(os.devnull, os.O_RDONLY)
        opened.close()


class Engine:
    """Counts how often it is told to stop."""

    def __init__(self):
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


def test_ctrl_c_just_before_or_after_an_answer_does_not_end_the_program():
    engine = Engine()
    conversation = SimpleNamespace(engine=engine, answer="whole")
    ctrl_c = CtrlC(engine.stop)
    with ctrl_c.watched():
        os.kill(os.getpid(), signal.SIGINT)  # the message is being read, and llama.cpp has nothing yet that it could stop
        assert ctrl_c.pressed == 1
        show(Output(as_json=True), conversation, iter(["a", "b"]), ctrl_c)  # pyright: ignore[reportArgumentType]
        assert engine.stops == 3
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
