"""`selftest resume`: its verdict for people, for programs, and for scripts."""

import json

import pytest

from edgetune.cli.main import main
from edgetune.workspace import selftest
from edgetune.workspace.selftest import Proof

Capture = pytest.CaptureFixture[str]


def with_outcome(proof: Proof, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "resume_test", lambda *_: proof)


def test_identical(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with_outcome(Proof(10, 1, 24, 0, 0, 21.0), monkeypatch)
    assert main(["selftest", "resume"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("identical  10 kills in 1 x 24 steps: 0 lost, 0 different") and "bit for bit" in out
    assert main(["selftest", "resume", "--json", "--seed", "4"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["kills"], document["identical"], document["seconds"], document["seed"]) == (10, True, 21.0, 4)


def test_not_identical_is_exit_code_5(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with_outcome(Proof(10, 2, 24, 1, 1, 21.0, ("run1: holds no run",)), monkeypatch)
    assert main(["selftest", "resume"]) == 5
    out = capsys.readouterr().out
    assert "not identical" in out and "1 lost, 1 different" in out and "holds no run" in out and "bit for bit" not in out
    assert main(["selftest", "resume", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["identical"] is False


@pytest.mark.parametrize("arguments", [["--kills", "0"], ["--seed", "-1"], ["--backend", "abacus"]])
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    assert main(["selftest", "resume", *arguments]) == 2
