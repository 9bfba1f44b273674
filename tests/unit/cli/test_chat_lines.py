"""`chat --lines`: a program asks, and hears the answer as it comes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # together

STARTER = Path(__file__).resolve().parents[3] / "models" / "starter"


def talk(*requests: object, source: str = str(STARTER), options: tuple[str, ...] = ()) -> tuple[int, list[dict[str, Any]]]:
    lines = "".join((request if isinstance(request, str) else json.dumps(request)) + "\n" for request in requests)
    command = [sys.executable, "-m", "edgetune", "chat", source, "--lines", *options]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_answers_come_in_pieces_and_wrong_requests_do_not_end_it() -> None:
    code, told = talk(
        {"ask": "What is a cat?", "temperature": 0},
        "not JSON",
        {"ask": 3},
        {"ask": "x", "top_p": 9},
        {"dance": True},
        {"retry": True, "temperature": 0, "max_tokens": 2},
        {"turns": [{"user": "My name is Tom.", "reply": "Hello Tom."}], "ask": "hello", "temperature": 0},
    )
    assert code == 0 and told[0]["ready"] == {"context": 512, "continues": False}
    done = [line["done"] for line in told if "done" in line]
    assert [line["error"]["kind"] for line in told if "error" in line] == ["input_error"] * 4
    assert "".join(line["text"] for line in told[1:] if "text" in line).startswith(done[0]["reply"])
    assert done[0]["reply"].startswith("A cat is") and done[0]["stopped_by"] == "end" and done[0]["first_seconds"] > 0
    assert (done[1]["tokens"], done[1]["stopped_by"]) == (2, "length")
    assert "Tom" in done[2]["reply"]


def test_the_same_seed_gives_the_same_answer_in_every_turn() -> None:
    asked = {"ask": "Tell me a story.", "seed": 5, "temperature": 1.0, "max_tokens": 20, "turns": []}
    _, told = talk(asked, asked, {**asked, "seed": 6})
    first, second, third = (line["done"]["reply"] for line in told if "done" in line)
    assert first == second != third


def test_stop_is_heard_while_an_answer_is_given() -> None:
    command = [sys.executable, "-m", "edgetune", "chat", str(STARTER), "--lines", "--max-tokens", "400"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        child.stdin.write('{"ask": "Tell me a story.", "temperature": 0}\n')
        child.stdin.flush()
        child.stdout.readline()
        child.stdin.write('{"stop": true}\n')
        child.stdin.flush()
        last = next(json.loads(line) for line in child.stdout if "done" in line)
        child.stdin.close()
        assert last["done"]["stopped_by"] in ("user", "end") and last["done"]["tokens"] < 400
        began = time.monotonic()
        assert child.wait(20) == 0 and time.monotonic() - began < 10


def test_what_cannot_be_opened_is_told_as_a_line(tmp_path: Path) -> None:
    code, told = talk(source=str(tmp_path / "none.gguf"))
    assert code == 2 and set(told[0]["error"]) == {"kind", "message", "hint"}
    code, told = talk(options=("--step", "last"))
    assert code == 2 and "--step is of a run" in told[0]["error"]["message"]
