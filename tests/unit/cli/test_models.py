import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetune.cli import models
from edgetune.cli.main import main
from edgetune.hub import library
from tests.unit.hub import hub_fixtures
from tests.unit.hub.fake_hub import REPOSITORY, FakeHub

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hub(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with a model that can be used."""
    server = FakeHub({path.name: path.read_bytes() for path in tiny_model.iterdir()})
    hub_fixtures.use(server, monkeypatch)
    yield server
    server.close()


def document(capture: Capture) -> Any:
    return json.loads(capture.readouterr().out)


def test_the_list_shows_what_is_known_what_is_here_and_what_fits(
    hub: FakeHub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetune.hardware.usable_memory", lambda: 4_000_000_000)
    main(["models", "get", REPOSITORY])
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in document(capsys)["models"]}
    small, large, here = rows["smollm2-135m"], rows["mistral-7b"], rows[REPOSITORY]
    assert small["fits"] and not large["fits"] and small["path"] is None
    assert (small["family"], small["parameters"], small["license"]) == ("llama", 134_515_008, "apache-2.0")
    assert here["path"] == str(library.place_of(REPOSITORY)) and here["license"] == "apache-2.0"
    assert here["family"] == "llama" and here["parameters"] == 31_392 and not here["problem"]
    assert (small["layers"], small["context"], here["layers"], here["context"]) == (30, 8192, 2, 256)
    assert small["to_train_bytes"] == sum(small["to_train"].values()) < 4e9 < large["to_train_bytes"]
    assert here["template"] and rows["llama-3.2-1b"]["gated"] and not small["gated"]
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "too large" in text and REPOSITORY in text and "edgetune models get" in text


def test_a_model_is_fetched_once_and_told(hub: FakeHub, capsys: Capture) -> None:
    assert main(["models", "get", REPOSITORY, "--json"]) == 0
    (row,) = document(capsys)["models"]
    assert row["name"] == REPOSITORY and row["repository"] == REPOSITORY and Path(row["path"]).is_dir()
    asked = len(hub.requests)
    assert main(["models", "get", REPOSITORY]) == 0
    assert f'model = "{REPOSITORY}"' in capsys.readouterr().out and len(hub.requests) == asked + 1


def test_a_family_of_no_use_costs_only_its_config(hub: FakeHub, capsys: Capture) -> None:
    hub.files["config.json"] = b'{"model_type": "mamba"}'
    assert main(["models", "get", REPOSITORY]) == 2
    assert "mamba" in capsys.readouterr().err and not hub.served["model.safetensors"]


def test_weights_that_are_no_model_are_told(hub: FakeHub, capsys: Capture) -> None:
    hub.files["model.safetensors"] = b"\x08\0\0\0\0\0\0\0{}      "
    assert main(["models", "get", REPOSITORY]) == 2
    told = capsys.readouterr().err
    assert "has no tensor" in told and f"edgetune models remove {REPOSITORY}" in told
    assert main(["models"]) == 0
    captured = capsys.readouterr()
    assert "damaged" in captured.out and "has no tensor" in captured.err


def test_wrong_bytes_end_with_code_5(hub: FakeHub, capsys: Capture) -> None:
    hub.lies["model.safetensors"] = bytes(len(hub.files["model.safetensors"]))
    assert main(["models", "get", REPOSITORY, "--json"]) == 5
    assert document(capsys)["error"]["kind"] == "verification_failed"


@pytest.mark.parametrize("line", [["get", REPOSITORY, "--offline"], ["--offline", "get", REPOSITORY]])
def test_offline_is_one_line_and_no_call(hub: FakeHub, capsys: Capture, line: list[str]) -> None:
    assert main(["models", *line]) == 2
    assert "offline" in capsys.readouterr().err and not hub.requests


def test_an_unfinished_download_is_shown_and_can_be_removed(hub: FakeHub, capsys: Capture) -> None:
    hub.drop_after["model.safetensors"] = [100, *[0] * 20]
    assert main(["models", "get", REPOSITORY]) == 2
    capsys.readouterr()
    main(["models", "--json"])
    (left,) = document(capsys)["unfinished"]
    assert left["name"] == REPOSITORY and left["bytes"] > 100
    main(["models"])
    assert f"edgetune models get {REPOSITORY}" in capsys.readouterr().err
    assert main(["models", "remove", REPOSITORY, "--yes", "--json"]) == 0
    assert document(capsys)["removed"] == REPOSITORY and not library.unfinished()


def test_a_folder_is_verified_and_imported(tiny_model: Path, capsys: Capture) -> None:
    assert main(["models", "import", str(tiny_model), "--json"]) == 0
    (row,) = document(capsys)["models"]
    assert row["name"] == "tiny" and row["path"] == str(library.resolve("tiny"))
    assert main(["models", "import", str(tiny_model)]) == 2
    assert "--name" in capsys.readouterr().err
    assert main(["models", "import", str(tiny_model), "--name", "again"]) == 0


@pytest.mark.parametrize("damage", ["no folder", "a file", "no config", "no weights", "cut weights", "other weights"])
def test_a_folder_that_is_no_model_is_not_imported(tiny_model: Path, tmp_path: Path, capsys: Capture, damage: str) -> None:
    folder = tmp_path / "mine"
    if damage == "a file":
        folder.write_bytes(b"GGUF")
    elif damage != "no folder":
        shutil.copytree(tiny_model, folder)
        weights = folder / "model.safetensors"
        match damage:
            case "no config":
                (folder / "config.json").unlink()
            case "no weights":
                weights.unlink()
            case "cut weights":
                os.truncate(weights, weights.stat().st_size - 100)
            case _:
                weights.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert main(["models", "import", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "error:" in told and "hint:" in told and not library.installed()


def test_removing_asks_first(tiny_model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["models", "import", str(tiny_model)])
    assert main(["models", "remove", "tiny"]) == 2
    assert "--yes" in capsys.readouterr().err and library.installed()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter([False, True])
    monkeypatch.setattr(models.typer, "confirm", lambda question, **_: next(answers) or pytest.fail("went on"))
    with pytest.raises(pytest.fail.Exception):
        main(["models", "remove", "tiny"])
    assert library.installed()
    assert main(["models", "remove", "tiny"]) == 0
    assert not library.installed()


@pytest.mark.parametrize("name", ["starter", "nothing", "../elsewhere", "/", "smollm2-135m"])
def test_nothing_outside_of_the_library_is_removed(name: str, capsys: Capture) -> None:
    assert main(["models", "remove", name, "--yes"]) == 2
    assert "not a model of the library" in capsys.readouterr().err


def test_the_help_names_all_that_can_be_done(capsys: Capture) -> None:
    assert main(["models", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("get", "import", "remove", "--json", "--offline"))
