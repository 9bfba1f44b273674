import os
from pathlib import Path

import pytest

from edgetune.errors import HubError, InputError, ModelError, VerificationFailed
from edgetune.events import Progress, Warned
from edgetune.hub import library
from edgetune.hub.download import ensure, get
from tests.unit.hub.fake_hub import COMMIT, REPOSITORY, Answer, FakeHub

pytestmark = pytest.mark.slow  # together

WANTED = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
    "tokenizer.model",
    "model.safetensors",
}
WEIGHTS = "model.safetensors"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def asked_for(hub: FakeHub, name: str) -> list[int]:
    return [request.start for request in hub.requests if request.path.endswith(f"/{name}")]


def test_a_model_comes_whole_with_its_own_files_only(hub: FakeHub) -> None:
    folder = get(REPOSITORY)
    assert folder == library.shelf() / "tiny--llama"
    assert files_in(folder) == WANTED | {library.RECORD}
    assert all((folder / name).read_bytes() == hub.files[name] for name in WANTED)
    assert os.listdir(library.shelf()) == ["tiny--llama"]


def test_the_record_tells_where_a_model_came_from(hub: FakeHub) -> None:
    record = library.read_record(get(f"{REPOSITORY}@{COMMIT}"))
    assert record and (record.source, record.commit, record.license) == (REPOSITORY, COMMIT, "apache-2.0")
    assert set(record.files) == WANTED


def test_progress_counts_to_the_end(hub: FakeHub) -> None:
    told: list[Progress | Warned] = []
    get(REPOSITORY, on_progress=told.append)
    total = sum(len(hub.files[name]) for name in WANTED)
    last = told[-1]
    assert isinstance(last, Progress) and (last.done, last.total, last.unit) == (total, total, "bytes")


def test_a_second_download_asks_once_and_fetches_nothing(hub: FakeHub) -> None:
    get(REPOSITORY)
    hub.requests.clear()
    get(REPOSITORY)
    assert [request.path for request in hub.requests] == [f"/api/models/{REPOSITORY}/revision/main"]


def test_a_newer_commit_takes_the_place_of_the_older(hub: FakeHub) -> None:
    get(REPOSITORY)
    hub.commit, hub.files["config.json"] = "f" * 40, b'{"model_type": "qwen2"}'
    assert (get(REPOSITORY) / "config.json").read_bytes() == b'{"model_type": "qwen2"}'
    assert os.listdir(library.shelf()) == ["tiny--llama"]


def test_a_dropped_connection_continues_where_it_was(hub: FakeHub) -> None:
    hub.drop_after[WEIGHTS] = [1_000_000, 500_000]
    folder = get(REPOSITORY)
    starts = asked_for(hub, WEIGHTS)
    assert len(starts) == 3 and starts[0] == 0 < starts[1] <= 1_000_000 < starts[2] <= 1_500_000
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_connection_that_never_lasts_is_given_up_and_later_continued(hub: FakeHub) -> None:
    hub.drop_after[WEIGHTS] = [200_000, *[0] * 20]
    with pytest.raises(HubError, match=r"was lost at tiny/llama: model\.safetensors") as caught:
        get(REPOSITORY)
    assert "continues" in caught.value.hint
    assert library.unfinished()[0].name == REPOSITORY and not library.installed()
    hub.drop_after.clear()
    hub.served.clear()
    get(REPOSITORY)
    assert hub.served[WEIGHTS] == 2_800_000 and not library.unfinished()


def test_a_server_that_ignores_ranges_sends_it_all_again(hub: FakeHub) -> None:
    hub.ignores_ranges, hub.drop_after[WEIGHTS] = True, [1_000_000]
    assert (get(REPOSITORY) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_damaged_leftovers_are_fetched_again(hub: FakeHub) -> None:
    kept = library.unfinished_place(library.place_of(REPOSITORY))
    kept.mkdir(parents=True)
    (kept / WEIGHTS).write_bytes(b"x" * 1_000_000)
    (kept / "tokenizer.json").write_bytes(b"longer than it should be" * 1000)
    (kept / "of_an_older_commit.json").write_bytes(b"{}")
    folder = get(REPOSITORY)
    assert files_in(folder) == WANTED | {library.RECORD}
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_wrong_bytes_of_the_right_size_are_refused(hub: FakeHub, name: str) -> None:
    right = hub.files[name]
    hub.lies[name] = bytes([right[0] ^ 1]) + right[1:]
    with pytest.raises(VerificationFailed, match=name):
        get(REPOSITORY)
    assert not library.installed()
    assert name not in files_in(library.unfinished_place(library.place_of(REPOSITORY)))


def test_more_bytes_than_promised_are_refused(hub: FakeHub) -> None:
    hub.lies["config.json"] = b"x" * 1000
    with pytest.raises(HubError, match="more bytes"):
        get(REPOSITORY)


def test_busy_answers_are_waited_out(hub: FakeHub) -> None:
    hub.instead = [Answer(429, headers={"Retry-After": "0"}), Answer(500), Answer(503)]
    told: list[Progress | Warned] = []
    get(REPOSITORY, on_progress=told.append)
    pauses = [event.message for event in told if isinstance(event, Warned)]
    assert len(pauses) == 3 and "429" in pauses[0]


def test_the_check_sees_the_config_before_the_weights_are_fetched(hub: FakeHub) -> None:
    def refuse(folder: Path) -> None:
        assert (folder / "config.json").exists()
        raise ModelError("of no use")

    with pytest.raises(ModelError, match="of no use"):
        get(REPOSITORY, check=refuse)
    assert hub.served[WEIGHTS] == 0


def test_two_downloads_of_one_model_do_not_mix(hub: FakeHub) -> None:
    with (
        library.locked(library.unfinished_place(library.place_of(REPOSITORY))),
        pytest.raises(InputError, match="another edgetune"),
    ):
        get(REPOSITORY)


def test_ensure_gives_what_is_here_without_a_call(hub: FakeHub) -> None:
    folder = ensure(REPOSITORY)
    hub.requests.clear()
    assert ensure(REPOSITORY.upper()) == folder
    assert ensure(str(folder)) == folder
    assert not hub.requests


def test_ensure_makes_no_call_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError) as caught:
        ensure(REPOSITORY, offline=True)
    assert caught.value.hint == f"edgetune models get {REPOSITORY}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError):
        ensure(REPOSITORY)
    with pytest.raises(HubError, match="offline"):
        get(REPOSITORY)
    assert not hub.requests


@pytest.mark.parametrize("name", ["", "a/b/c", "../etc", "datasets/a/b", "a b", "x" * 100, "con/x", "-x/y", "a\x1b[2J/b"])
def test_no_call_is_made_for_what_is_no_name(hub: FakeHub, name: str) -> None:
    with pytest.raises(HubError, match="no name on the hub"):
        get(name)
    assert not hub.requests


def test_the_starter_needs_no_download(hub: FakeHub) -> None:
    assert get("starter").name == "starter"
    assert not hub.requests
