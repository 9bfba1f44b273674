"""Rows as people write them: their kinds, and what must stand in a row of each kind."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.errors import DataError
from edgetune.files import clean
from edgetune.text.conversation import Conversation, Message, checked_messages, checked_tools, strings

KINDS = {  # the key that tells a row's kind, and the kind
    "messages": "messages",
    "preferred_output": "messages",
    "conversations": "conversations",
    "instruction": "instruction",
    "prompt": "prompt",
    "completion": "prompt",
    "text": "text",
    "input_ids": "tokens",
}
KNOWN = "messages, conversations, instruction and output, prompt and completion, text, or input_ids and loss_mask"
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
ALPACA = (  # github.com/tatsu-lab/stanford_alpaca, for models without a chat template
    "Below is an instruction that describes a task{paired}. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n{input}### Response:\n"
)
NOTES = frozenset({"kinds", "dropped", "cut", "split"})  # kinds of problems that do not make a row bad


class RowError(DataError):
    """What is wrong with one row. `what`: the kind of problem that it becomes."""

    def __init__(self, message: str, *, what: str, hint: str = ""):
        super().__init__(message, hint=hint)
        self.what = what


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, or what was done to it. `kind` is one word for programs.

    `tokens` and `trained`: of the whole row, where it was too long.
    """

    file: str
    line: int
    kind: str
    message: str
    tokens: int = 0
    trained: int = 0

    @property
    def bad(self) -> bool:
        """Whether the row cannot be learned from as it is written."""
        return self.kind not in NOTES


@dataclass(frozen=True)
class RawRow:
    """One row as read and checked. `size`: its length in the file, in bytes or characters."""

    kind: str  # messages | conversations | instruction | prompt | text | tokens
    value: dict[str, Any]
    file: str
    line: int
    size: int = 0

    def conversation(self) -> Conversation | None:
        """The row as a chat, where it is one or can be seen as one."""
        if self.kind in ("messages", "conversations"):
            return Conversation(self.value["messages"], self.value["tools"])
        if self.kind not in ("instruction", "prompt"):
            return None
        asked = "\n\n".join(part for part in (self.value["prompt"], self.value.get("input", "")) if part)
        system = [{"role": "system", "content": self.value["system"]}] if self.value.get("system") else []
        turns = [*self.value.get("history", ()), (asked, self.value["completion"])]
        roles = ("user", "assistant")
        return Conversation(
            [
                *system,
                *({"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)),
            ]
        )

    def messages(self) -> list[Message] | None:
        """The row's chat messages, where it has them or can be seen as having them."""
        chat = self.conversation()
        return chat.messages if chat else None

    def pair(self) -> tuple[str, str] | None:
        """What is given and what is learned, as plain text for a model without a chat template."""
        if self.kind == "prompt":
            return self.value["prompt"], self.value["completion"]
        if self.kind != "instruction" or self.value["history"] or self.value["system"]:
            return None
        given = self.value["input"]
        paired = ", paired with an input that provides further context" if given else ""
        section = f"### Input:\n{given}\n\n" if given else ""
        return ALPACA.format(paired=paired, instruction=self.value["prompt"], input=section), self.value["completion"]


def row_of(value: object, file: str, line: int, size: int = 0) -> RawRow | Problem:
    """A row of the kind that its keys tell, checked; or what is wrong with it."""
    try:
        kind, checked = checked_row(value)
    except DataError as problem:
        hint = f" ({problem.hint})" if problem.hint else ""
        return Problem(file, line, "row", problem.message + hint)
    except RecursionError:
        return Problem(file, line, "row", "is nested too deeply")
    return RawRow(kind, checked, file, line, size)


def checked_row(value: object) -> tuple[str, dict[str, Any]]:
    """A row's kind and what it holds, in one form for each kind.

    Raises:
        DataError: it has no kind, or two, or lacks what its kind needs, or holds text that is none.
    """
    if not isinstance(value, dict):
        raise DataError(f"a row must be an object, this is {type_name(value)}", hint=f"with {KNOWN}")
    if "chosen" in value or "rejected" in value:
        raise DataError(
            "a pair of a chosen and a rejected answer", hint="keep the chosen one as completion, or as the last message"
        )
    kinds = list(dict.fromkeys(kind for key, kind in KINDS.items() if key in value))
    if len(kinds) != 1:
        keys = ", ".join(clean(str(key))[:40] for key in list(value)[:8]) or "none"
        what = f"a row of {len(kinds)} kinds at once ({', '.join(kinds)})" if kinds else f"a row of no known kind, keys: {keys}"
        raise DataError(what, hint="keep one" if kinds else f"a row has {KNOWN}")
    if kinds[0] != "tokens":
        refuse_broken_text(value)
    return CHECKS[kinds[0]](value)


def refuse_broken_text(value: object) -> None:
    """Text that no tokenizer takes: NUL, and halves of surrogate pairs."""
    for text in strings(value):
        if "\0" in text:
            raise DataError("a NUL character in a text")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise DataError("half of a surrogate pair in a text", hint="the program that wrote this file cut an emoji in two")


def check_messages(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """OpenAI's fine-tuning form, and its preference form, of which the preferred output is learned."""
    given: Any = value
    messages = value.get("messages")
    if "preferred_output" in value:
        given, preferred = value.get("input"), value["preferred_output"]
        if not isinstance(given, dict) or not isinstance(given.get("messages"), list) or not isinstance(preferred, list):
            raise DataError("a preference row without `input.messages` and `preferred_output`")
        messages = [*unlearned(given["messages"]), *preferred]
    return "messages", chat(messages, given.get("tools"))


def check_conversations(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """ShareGPT's form: {"from", "value"}; {"role", "content"} is taken too."""
    listed = value["conversations"]
    if not isinstance(listed, list):
        raise DataError("`conversations` is not a list")
    system = [{"role": "system", "content": value["system"]}] if value.get("system") else []
    messages = [*system, *(sharegpt_message(one, at + 1) for at, one in enumerate(listed))]
    return "conversations", chat(messages, value.get("tools"))


def sharegpt_message(one: object, at: int) -> object:
    """One message in OpenAI's form."""
    if not isinstance(one, dict) or "from" not in one:
        return one
    speaker, said = one["from"], one.get("value")
    if speaker == "function_call":
        try:
            return {
                "role": "assistant",
                "tool_calls": calls if isinstance(calls := json.loads(str(said)), list) else [calls],
            }
        except ValueError:
            raise DataError(f"message {at}: a function_call that is not JSON") from None
    if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
        raise DataError(
            f"message {at}: from unknown {clean(repr(speaker))}",
            hint=f"known: {', '.join(SHAREGPT_ROLES)}, function_call",
        )
    return {"role": SHAREGPT_ROLES[speaker], "content": said}


def chat(messages: object, tools: object) -> dict[str, Any]:
    """Messages and tools, checked, with something to learn in them."""
    checked = {"messages": checked_messages(messages), "tools": checked_tools(tools)}
    if not any(message["role"] == "assistant" for message in checked["messages"] or ()):
        raise DataError("no assistant message: nothing to learn from")
    return checked


def unlearned(messages: list[Any]) -> list[Any]:
    """Messages whose assistant turns are given, not learned."""
    return [{**one, "weight": 0} if isinstance(one, dict) and one.get("role") == "assistant" else one for one in messages]


def check_instruction(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Alpaca's form: instruction, input (may be absent), output; system and history where they are."""
    history = value.get("history") or []
    pairs = isinstance(history, list) and all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in history)
    if not pairs or not all(isinstance(text, str) for turn in history for text in turn):
        raise DataError("`history` is not a list of [question, answer]")
    return "instruction", {
        "prompt": text_at(value, "instruction"),
        "input": text_at(value, "input", needed=False),
        "completion": text_at(value, "output"),
        "system": text_at(value, "system", needed=False),
        "history": [tuple(turn) for turn in history],
    }


def check_prompt(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Two texts, or two lists of messages."""
    prompt, completion = value.get("prompt"), value.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return "messages", chat([*unlearned(prompt), *completion], value.get("tools"))
    return "prompt", {"prompt": text_at(value, "prompt", empty=True), "completion": text_at(value, "completion")}


def check_text(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Plain text, all of it to learn."""
    return "text", {"text": text_at(value, "text")}


def check_tokens(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Token ids and, for each, whether it is a trained target; without a loss_mask, all are."""
    ids = integers(value, "input_ids", 2**31 - 1)
    trained = integers(value, "loss_mask", 1) if value.get("loss_mask") is not None else np.ones_like(ids)
    if ids.size != trained.size:
        raise DataError(f"{ids.size} input_ids, but {trained.size} values in loss_mask")
    if not ids.size:
        raise DataError("`input_ids` is empty")
    return "tokens", {"input_ids": ids.astype(np.int32), "loss_mask": trained.astype(np.bool_)}


CHECKS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]] = {
    "messages": check_messages,
    "conversations": check_conversations,
    "instruction": check_instruction,
    "prompt": check_prompt,
    "text": check_text,
    "tokens": check_tokens,
}


def text_at(value: Mapping[str, Any], key: str, *, needed: bool = True, empty: bool = False) -> str:
    """The text under a key."""
    text = value.get(key)
    if text is None and not needed:
        return ""
    if not isinstance(text, str):
        raise DataError(f"`{key}` is {type_name(text)}, not a text" if key in value else f"no `{key}`")
    if needed and not empty and not text.strip():
        raise DataError(f"`{key}` is empty")
    return text


def integers(value: Mapping[str, Any], key: str, highest: int) -> np.ndarray[Any, np.dtype[Any]]:
    """A list of whole numbers from 0 to `highest`."""
    listed = value.get(key)
    if not isinstance(listed, list) or not all(isinstance(one, int) for one in listed):
        raise DataError(f"`{key}` is not a list of whole numbers")
    if listed and not 0 <= min(listed) <= max(listed) <= highest:
        raise DataError(f"`{key}` holds {min(listed) if min(listed) < 0 else max(listed)}: it may go from 0 to {highest}")
    return np.array(listed, np.int64)


def type_name(value: object) -> str:
    """What a JSON value is, for people."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
