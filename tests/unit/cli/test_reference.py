from pathlib import Path

from edgetune.cli.main import COMMANDS
from edgetune.cli.reference import reference

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_reference_names_every_command_and_what_it_needs() -> None:
    lines = reference().splitlines()
    assert all(any(line.startswith((f"| `{name} ", f"| `{name}`")) for line in lines) for name in [*COMMANDS, "models get"])
    assert "| `train CONFIG [--set KEY=VALUE] [--run DIR]` | Train a run |" in lines


def test_the_readme_lists_the_commands_as_they_are() -> None:
    assert reference() in README.read_text("utf-8"), "put in what `python -m edgetune.cli.reference` prints"
