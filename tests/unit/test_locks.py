import errno
import fcntl
import os
import socket
from pathlib import Path

import msgspec
import pytest

from edgetune import locks
from edgetune.exits import explain_exit
from edgetune.locks import Held, Owner, beginning, is_held, name_owner, only_holder


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_one_holder_at_a_time(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "TRIES", 2)
    assert not is_held(lock)
    with only_holder(lock):
        assert is_held(lock)
        with pytest.raises(Held, match=f"process {os.getpid()} on"), only_holder(lock):
            pass
    assert not is_held(lock)


def test_the_lock_dies_with_its_process(lock: Path) -> None:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with only_holder(lock):
            os.write(write_end, b".")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert os.read(read_end, 1) == b"."
    assert not is_held(lock)  # although it says who had it
    with only_holder(lock):
        assert is_held(lock)


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_the_number_and_beginning_of_the_process_count(lock: Path) -> None:
    parent = os.getppid()
    name_owner(lock, parent)
    assert is_held(lock)
    with pytest.raises(Held, match=f"process {parent}"), only_holder(lock):
        pass
    host = socket.gethostname()
    for owner in (Owner(parent, host, 1.0, beginning(parent) - 60), Owner(2**22 + 1, host, 1.0, 5.0)):  # a reused number; none
        lock.write_bytes(msgspec.json.encode(owner))
        assert not is_held(lock)
        with only_holder(lock):
            pass
        assert lock.read_bytes() == b""
    lock.write_bytes(msgspec.json.encode(Owner(1, "another-host", 1.0, 5.0)))
    assert is_held(lock)  # nothing is known of a process of another machine


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b"\xff"])
@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_file_that_names_nobody_holds_nothing(lock: Path, content: bytes) -> None:
    lock.write_bytes(content)
    with only_holder(lock):
        pass


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "done"), (2, "input is at fault"), (4, "saved"), (-9, "killed (signal 9): the system ran out of memory"), (137, "killed (signal 9)"),
     (-11, "crashed"), (143, "signal 15"), (-40, "signal 40"), (77, "code 77")],
)  # fmt: skip
def test_every_end_has_a_sentence(code: int, words: str) -> None:
    assert words in explain_exit(code)[0]
