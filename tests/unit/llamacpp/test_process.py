"""The parent's side of the pipe, against children that misbehave."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from edgetune.errors import ChildFailed, DiskFull
from edgetune.llamacpp import process, protocol
from edgetune.llamacpp.process import ChildProcess, explain, last_line

WORDS = b'{"is":"Words","control":{},"end_ids":[2]}\\n'
ANSWER = f"import sys, os, time, signal; sys.stdin.readline(); out = sys.stdout.buffer; words = b'{WORDS.decode()}'\n"


def child(monkeypatch: pytest.MonkeyPatch, behaviour: str) -> ChildProcess:
    """A child that reads one request and then does as told."""
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", ANSWER + behaviour))
    return ChildProcess(Path("model.gguf"))


def ask(talk: ChildProcess, patience: float = 20) -> protocol.AnyReply:
    try:
        talk.send(protocol.Vocabulary())
        return talk.receive(patience)
    finally:
        talk.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        "out.write(words); out.flush(); time.sleep(20)",
        "[(out.write(words[i:i+1]), out.flush()) for i in range(len(words))]; time.sleep(20)",
        '[out.write(b\'{"is":"Alive"}\\n\') for _ in range(1000)]; out.write(words)',
        "[sys.stderr.write('noise ' * 20 + '\\n') for _ in range(100_000)]; out.write(words)",
    ],
    ids=["at once", "byte by byte", "after many signs of life", "after 12 MB of noise"],
)
def test_an_answer_arrives_however_it_is_sent(monkeypatch: pytest.MonkeyPatch, behaviour: str):
    talk = child(monkeypatch, behaviour)
    assert ask(talk) == protocol.Words(control={}, end_ids=[2])
    assert len(talk.errors) <= process.KEPT_ERRORS


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("", "ended unexpectedly \\(code 0\\)"),
        ("sys.exit(3)", "ended unexpectedly \\(code 3\\)"),
        ("out.write(words[:10]); out.flush()", "ended unexpectedly \\(code 0\\)"),
        ("raise ValueError('in the middle')", "code 1\\): ValueError: in the middle"),
        (
            "sys.stderr.write('/src/ggml.c:7: GGML_ASSERT(a) failed\\n'); sys.stderr.flush(); os.abort()",
            "ggml.c:7: GGML_AS",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "most likely because memory ran out"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "llama.cpp crashed"),
        ("os.kill(os.getpid(), signal.SIGBUS)", "was cut or overwritten"),
        ("os.kill(os.getpid(), signal.SIGILL)", "another processor"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "ended by signal 15"),
        ("out.write(b'hello\\n')", "no message"),
        ('out.write(b\'{"is":"Unheard"}\\n\')', "no message"),
        ("out.write(b'\\xff\\xfe\\n')", "no message"),
        ('out.write(b\'{"is":"Failed","message":"no \\\\u001b[2J"}\\n\')', r"no \\x1b\[2J"),
    ],
)
def test_every_end_has_a_sentence_that_names_the_file(monkeypatch: pytest.MonkeyPatch, behaviour: str, message: str):
    with pytest.raises(ChildFailed, match=message) as caught:
        ask(child(monkeypatch, behaviour))
    assert caught.value.message.startswith("model.gguf: ")


@pytest.mark.parametrize(
    "behaviour",
    [
        "time.sleep(20)",
        "out.write(words[:10]); out.flush(); time.sleep(20)",
        "[(sys.stderr.write('noise\\n'), sys.stderr.flush(), time.sleep(0.01)) for _ in range(2000)]",
    ],
    ids=["mute", "half a line", "noise only"],
)
def test_silence_ends_the_wait(monkeypatch: pytest.MonkeyPatch, behaviour: str):
    monkeypatch.setattr(process, "SILENCE_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(ChildFailed, match="does not answer"):
        ask(child(monkeypatch, behaviour))
    assert time.monotonic() - start < 10


def test_signs_of_life_do_not_stretch_patience_for_ever(monkeypatch: pytest.MonkeyPatch):
    alive = 'while True: out.write(b\'{"is":"Alive"}\\n\'); out.flush(); time.sleep(0.05)'
    with pytest.raises(ChildFailed, match="does not answer"):
        ask(child(monkeypatch, alive), patience=0.5)


def test_an_endless_line_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(protocol, "MAX_LINE", 100_000)
    with pytest.raises(ChildFailed, match="endless line"):
        ask(child(monkeypatch, "[out.write(b'x' * 10_000) for _ in range(1000)]"))


def test_a_full_disk_is_told_as_such(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DiskFull, match="no room"):
        ask(child(monkeypatch, 'out.write(b\'{"is":"Failed","message":"no room","disk":true}\\n\')'))


def test_the_end_of_the_log_travels_with_the_error_as_a_note(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ChildFailed) as caught:
        ask(child(monkeypatch, 'out.write(b\'{"is":"Failed","message":"no","log":"line 7"}\\n\')'))
    assert caught.value.__notes__ == ["line 7"] and "line 7" not in str(caught.value)


def test_a_child_that_reads_nothing_does_not_block_its_parent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", "import time; time.sleep(20)"))
    monkeypatch.setattr(process, "SILENCE_SECONDS", 0.3)
    talk = ChildProcess(Path("model.gguf"))
    with pytest.raises(ChildFailed, match="does not answer"):
        talk.send(protocol.Tokenize(text="x" * 1_000_000, add_special=False, parse_special=False))


def test_the_child_gets_no_secrets_and_cannot_be_reached_by_ctrl_c(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    told = "sys.stderr.write(str(os.environ)); out.write(words) if os.getsid(0) == os.getpid() else None"
    talk = child(monkeypatch, told)
    ask(talk)
    assert b"hf_secret" not in talk.errors and os.getsid(0) != talk.process.pid


def test_what_lies_in_the_current_folder_is_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    talk = ChildProcess(Path("model.gguf"))
    with pytest.raises(ChildFailed, match="no model is open"):
        ask(talk)


def test_nothing_that_is_printed_reaches_the_replies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("")
    (tmp_path / "llama_cpp.py").write_text("import os; os.write(1, b'hello from C\\n'); raise ImportError('not here')")
    monkeypatch.setattr(process, "environment", lambda: {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"})
    with pytest.raises(ChildFailed, match="does not work here: not here") as caught:
        ask(ChildProcess(Path("model.gguf")))
    assert "pip install" in caught.value.hint


def test_signals_without_a_sentence_of_their_own_are_named():
    assert explain(-signal.SIGUSR1)[0] == f"llama.cpp's process was ended by signal {int(signal.SIGUSR1)}"


def test_the_last_line_is_the_one_that_says_something():
    assert last_line(b"first\n/a/b/llama.cpp:9: failed\x1b[0m\n\n") == "llama.cpp:9: failed\\x1b[0m"
    assert last_line(b"") == ""
