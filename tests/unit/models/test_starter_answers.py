"""The starter's committed weights answer questions that they were never taught, as its card says."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgetune.workspace.outcomes import evaluate_rows

SAMPLED = 7  # every so manieth question: about a hundred, of every skill


@pytest.mark.slow
def test_the_starter_answers_questions_that_were_held_out(starter: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, starter / "make_corpus.py", "--out", tmp_path, "--rows", "6000"], check=True)
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join((tmp_path / "test.jsonl").read_text("utf-8").splitlines(keepends=True)[::SAMPLED]), "utf-8")
    scored = evaluate_rows(str(starter), None, [asked], "exact", 512, lambda event: None)
    assert len(scored.answers) > 80
    assert scored.metrics["accuracy"] >= 0.75
