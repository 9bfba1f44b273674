import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.errors import DiskFull, InputError, ModelError
from edgetune.events import Progress, Warned
from edgetune.hub import library


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as people have them: with code, a pickle and a pipe in it."""
    folder = tmp_path / "my-model"
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "additional_chat_templates/tools.jinja"):
        (folder / name).write_bytes(name.encode())
    for name in ("modeling.py", "pytorch_model.bin", "optimizer.pt", ".hidden.json"):
        (folder / name).write_bytes(b"stays behind")
    os.mkfifo(folder / "pipe.json")
    return folder


def ignore(progress: Progress | Warned) -> None:
    pass


def test_an_imported_model_has_its_model_files_only(folder: Path) -> None:
    told: list[Progress | Warned] = []
    place = library.import_folder(folder, "mine", told.append)
    assert {path.name for path in place.rglob("*") if path.is_file()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tools.jinja", library.RECORD,
    }  # fmt: skip
    assert library.installed() == {"mine": place} and library.resolve("MINE") == place
    assert isinstance(told[-1], Progress) and told[-1].done == told[-1].total > 0


def test_a_name_is_given_once(folder: Path) -> None:
    library.import_folder(folder, "mine", ignore)
    for taken in ("mine", "Mine", "starter", "smollm2-135m"):
        with pytest.raises(InputError, match="already"):
            library.import_folder(folder, taken, ignore)


@pytest.mark.parametrize("name", ["", ".", "..", "../mine", "/etc", "a/b/c", "con", "a b", "x\x1b[2J"])
def test_a_name_never_leaves_the_library(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a name"):
        library.import_folder(folder, name, ignore)
    with pytest.raises(ModelError):
        library.remove(name)
    assert folder.exists()


def test_an_import_that_cannot_fit_is_refused_before_it_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.files.free_space", lambda path: 10)
    with pytest.raises(DiskFull):
        library.import_folder(folder, "mine", ignore)
    assert not library.shelf().exists()


def test_removing_takes_the_model_and_its_unfinished_download(folder: Path) -> None:
    place = library.import_folder(folder, "org/mine", ignore)
    kept = library.unfinished_place(place)
    kept.mkdir()
    (kept / "model.safetensors").write_bytes(b"half")
    assert library.unfinished() == [library.Unfinished("org/mine", 4)]
    library.remove("org/mine")
    assert os.listdir(library.shelf()) == []


def test_only_models_of_the_library_are_removed(folder: Path) -> None:
    for name in ("my-model", str(folder), "./my-model", "starter", "smollm2-135m", "nothing"):
        with pytest.raises(ModelError, match="not a model of the library"):
            library.remove(name)
    assert (folder / "config.json").exists()


def test_a_download_at_work_is_not_removed() -> None:
    kept = library.unfinished_place(library.place_of("a/b"))
    with library.locked(kept), pytest.raises(InputError, match="another edgetune"):
        library.remove("a/b")
    assert kept.exists()


def test_names_resolve_to_folders(folder: Path) -> None:
    assert library.resolve("my-model") == Path("my-model")
    assert library.resolve(str(folder)) == folder
    assert library.resolve("starter").name == "starter"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "edgetune models get HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("smollm2-135m", "edgetune models get HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("someone/their-model", "edgetune models get someone/their-model"),
        ("smolm2-135m", "did you mean smollm2-135m?"),
        ("./nowhere", library.LIST_HINT),
        ("/nowhere/at/all", library.LIST_HINT),
        ("zzz", library.LIST_HINT),
    ],
)
def test_what_is_not_here_is_told_with_what_to_do(name: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        library.resolve(name)
    assert caught.value.hint == hint


def test_a_file_is_no_model_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="a file, not a model folder"):
        library.resolve("model.gguf")


@pytest.mark.parametrize("text", [b"", b"{", b'{"source": 7}', b"\xff"])
def test_an_unreadable_record_is_none(folder: Path, text: bytes) -> None:
    (folder / library.RECORD).write_bytes(text)
    assert library.read_record(folder) is None


@given(st.text(alphabet=st.sampled_from("aZ0/.-_\\: \x1b~\u202e"), max_size=12) | st.text(max_size=90))
def test_no_name_lies_outside_of_the_library(name: str) -> None:
    try:
        place = library.place_of(name)
    except InputError:
        return
    assert place.parent == library.shelf() and not place.name.startswith(".")
