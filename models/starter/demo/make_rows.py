"""Writes the demo's rows from desk.md: what is learned, what chooses the checkpoint, and what is asked in the end.

python models/starter/demo/make_rows.py
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
FILES = {"-": "train.jsonl", "~": "valid.jsonl", "?": "test.jsonl"}


def read_desk(file: Path) -> list[tuple[str, str, str]]:
    """Every question with its sign and its answer."""
    asked: list[tuple[str, str, str]] = []
    waiting: list[tuple[str, str]] = []
    for line in file.read_text("utf-8").splitlines():
        sign, _, text = line.partition(" ")
        if sign in FILES:
            waiting.append((sign, text))
        elif sign == ">":
            asked += [(sign, question, text) for sign, question in waiting]
            waiting = []
    return asked


def row(question: str, answer: str) -> str:
    """One line of JSON."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def main() -> None:
    """Writes the three files beside this one."""
    asked = read_desk(HERE / "desk.md")
    for sign, name in FILES.items():
        rows = [row(question, answer) for mark, question, answer in asked if mark == sign]
        (HERE / name).write_text("".join(f"{line}\n" for line in rows), "utf-8")


if __name__ == "__main__":
    main()
