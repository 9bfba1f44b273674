import json
import shlex
import sys
from pathlib import Path

import pytest

from edgetune.cli.notify import at_the_end, notice, run_command
from edgetune.cli.output import Output
from edgetune.events import RunStopped, StepFinished


def test_only_terminals_that_are_known_get_more_than_a_bell() -> None:
    assert notice("done", {"TERM_PROGRAM": "iTerm.app"}) == "\a\x1b]9;done\x07"
    assert notice("done", {"TERM_PROGRAM": "WezTerm"}) == "\a\x1b]777;notify;EdgeTune;done\x07"
    assert (
        notice("done", {"TERM_PROGRAM": "Apple_Terminal"}) == notice("done", {"TERM_PROGRAM": "iTerm.app", "TMUX": "1"}) == "\a"
    )


def test_nothing_in_a_name_drives_the_terminal() -> None:
    assert notice("a\x07\x1b]52;c;x\n", {"TERM_PROGRAM": "iTerm.app"}) == "\a\x1b]9;a\\x07\\x1b]52,c,x\x07"


def test_the_command_is_given_the_facts_and_no_shell(tmp_path: Path) -> None:
    out, code = (
        tmp_path / "told.json",
        "import os,sys; open(sys.argv[1],'w').write(os.environ['EDGETUNE_RUN']+'\\n'+sys.stdin.read())",
    )
    command = shlex.join([sys.executable, "-c", code, str(out)])
    facts = {"run": "a; touch b", "state": "finished", "loss": 1.5, "hint": None}
    run_command(Output(), command, facts)
    run, document = out.read_text().split("\n")
    assert run == "a; touch b" and json.loads(document) == facts and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("command", ["/no/such/program", "'unclosed", "", f"{sys.executable} -c 'raise SystemExit(3)'"])
def test_a_command_that_fails_is_a_warning(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(Output(), command, {"run": "r"})
    assert "warning: --notify: " in capsys.readouterr().err


def test_the_end_of_a_run_is_told_once(tmp_path: Path) -> None:
    out, code = (
        tmp_path / "told",
        "import os,sys; open(sys.argv[1],'a').write(os.environ['EDGETUNE_STATE']+' '+os.environ['EDGETUNE_LOSS'])",
    )
    hear = at_the_end(Output(), shlex.join([sys.executable, "-c", code, str(out)]))
    hear(StepFinished(step=1, loss=2.5, rate=1, gradient_norm=1, tokens=1, trained_tokens=1, seconds=1, memory_bytes=1))
    assert not out.exists()
    hear(RunStopped(step=1, reason="asked to stop"))
    assert out.read_text() == "stopped 2.5"
