from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.config import (
    AdapterConfig,
    ChecksConfig,
    DataConfig,
    RunConfig,
    TrainingConfig,
    convert,
    load,
    to_toml,
    toml_value,
)
from edgetune.errors import ConfigError

SMALLEST = 'model = "tiny"\n[data]\ntrain = ["rows.jsonl"]\n'


def written(folder: Path, text: str) -> Path:
    file = folder / "run.toml"
    file.write_text(text, "utf-8")
    return file


def test_only_model_and_rows_must_be_said(tmp_path: Path) -> None:
    config = load(written(tmp_path, SMALLEST))
    assert (config.model, config.adapter.rank, config.training.rate, config.checks.save_every) == ("tiny", 16, 2e-4, 50)


def test_relative_names_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    text = SMALLEST + 'valid = ["held.jsonl"]\n[adapter]\ninit_from = "before"\n'
    config = load(written(tmp_path, text))
    assert config.model == str(tmp_path / "tiny")
    assert config.data.train == [str(tmp_path / "rows.jsonl")]
    assert config.data.valid == [str(tmp_path / "held.jsonl")]
    assert config.adapter.init_from == str(tmp_path / "before")


def test_a_hub_id_stays_a_hub_id(tmp_path: Path) -> None:
    text = SMALLEST.replace("tiny", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert load(written(tmp_path, text)).model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_settings_change_any_key(tmp_path: Path) -> None:
    settings = [
        "training.rate=1e-3",
        "data.packing=false",
        "model=other",
        'checks.samples=["Hi?"]',
        "adapter.layers=2",
        "data.valid=0.2",
    ]
    config = load(written(tmp_path, SMALLEST), settings)
    assert (config.training.rate, config.data.packing, config.model) == (1e-3, False, "other")
    assert (config.checks.samples, config.adapter.layers, config.data.valid) == (["Hi?"], 2, 0.2)


@pytest.mark.parametrize(
    ("text", "says", "hints"),
    [
        ("model = ", "is not a readable TOML file", "mend"),
        (SMALLEST + "[trainig]\nrate = 1\n", "unknown key trainig", "did you mean training?"),
        (SMALLEST + "[training]\nrat = 1\n", "unknown key training.rat", "did you mean training.rate?"),
        (SMALLEST + "[training]\nbatch = 0\n", "training.batch", "config section"),
        (SMALLEST + '[training]\nbatch = "4"\n', "training.batch", "config section"),
        (SMALLEST + '[adapter]\ntargets = ["w_proj"]\n', "adapter.targets", "config section"),
        (SMALLEST + "valid = 1.5\n", "data.valid", "config section"),
        ('[data]\ntrain = ["a"]\n', "model", ""),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, says: str, hints: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert says in caught.value.message and str(tmp_path / "run.toml") in caught.value.message
    assert hints in caught.value.hint


@pytest.mark.parametrize("setting", ["rate", "=1", "model.rank=1", "adapter.rank.deep=1"])
def test_settings_that_are_none(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError):
        load(written(tmp_path, SMALLEST), [setting])


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'model = "\x00"\n'])
def test_files_that_are_not_text(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="readable"):
        load(file)


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    for file in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError):
            load(file)


names = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12)
configs = st.builds(
    RunConfig,
    model=names,
    data=st.builds(DataConfig, train=st.lists(names, min_size=1), valid=st.floats(0, 0.9) | st.lists(names)),
    adapter=st.builds(
        AdapterConfig, rank=st.integers(1, 1024), alpha=st.floats(0.1, 1e6), layers=st.just("all") | st.integers(1, 99)
    ),
    training=st.builds(
        TrainingConfig,
        rate=st.floats(1e-12, 0.9),
        seed=st.integers(0, 2**63 - 1),
        betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    ),
    checks=st.builds(ChecksConfig, samples=st.lists(names)),
)


@given(configs)
def test_a_config_comes_back_from_its_toml(config: RunConfig) -> None:
    import tomllib

    assert convert(tomllib.loads(to_toml(config))) == config


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_any_text_is_a_toml_string(text: str) -> None:
    import tomllib

    assert tomllib.loads(f"value = {toml_value(text)}")["value"] == text


def test_every_key_is_described() -> None:
    for part in (DataConfig, AdapterConfig, TrainingConfig, ChecksConfig):
        for field in msgspec.structs.fields(part):
            kind = msgspec.inspect.type_info(field.type)
            assert isinstance(kind, msgspec.inspect.Metadata) and (kind.extra_json_schema or {}).get("description"), field.name
