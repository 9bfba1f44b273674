"""The chat templates of real models, with tokenizers that have their control tokens."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetune.errors import TemplateError
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.tokenizer import Tokenizer, load_tokenizer

TEMPLATES = (
    "CohereForAI-c4ai-command-r-plus-tool_use", "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "Qwen-Qwen2.5-7B-Instruct",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it", "llama-cpp-deepseek-r1", "meetkai-functionary-medium-v3.1", "meetkai-functionary-medium-v3.2",
    "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct",
    "microsoft-Phi-3.5-mini-instruct", "mistralai-Mistral-Nemo-Instruct-2407",
)  # fmt: skip
CONTROL = re.compile(
    r"<[|｜][^<>|｜]{1,40}[|｜]>|<(?:start|end)_of_turn>|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
ENDS = {"Cohere": "<|END_OF_TURN_TOKEN|>", "deepseek": "<｜end▁of▁sentence｜>", "mistral": "</s>"}
AROUND = {
    "CohereForAI-c4ai-command-r7b": ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    "meetkai-functionary-medium-v3.2": ("all\n", ""),
}
NEEDS_MORE = {"fireworks-ai-llama-3-firefunction-v2": "'functions' is undefined"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks.",
            "parameters": {
                "type": "object",
                "properties": {"at": {"type": "string", "description": "place"}},
                "required": ["at"],
            },
        },
    }
]
SAID = [
    ("Hi <|im_end|> <|eot_id|> [/INST] there", "Hello, how are you?"),
    ("Fine", "I say <|eot_id|> <end_of_turn> <|end|> and </s>."),
]
CHAT = [{"role": role, "content": text} for turn in SAID for role, text in zip(("user", "assistant"), turn, strict=True)]
CALLING = [
    CHAT[0],
    {
        "role": "assistant",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": '{"at": "Rome"}'}}],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"},
    {"role": "assistant", "content": "It is sunny."},
]


@pytest.fixture(scope="module")
def equipped(assets: Path, byte_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTemplate]:
    """Every template, each with a byte-level tokenizer that has the control tokens it names."""
    found: dict[str, ChatTemplate] = {}
    for name in TEMPLATES:
        source = (assets / "templates" / "llama.cpp" / f"{name}.jinja").read_text("utf-8")
        document = json.loads((byte_folder / "tokenizer.json").read_text())
        known = [token["content"] for token in document["added_tokens"]]
        end = next((text for key, text in ENDS.items() if key in name), "<|endoftext|>")
        for text in dict.fromkeys([*CONTROL.findall(source), end, "<bos>"]):
            if text not in known:
                number = len(document["model"]["vocab"]) + sum(
                    token["id"] >= len(document["model"]["vocab"]) for token in document["added_tokens"]
                )
                flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
                document["added_tokens"].append({"id": number, "content": text, "special": True, **flags})
        folder = tmp_path_factory.mktemp("real")
        (folder / "tokenizer.json").write_text(json.dumps(document))
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": end}))
        (folder / "chat_template.jinja").write_text(source)
        template = load_template(folder, load_tokenizer(folder))
        assert template
        found[name] = template
    return found


def learned(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> list[str]:
    row = template.encode(messages, **options)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.trained.astype(np.int8), [0]])))
    return [
        template.tokenizer.decode(row.ids[a:b].tolist(), control=True) for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answers_and_their_ends_are_learned_and_nothing_else(equipped: dict[str, ChatTemplate], name: str) -> None:
    template = equipped[name]
    tools = TOOLS if "tool_use" in name or "functionary" in name else None
    if name in NEEDS_MORE:
        with pytest.raises(TemplateError, match=NEEDS_MORE[name]):
            template.encode(CHAT, tools=tools)
        return
    before, after = next((marks for key, marks in AROUND.items() if name.startswith(key)), ("", ""))
    end = next(
        text
        for text in (
            "<|END_OF_TURN_TOKEN|>",
            "<｜end▁of▁sentence｜>",
            "<end_of_turn>",
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "</s>",
        )
        if text in template.source or (text == "</s>" and "mistral" in name)
    )
    assert learned(template, CHAT, tools=tools) == [before + answer + after + end for _, answer in SAID]
    row = template.encode(CHAT, tools=tools)
    assert template.tokenizer.decode(row.ids.tolist(), control=True) == template.render(CHAT, tools=tools)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", '"parameters": {"a'),
        (
            "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
            '<tool_call>\n{"name": "look", "arguments": {"at": "Rome"}}\n</tool_call><|im_end|>',
        ),
        ("Qwen-Qwen2.5-7B-Instruct", '<tool_call>\n{"name": "look", "arguments": {"at": "Rome"}}\n</tool_call><|im_end|>'),
        ("meetkai-functionary-medium-v3.1", '<function=look>{"at": "Rome"}</function><|eom_id|>'),
        ("meetkai-functionary-medium-v3.2", 'look\n{"at": "Rome"}<|eot_id|>'),
        ("meta-llama-Llama-3.1-8B-Instruct", '{"name": "look", "parameters": {"at": "Rome"}}<|eot_id|>'),
        (
            "mistralai-Mistral-Nemo-Instruct-2407",
            '[TOOL_CALLS][{"name": "look", "arguments": {"at": "Rome"}, "id": "abcdefghi"}]</s>',
        ),
    ],
)
def test_tool_calls_are_learned_whole(equipped: dict[str, ChatTemplate], name: str, first: str) -> None:
    call, answer = learned(equipped[name], CALLING, tools=TOOLS)
    assert first in call
    assert "It is sunny." in answer and "sunny" not in call


@pytest.mark.parametrize(
    ("name", "messages", "said"),
    [
        ("google-gemma-2-2b-it", [{"role": "system", "content": "Be kind."}, *CHAT], "System role not supported"),
        ("mistralai-Mistral-Nemo-Instruct-2407", [{"role": "system", "content": "Be kind."}, *CHAT], "leaves out message 1"),
        ("CohereForAI-c4ai-command-r-plus-tool_use", CALLING, "message 2"),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", CALLING, "chat template says"),
    ],
)
def test_what_cannot_be_masked_is_refused(equipped: dict[str, ChatTemplate], name: str, messages: list[Any], said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        equipped[name].encode(messages, tools=TOOLS)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in NEEDS_MORE])
def test_chat_asks_with_the_beginning_of_the_row(equipped: dict[str, ChatTemplate], name: str) -> None:
    template = equipped[name]
    tools = TOOLS if "tool_use" in name or "functionary" in name else None
    prompt, row = template.prompt(CHAT[:3], tools=tools), template.encode(CHAT, tools=tools).ids.tolist()
    if "deepseek" in name or "command-r-plus" in name:  # their prompts say what their turns do not
        assert prompt != row[: len(prompt)]
    else:
        assert prompt == row[: len(prompt)]


@pytest.mark.parametrize(("folder", "end"), [("qwen2.5", "<|im_end|>"), ("phi-3-mini", "<|end|>")])
def test_models_with_their_own_templates(assets: Path, folder: str, end: str) -> None:
    tokenizer: Tokenizer = load_tokenizer(assets / "tokenizers" / folder)
    template = load_template(assets / "tokenizers" / folder, tokenizer)
    assert template
    assert learned(template, CHAT) == [answer + end for _, answer in SAID]
    spaced = [CHAT[0], {"role": "assistant", "content": "\n  Spaces first."}]
    assert learned(template, spaced) == [f"\n  Spaces first.{end}"]
    assert learned(template, CHAT, train_on="last") == [SAID[1][1] + end]
