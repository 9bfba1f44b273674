import tomllib
from pathlib import Path

from edgetune.cli.main import COMMANDS
from edgetune.cli.reference import config_reference, reference
from edgetune.config import convert

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_reference_names_every_command_and_what_it_needs() -> None:
    lines = reference().splitlines()
    assert all(any(line.startswith((f"| `{name} ", f"| `{name}`")) for line in lines) for name in [*COMMANDS, "models get"])
    assert (
        "| `train [CONFIG] [--set KEY=VALUE] [--run DIR] [--project NAME] [--notify COMMAND] [--detach]` | Train a run |"
        in lines
    )


def test_the_config_reference_is_a_config() -> None:
    values = tomllib.loads(config_reference())
    assert convert(values) == convert({"model": values["model"], "data": {"train": values["data"]["train"]}})


def test_the_readme_lists_commands_and_config_as_they_are() -> None:
    text = README.read_text("utf-8")
    for part in (reference(), config_reference()):
        assert part in text, "put in what `python -m edgetune.cli.reference` prints"
