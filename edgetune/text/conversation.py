"""Chat messages in OpenAI's form: what may stand in them, and what a chat template is shown of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from edgetune.errors import DataError
from edgetune.files import clean

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MOST = 1000  # messages: a prompt is rendered for each turn
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of the same thing; templates read the first
Message = dict[str, Any]


class Conversation(NamedTuple):
    """Messages, and the tools that the assistant may call."""

    messages: list[Message]
    tools: list[Any] | None = None


def checked_messages(messages: object) -> list[Message]:
    """Messages with their text parts joined, their tool calls in one form and no empty keys.

    Raises:
        DataError: they are not messages; the sentence says which one is wrong, counted from 1.
    """
    if not isinstance(messages, list) or not messages:
        raise DataError("`messages` must be a list of messages, and not an empty one")
    if len(messages) > MOST:
        raise DataError(f"a conversation of {len(messages):,} messages, at most {MOST:,}")
    return [checked_message(message, at + 1) for at, message in enumerate(messages)]


def checked_message(message: object, at: int) -> Message:
    """One message; see checked_messages."""
    if not isinstance(message, dict):
        raise DataError(f"message {at} is not an object with `role` and `content`")
    kept: Message = {key: value for key, value in message.items() if value is not None}
    role = kept.get("role")
    if role not in ROLES:
        raise DataError(f"message {at}: unknown role {clean(repr(role))}", hint=f"roles are {', '.join(ROLES)}")
    if "tool_calls" in kept:
        kept["tool_calls"] = checked_calls(kept["tool_calls"], at)
        if not kept["tool_calls"]:
            del kept["tool_calls"]
    if "content" in kept:
        kept["content"] = text_of(kept["content"], at)
    elif role != "assistant" or "tool_calls" not in kept:
        raise DataError(f"message {at} ({role}) has no content")
    if kept.get("weight", 1) not in (0, 1) or ("weight" in kept and role != "assistant"):
        raise DataError(f"message {at}: weight must be 0 or 1, on an assistant's message")
    return kept


def text_of(content: object, at: int) -> str:
    """A message's content as one text."""
    if isinstance(content, str):
        return content
    parts = [text_part(part) for part in content] if isinstance(content, list) else [None]
    texts = [part for part in parts if part is not None]
    if len(texts) < len(parts):
        raise DataError(f"message {at}: content is no text", hint="images and sounds cannot be learned")
    return "\n".join(texts)


def text_part(part: object) -> str | None:
    """The text of {"type": "text", "text": …}."""
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    return text if isinstance(text, str) else None


def checked_calls(calls: object, at: int) -> list[Message]:
    """Tool calls, each {"type", "function": {"name", "arguments"}}."""
    if not isinstance(calls, list):
        raise DataError(f"message {at}: `tool_calls` is not a list")
    return [checked_call(call, at) for call in calls]


def checked_call(call: object, at: int) -> Message:
    """One tool call: OpenAI's form, or the bare {"name", "arguments"}."""
    if not isinstance(call, dict):
        raise DataError(f"message {at}: a tool call is not an object")
    whole: Message = call if "function" in call else {"type": "function", "function": call}
    function = whole["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"message {at}: a tool call without the function's name")
    arguments_of(function, at)
    return whole


def arguments_of(function: Mapping[str, Any], at: int = 0) -> dict[str, Any]:
    """A call's arguments as an object: OpenAI writes them as a JSON text."""
    arguments = function.get("arguments", {})
    try:
        decoded = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        raise DataError(f"message {at}: the arguments of {clean(function['name'])!r} are not a JSON object")
    return decoded


def checked_tools(tools: object) -> list[Any] | None:
    """Descriptions of tools, each {"type": "function", "function": …}; a text is read as JSON.

    Raises:
        DataError: they are not a list of objects.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError):
            raise DataError("`tools` is not JSON") from None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("`tools` must be a list of objects")
    return [tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool} for tool in tools]


def shown(messages: Sequence[Mapping[str, Any]], arguments: Literal["object", "text"]) -> list[Message]:
    """What a template sees: reasoning under all its names, arguments in the form that it can print, no weights."""
    return [shown_message(message, arguments) for message in messages]


def shown_message(message: Mapping[str, Any], arguments: Literal["object", "text"]) -> Message:
    """One message; see shown."""
    kept = {key: value for key, value in message.items() if value is not None and key != "weight"}
    reasoning = next((kept[name] for name in REASONING if name in kept), None)
    if reasoning is not None:
        kept = {"thinking": reasoning, **kept, "reasoning_content": reasoning}
    if "tool_calls" in kept:
        kept["tool_calls"] = [shown_call(call, arguments) for call in kept["tool_calls"]]
    return kept


def shown_call(call: Mapping[str, Any], arguments: Literal["object", "text"]) -> Message:
    """One tool call with its arguments as an object, or as a JSON text."""
    function = call["function"]
    given = function.get("arguments", {})
    if arguments == "object":
        given = arguments_of(function)
    elif not isinstance(given, str):
        given = json.dumps(given, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": given}}


def strings(value: object) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)
