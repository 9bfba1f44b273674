from typing import Any

import pytest

from edgetune.errors import DataError
from edgetune.text.conversation import checked_messages, checked_tools, shown

ASK = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "must be a list"),
        ([], "not an empty one"),
        (["hi"], "message 1 is not an object"),
        ([ASK] * 1001, "a conversation of 1,001 messages, at most 1,000"),
        ([ASK, {"content": "x"}], "message 2: unknown role None"),
        ([{"role": "\x1b[2J", "content": "x"}], "x1b"),
        ([{"role": "user"}], r"message 1 \(user\) has no content"),
        ([{"role": "user", "content": None}], "no content"),
        ([{"role": "assistant"}], "no content"),
        ([{"role": "user", "content": 5}], "content is no text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "content is no text"),
        ([{"role": "user", "content": ["x"]}], "content is no text"),
        ([ASK | {"weight": 1}], "weight must be 0 or 1, on an assistant"),
        ([{"role": "assistant", "content": "x", "weight": 0.5}], "weight must be 0 or 1"),
        ([{"role": "assistant", "tool_calls": "look"}], "not a list"),
        ([{"role": "assistant", "tool_calls": ["look"]}], "not an object"),
        ([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}], "without the function's name"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "arguments of 'f' are not"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}], "arguments of 'f' are not"),
    ],
)
def test_what_is_wrong_with_messages(messages: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        checked_messages(messages)


def test_messages_in_one_form() -> None:
    call = {"name": "f", "arguments": {"a": 1}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call], "weight": 1},
        {"role": "assistant", "content": "c", "tool_calls": []},
    ]
    assert checked_messages(messages) == [
        {"role": "developer", "content": "a\nb"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": call}], "weight": 1},
        {"role": "assistant", "content": "c"},
    ]


def test_arguments_and_weights_as_a_template_sees_them() -> None:
    (message,) = checked_messages(
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "é"}'}}], "weight": 0}]
    )
    as_object, as_text = (shown([message], form)[0] for form in ("object", "text"))
    assert as_object["tool_calls"][0]["function"]["arguments"] == {"a": "é"}
    assert as_text["tool_calls"][0]["function"]["arguments"] == '{"a": "é"}'
    assert "weight" not in as_object
    given = checked_messages([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}])
    assert shown(given, "object")[0]["tool_calls"][0]["function"]["arguments"] == {}


def test_tools() -> None:
    function = {"name": "f", "parameters": {}}
    whole = [{"type": "function", "function": function}]
    assert checked_tools([function]) == checked_tools(whole) == checked_tools('[{"name": "f", "parameters": {}}]') == whole
    assert checked_tools(None) is checked_tools([]) is checked_tools(" ") is None
    for bad in ("{", 5, ["f"]):
        with pytest.raises(DataError, match="`tools`"):
            checked_tools(bad)
