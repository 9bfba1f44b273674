from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.errors import HubError
from edgetune.files import safe_name
from edgetune.hub.listing import Sibling, hub_file, is_wanted, read_listing, refuse_incomplete
from tests.unit.hub.fake_hub import REPOSITORY, Answer, FakeHub, entry


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
     "chat_template.jinja", "tokenizer.model", "merges.txt", "additional_chat_templates/tools.jinja"],
)  # fmt: skip
def test_model_files_are_wanted(name: str) -> None:
    assert is_wanted(name)


@pytest.mark.parametrize(
    "name",
    ["modeling_x.py", "pytorch_model.bin", "model.pt", "model.gguf", "consolidated.safetensors", "README.md", ".x.json",
     "onnx/config.json", "../config.json", "/config.json", "a/additional_chat_templates/x.jinja", "config.json.py", ""],
)  # fmt: skip
def test_nothing_else_is(name: str) -> None:
    assert not is_wanted(name)


@given(st.text(max_size=80).map(lambda text: text + ".json") | st.text(max_size=80))
def test_a_wanted_name_is_a_plain_one_or_refused(name: str) -> None:
    sibling = Sibling(name=name, size=1, blob="0" * 40)
    if is_wanted(name):
        try:
            file = hub_file(sibling, REPOSITORY)
        except HubError as error:
            assert "\x1b" not in error.message
        else:
            assert all(safe_name(part) == part for part in file.name.split("/"))


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"<html>sign in</html>", b'{"sha": 7, "siblings": []}', b"[" * 100_000, b"\xff\xfe",
     b'{"sha": "main", "siblings": []}', b'{"sha": "%s", "siblings": [{}]}' % (b"0" * 40)],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(hub: FakeHub, body: bytes) -> None:
    hub.instead = [Answer(200, body)]
    with pytest.raises(HubError, match="tiny/llama"):
        read_listing(REPOSITORY, "main")


@pytest.mark.parametrize("change", [{"size": None}, {"size": -1}, {"blobId": None}, {"blobId": "abc"}])
def test_a_file_without_size_or_hash_is_refused(hub: FakeHub, change: dict[str, Any]) -> None:
    hub.extra = [entry("merges.txt", b"") | change]
    with pytest.raises(HubError, match=r"merges\.txt.*without a size and a hash"):
        read_listing(REPOSITORY, "main")


@pytest.mark.parametrize(
    ("absent", "message"), [("config.json", "has no config.json"), ("model.safetensors", "no safetensors weights")]
)
def test_a_repository_that_is_no_model_folder_is_refused(hub: FakeHub, absent: str, message: str) -> None:
    del hub.files[absent]
    with pytest.raises(HubError, match=message):
        refuse_incomplete(read_listing(REPOSITORY, "main"), [])


def test_a_file_that_the_catalogue_asks_for_must_be_there(hub: FakeHub) -> None:
    with pytest.raises(HubError, match=r"has no merges\.txt"):
        refuse_incomplete(read_listing(REPOSITORY, "main"), ["merges.txt"])


def test_small_files_come_first(hub: FakeHub) -> None:
    names = [file.name for file in read_listing(REPOSITORY, "main").files]
    assert names[-1] == "model.safetensors" and len(names) == 7
