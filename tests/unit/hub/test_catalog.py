import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetune.architecture.load import parameter_shapes
from edgetune.architecture.spec import SUPPORTED_FAMILIES, known_spec
from edgetune.errors import ModelError
from edgetune.hub import catalog
from edgetune.hub.download import is_repository


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    catalog.catalogue.cache_clear()
    yield
    catalog.catalogue.cache_clear()


def test_every_entry_is_of_a_family_that_can_be_trained() -> None:
    entries = catalog.catalogue()
    assert len(entries) >= 8
    assert {entry.family for entry in entries} <= set(SUPPORTED_FAMILIES)
    for entry in entries:
        assert entry.folder or (is_repository(entry.repository) and entry.parameters > 1e8)
        assert "config.json" in entry.files and entry.license and entry.summary


def test_entries_are_found_by_name_and_repository() -> None:
    entry = catalog.find("SmolLM2-135M")
    assert entry and entry is catalog.find("huggingfacetb/smollm2-135m-instruct")
    assert entry.parameters == 134_515_008 and entry.about_bytes == 2 * entry.parameters
    assert catalog.find("") is None and catalog.find("gpt-7") is None


def test_the_starter_comes_first_and_lies_in_the_project() -> None:
    first = catalog.catalogue()[0]
    assert first.name == "starter" and first.folder == catalog.starter() == catalog.models_folder() / "starter"


def test_the_catalogue_of_an_installed_package_lies_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "files", lambda package: tmp_path / package)
    shutil.copytree(catalog.__file__.rpartition("/edgetune/")[0] + "/models/catalog", tmp_path / "models" / "catalog")
    assert catalog.models_folder() == tmp_path / "models"
    (tmp_path / "edgetune" / "_models").mkdir(parents=True)
    assert catalog.models_folder() == tmp_path / "edgetune" / "_models"


@pytest.mark.parametrize("text", ["name = ", 'name = "x"', 'nmae = "x"', "\xff"])
def test_a_broken_entry_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(catalog, "models_folder", lambda: tmp_path)
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "broken.toml").write_text(text, "latin-1")
    with pytest.raises(ModelError, match=r"broken\.toml"):
        catalog.catalogue()


@pytest.mark.parametrize("entry", [entry for entry in catalog.catalogue() if entry.repository], ids=lambda entry: entry.name)
def test_the_shape_of_an_entry_has_the_parameters_that_the_hub_counts(entry: catalog.BaseModel) -> None:
    """The hub counts them from the files, we from the shape: every number of it is right, or they differ."""
    spec = known_spec(entry.family, entry.config)
    assert sum(math.prod(shape) for shape in parameter_shapes(spec).values()) == entry.parameters
    assert spec.max_positions >= 2048


def test_models_whose_licence_is_accepted_first_say_so() -> None:
    gated = {entry.name for entry in catalog.catalogue() if entry.gated}
    assert gated == {entry.name for entry in catalog.catalogue() if entry.license in ("gemma", "llama3.2")}
