import re
from typing import Any

import numpy as np
import pytest

from edgetune.text.rows import Problem, RawRow, row_of

ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def row(value: object) -> RawRow:
    found = row_of(value, "f", 3)
    assert isinstance(found, RawRow), found
    return found


@pytest.mark.parametrize(
    ("value", "kind", "messages"),
    [
        ({"messages": [ASK, ANSWER], "id": 5}, "messages", [ASK, ANSWER]),
        ({"prompt": "q", "completion": "a"}, "prompt", [ASK, ANSWER]),
        ({"prompt": [ASK, ANSWER, ASK], "completion": [ANSWER]}, "messages", [ASK, ANSWER | {"weight": 0}, ASK, ANSWER]),
        ({"instruction": "q", "output": "a"}, "instruction", [ASK, ANSWER]),
        ({"instruction": "q", "input": "i", "output": "a"}, "instruction", [ASK | {"content": "q\n\ni"}, ANSWER]),
        (
            {"instruction": "q", "input": None, "output": "a", "system": "s", "history": [["h", "k"]]},
            "instruction",
            [{"role": "system", "content": "s"}, ASK | {"content": "h"}, ANSWER | {"content": "k"}, ASK, ANSWER],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            "conversations",
            [{"role": "system", "content": "s"}, ASK, ANSWER],
        ),
        (
            {"conversations": [ASK, {"from": "observation", "value": "o"}, ANSWER], "system": "s"},
            "conversations",
            [{"role": "system", "content": "s"}, ASK, {"role": "tool", "content": "o"}, ANSWER],
        ),
        (
            {"input": {"messages": [ASK, ANSWER, ASK]}, "preferred_output": [ANSWER]},
            "messages",
            [ASK, ANSWER | {"weight": 0}, ASK, ANSWER],
        ),
        ({"text": "t"}, "text", None),
        ({"input_ids": [1, 2]}, "tokens", None),
    ],
)
def test_kinds(value: dict[str, Any], kind: str, messages: list[dict[str, Any]] | None) -> None:
    found = row(value)
    assert (found.kind, found.messages(), found.file, found.line) == (kind, messages, "f", 3)


def test_sharegpt_tool_calls_and_tools() -> None:
    said = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "o"},
        {"from": "gpt", "value": "a"},
    ]
    chat = row({"conversations": said, "tools": '[{"name": "f"}]'}).conversation()
    assert chat and chat.tools == [{"type": "function", "function": {"name": "f"}}]
    assert chat.messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]


def test_pairs_for_models_without_a_template() -> None:
    assert row({"prompt": "q", "completion": "a"}).pair() == ("q", "a")
    short, _ = row({"instruction": "q", "output": "a"}).pair() or ("", "")
    long, answer = row({"instruction": "q", "input": "{i}", "output": "a"}).pair() or ("", "")
    assert short.endswith("### Instruction:\nq\n\n### Response:\n") and "paired" not in short
    assert (
        long.endswith("### Instruction:\nq\n\n### Input:\n{i}\n\n### Response:\n")
        and "paired with an input" in long
        and answer == "a"
    )
    assert row({"instruction": "q", "output": "a", "system": "s"}).pair() is None
    assert row({"messages": [ASK, ANSWER]}).pair() is None


def test_tokens() -> None:
    found = row({"input_ids": [1, 2, 3], "loss_mask": [0, True, 0]}).value
    assert found["input_ids"].dtype == np.int32 and found["input_ids"].tolist() == [1, 2, 3]
    assert found["loss_mask"].tolist() == [False, True, False]
    assert row({"input_ids": [1, 2], "loss_mask": None}).value["loss_mask"].tolist() == [True, True]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "must be an object, this is a text"),
        (None, "this is null"),
        ({}, "no known kind, keys: none"),
        ({"question": 1, "\x1b": 2}, r"keys: question, \\x1b"),
        ({"messages": [ASK, ANSWER], "text": "t"}, r"2 kinds at once \(messages, text\)"),
        ({"prompt": "q", "instruction": "i"}, "2 kinds at once"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "chosen and a rejected"),
        ({"messages": "hi"}, "must be a list"),
        ({"messages": [ASK]}, "no assistant message"),
        ({"conversations": {}}, "not a list"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "from unknown 'alien'"),
        (
            {"conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "a"}]},
            r"message 1 \(user\) has no content",
        ),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, "function_call that is not JSON"),
        ({"prompt": "q"}, "no `completion`"),
        ({"completion": "a"}, "no `prompt`"),
        ({"prompt": "q", "completion": " "}, "`completion` is empty"),
        ({"prompt": 5, "completion": "a"}, "`prompt` is a number, not a text"),
        ({"prompt": "q", "completion": None}, "`completion` is null"),
        ({"prompt": [ASK], "completion": "a"}, "`prompt` is a list"),
        ({"instruction": "i"}, "no `output`"),
        ({"instruction": "i", "output": "o", "history": "h"}, "`history` is not a list"),
        ({"instruction": "i", "output": "o", "history": [[1, 2]]}, "`history` is not a list"),
        ({"text": ""}, "`text` is empty"),
        ({"text": ["a"]}, "`text` is a list"),
        ({"text": True}, "`text` is true or false"),
        ({"text": "a\0b"}, "NUL character"),
        ({"text": "\ud83d"}, "half of a surrogate pair"),
        ({"messages": [ASK, ANSWER | {"content": "\udc00"}]}, "half of a surrogate pair"),
        ({"input_ids": "1 2"}, "`input_ids` is not a list of whole numbers"),
        ({"input_ids": [1, 2.0]}, "not a list of whole numbers"),
        ({"input_ids": [1, -2]}, "`input_ids` holds -2"),
        ({"input_ids": [1, 2**31]}, "holds 2147483648"),
        ({"input_ids": []}, "`input_ids` is empty"),
        ({"input_ids": [1, 2], "loss_mask": [1]}, "2 input_ids, but 1 values"),
        ({"input_ids": [1], "loss_mask": [2]}, "`loss_mask` holds 2"),
        ({"preferred_output": [ANSWER]}, "without `input.messages`"),
        ({"messages": [ASK, ANSWER], "tools": "{"}, "`tools` is not JSON"),
    ],
)
def test_what_is_wrong_with_a_row(value: object, said: str) -> None:
    found = row_of(value, "f", 3)
    assert isinstance(found, Problem) and (found.file, found.line, found.kind) == ("f", 3, "row") and found.bad
    assert re.search(said, found.message), found.message


def test_deep_nesting_is_a_problem() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    found = row_of({"messages": deep}, "f", 1)
    assert isinstance(found, Problem)
