"""What the network, the hub and a kill can do to a download. Numbers are those of the fault plan."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetune.errors import DiskFull, EdgeTuneError, HubError
from edgetune.hub import connection, library
from edgetune.hub.download import get
from tests.unit.hub import hub_fixtures
from tests.unit.hub.fake_hub import REPOSITORY, Answer, FakeHub, entry
from tests.unit.hub.hub_fixtures import TOKEN

pytestmark = pytest.mark.slow  # together

hub, model_files = hub_fixtures.hub, hub_fixtures.model_files
WEIGHTS = "model.safetensors"
KILLED = ("download-chunk", "download-flush", "download-flushed", "download-renamed", "download-trashed")
DOWNLOAD = f"from edgetune.hub.download import get; get({REPOSITORY!r})"


def child(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DOWNLOAD], env=os.environ | environment, stderr=subprocess.DEVNULL)


def kept_bytes() -> int:
    kept = library.unfinished_place(library.place_of(REPOSITORY)) / WEIGHTS
    return kept.stat().st_size if kept.exists() else 0


def test_54_a_stalled_connection_is_left_and_continued(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    hub.pause = 1.0
    hub.files[WEIGHTS] = hub.files[WEIGHTS][:150_000]
    began = time.monotonic()
    get(REPOSITORY)
    assert {0, 1 << 16, 1 << 17} <= {request.start for request in hub.requests if request.path.endswith(WEIGHTS)}
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(404), "does not exist"),
        (Answer(401), "does not exist, or is private"),
        (Answer(403), "private"),
        (Answer(401, headers={"X-Error-Code": "GatedRepo"}), "accept a licence"),
        (Answer(418), "status 418"),
        (Answer(302, headers={"Location": "/"}), "does not exist"),
        (Answer(302, headers={"Location": "ftp://nowhere/"}), "cannot be asked"),
    ],
)
def test_54_a_hub_that_says_no_is_told_in_one_line(hub: FakeHub, answer: Answer, message: str) -> None:
    hub.instead = [answer]
    with pytest.raises(HubError, match=message) as caught:
        get(REPOSITORY)
    assert caught.value.hint and "\n" not in caught.value.message
    assert len(hub.requests) <= 2


def test_54_a_hub_that_stays_busy_is_given_up(hub: FakeHub) -> None:
    hub.instead = [Answer(500)] * 20
    with pytest.raises(HubError, match="busy"):
        get(REPOSITORY)
    assert len(hub.requests) == 1 + len(connection.PAUSES)


def test_54_a_gated_file_names_the_page_to_go_to(hub: FakeHub) -> None:
    hub.refused["config.json"] = Answer(401, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(HubError, match="licence") as caught:
        get(REPOSITORY)
    assert f"{hub.url}/{REPOSITORY}," in caught.value.hint and "HF_TOKEN" in caught.value.hint


@pytest.mark.slow
def test_55_a_killed_download_keeps_its_bytes_and_asks_for_the_rest_only(hub: FakeHub) -> None:
    hub.pause = 0.02
    process = child()
    deadline = time.monotonic() + 30
    while kept_bytes() < 500_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = kept_bytes()
    assert 500_000 <= kept < len(hub.files[WEIGHTS]) and not library.installed()
    hub.pause = 0.0
    hub.requests.clear()
    time.sleep(0.3)  # the first connection's last pieces are counted before the second's
    hub.served.clear()
    folder = get(REPOSITORY)
    assert [request.start for request in hub.requests if request.path.endswith(WEIGHTS)] == [kept]
    assert hub.served[WEIGHTS] == len(hub.files[WEIGHTS]) - kept
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert os.listdir(library.shelf()) == ["tiny--llama"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "whole"),
    [
        ("download-chunk:1", False),
        ("download-chunk:20", False),
        ("record:1", False),
        ("download-flush:3", False),
        ("download-flushed:1", False),
        ("download-renamed:1", True),
    ],
)
def test_55_a_model_is_there_whole_or_not_at_all(hub: FakeHub, point: str, whole: bool) -> None:
    assert child(EDGETUNE_FAULT=f"{point}:kill").wait() == -signal.SIGKILL
    assert bool(library.installed()) is whole
    folder = get(REPOSITORY)
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert not library.unfinished()


def test_55_a_kill_while_a_newer_commit_takes_the_older_s_place(hub: FakeHub) -> None:
    get(REPOSITORY)
    hub.commit, hub.files["config.json"] = "f" * 40, b'{"model_type": "qwen2"}'
    assert child(EDGETUNE_FAULT="download-trashed:1:kill").wait() == -signal.SIGKILL
    assert not library.installed() and library.unfinished()
    hub.served.clear()
    folder = get(REPOSITORY)
    assert (folder / "config.json").read_bytes() == hub.files["config.json"] and not hub.served


def test_55_a_full_disk_keeps_what_came_and_says_so(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETUNE_FAULT", "download-chunk:9:enospc")
    with pytest.raises(DiskFull, match="no room left"):
        get(REPOSITORY)
    assert library.unfinished() and not library.installed()
    monkeypatch.delenv("EDGETUNE_FAULT")
    get(REPOSITORY)


def test_55_a_disk_too_small_is_told_before_the_first_byte(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.files.free_space", lambda path: 1_000_000)
    with pytest.raises(DiskFull, match=r"needs 3\.01 MB"):
        get(REPOSITORY)
    assert not hub.served


def test_56_a_file_that_ends_early_is_never_taken(hub: FakeHub) -> None:
    hub.lies["config.json"] = hub.files["config.json"][:-3]
    with pytest.raises(HubError, match=r"ended at 20 of 23 bytes of tiny/llama: config\.json"):
        get(REPOSITORY)
    assert not library.installed()


@pytest.mark.parametrize(
    "name",
    [
        "a\x1b[2Jb.json",
        "a\nb.json",
        "C:x.json",
        "x\\y.json",
        "x" * 300 + ".json",
        "con.json",
        "\u202egnp.json",
        "-rf.json",
        "additional_chat_templates/x\\..\\y.jinja",
    ],
)
def test_57_a_hostile_name_is_refused_and_shown_escaped(hub: FakeHub, name: str) -> None:
    hub.extra = [entry(name, b"{}")]
    with pytest.raises(HubError, match="no name for a file") as caught:
        get(REPOSITORY)
    assert not set("\x1b\n\u202e") & set(caught.value.message) and len(caught.value.message) < 400
    assert not hub.served


@pytest.mark.parametrize(
    "name", ["../x.json", "/tmp/x.json", "..\\x.json", "a/../../x.json", "additional_chat_templates/../x.json"]
)
def test_57_a_name_outside_the_folder_is_not_fetched(hub: FakeHub, isolated: Path, name: str) -> None:
    hub.extra = [entry(name, b"{}")]
    get(REPOSITORY)
    assert not [*isolated.rglob("x.json")] and not Path("/tmp/x.json").exists()


def test_57_names_that_differ_only_in_case_are_refused(hub: FakeHub) -> None:
    hub.extra = [entry("Config.json", b"{}")]
    with pytest.raises(HubError, match="differ only in case"):
        get(REPOSITORY)


def nobody(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    hub.close()


def no_name_server(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    def never(*arguments: object, **named: object) -> None:
        time.sleep(30)

    monkeypatch.setattr(socket, "getaddrinfo", never)


def unknown_name(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    def unknown(*arguments: object, **named: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


def sign_in_page(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    hub.instead = [Answer(302, headers={"Location": "/portal"}), Answer(200, b"<html>", {"Content-Type": "text/html"})]


def sign_in_page_without_type(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    hub.instead = [Answer(200, b"<html>please sign in</html>")]


def offline(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("trouble", [nobody, no_name_server, unknown_name, sign_in_page, sign_in_page_without_type, offline])
def test_58_no_hub_is_told_at_once(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch, FakeHub], None]
) -> None:
    library.find_installed(REPOSITORY)
    trouble(monkeypatch, hub)
    began = time.monotonic()
    with pytest.raises(HubError) as caught:
        get(REPOSITORY)
    assert time.monotonic() - began < 2
    assert caught.value.hint and "\n" not in caught.value.message


def test_59_offline_no_connection_is_tried(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    get(REPOSITORY)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert library.resolve(REPOSITORY).is_dir()
    with pytest.raises(HubError, match="offline"):
        get("other/model")


@pytest.mark.parametrize("status", [401, 403, 404, 418, 500])
def test_67_the_token_goes_to_the_hub_and_nowhere_else(hub: FakeHub, isolated: Path, status: int) -> None:
    hub.instead = [Answer(status, body=TOKEN.encode(), headers={"X-Error-Message": TOKEN})] * 9
    with pytest.raises(EdgeTuneError) as caught:
        get(REPOSITORY)
    assert TOKEN not in caught.value.message + caught.value.hint + repr(caught.value.__cause__)
    assert {request.token for request in hub.requests} == {f"Bearer {TOKEN}"}
    hub.instead = []
    get(REPOSITORY)
    assert not [path for path in isolated.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_67_the_token_is_not_sent_to_another_host(hub: FakeHub) -> None:
    storage = FakeHub(hub.files)
    hub.storage = storage.url.replace("127.0.0.1", "localhost")
    get(REPOSITORY)
    assert [request.token for request in storage.requests] == [None]
    storage.close()


def test_67_a_token_that_is_no_header_is_not_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\u20ac")
    with pytest.raises(EdgeTuneError) as caught:
        get(REPOSITORY)
    assert "secret" not in caught.value.message + caught.value.hint
