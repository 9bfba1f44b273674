import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.errors import DataError, TemplateError
from edgetune.text.chat_template import ChatTemplate, Rendered, load_template
from edgetune.text.tokenizer import Tokenizer, load_tokenizer

ASK = {"role": "user", "content": "Who sees a bird?"}
ANSWER = {"role": "assistant", "content": "I see a small bird."}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}


def learned(template: ChatTemplate, row: Rendered) -> str:
    """The trained text, with "|" where it is interrupted."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.trained.astype(np.int8), [0]])))
    spans = zip(edges[::2], edges[1::2], strict=True)
    return "|".join(template.tokenizer.decode(row.ids[a:b].tolist(), control=True) for a, b in spans)


# --- where a template comes from


def test_a_folder_without_a_template_has_none(byte_folder: Path, byte_tokenizer: Tokenizer) -> None:
    assert load_template(byte_folder, byte_tokenizer) is None


def test_the_order_of_sources(byte_folder: Path, byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = shutil.copytree(byte_folder, tmp_path / "copy")

    def source() -> str:
        template = load_template(folder, byte_tokenizer)
        assert template
        return template.source

    (folder / "chat_template.json").write_text('{"chat_template": "legacy"}')
    assert source() == "legacy"
    (folder / "tokenizer_config.json").write_text('{"chat_template": "config"}')
    assert source() == "config"
    (folder / "chat_template.jinja").write_text("file")
    assert source() == "file"


def test_a_list_of_templates_has_one_for_tools(byte_folder: Path, byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = shutil.copytree(byte_folder, tmp_path / "copy")
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools: {{ tools[0].function.name }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = load_template(folder, byte_tokenizer)
    assert template and template.source == "plain"
    assert template.render([ASK]) == "plain" and template.render([ASK], tools=[TOOL]) == "tools: look"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("chat_template.jinja", b"{% if %}", "is not a chat template: line 1"),
        ("chat_template.jinja", b"\xff", "is not UTF-8"),
        ("chat_template.jinja", b"x" * (300 << 10), "too large"),
        ("tokenizer_config.json", b'{"chat_template": 5}', "neither a text nor a list"),
        ("tokenizer_config.json", json.dumps({"chat_template": "x" * (300 << 10)}).encode(), "more than 262,144 characters"),
        ("chat_template.json", b"{}", "is damaged"),
    ],
)
def test_broken_templates(
    byte_folder: Path, byte_tokenizer: Tokenizer, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    folder = shutil.copytree(byte_folder, tmp_path / "copy")
    (folder / name).write_bytes(content)
    with pytest.raises(TemplateError, match=said):
        load_template(folder, byte_tokenizer)


def test_fingerprints_differ(byte_tokenizer: Tokenizer) -> None:
    prints = {ChatTemplate(source, byte_tokenizer).fingerprint for source in ("a", "b", "a")}
    assert len(prints) == 2


# --- what a template is shown


def test_messages_are_shown_as_transformers_shows_them(byte_tokenizer: Tokenizer) -> None:
    template = ChatTemplate("{{ messages | tojson }}", byte_tokenizer)
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None},
        {"role": "assistant", "content": "c", "weight": 0, "reasoning": "r"},
    ]
    assert json.loads(template.render(messages)) == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c", "thinking": "r", "reasoning": "r", "reasoning_content": "r"},
    ]


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("{{ messages[1].tool_calls[0].function.arguments | tojson }}", '{"where": "é"}'),
        ("{{ messages[1].tool_calls[0].function.arguments }}", '{"where":"é"}'),
        ("{{ 'f:' + messages[1].tool_calls[0].function.arguments }}", 'f:{"where":"é"}'),
    ],
)
def test_arguments_come_in_the_form_that_the_template_prints(byte_tokenizer: Tokenizer, source: str, printed: str) -> None:
    template = ChatTemplate("{% if messages[1].tool_calls %}" + source + "{% endif %}", byte_tokenizer)
    call = {"function": {"name": "look", "arguments": '{"where":"é"}'}}
    assert template.render([ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]) == printed


def test_what_are_no_messages_is_refused(chatml: ChatTemplate) -> None:
    with pytest.raises(DataError, match="unknown role"):
        chatml.encode([{"role": "robot", "content": "x"}])
    with pytest.raises(DataError, match="not an empty one"):
        chatml.prompt([])


# --- ids and masks


def test_a_mask_made_by_hand(chatml: ChatTemplate) -> None:
    tokenizer = chatml.tokenizer
    start, end = tokenizer.control["<|im_start|>"], tokenizer.control["<|im_end|>"]
    row = chatml.encode([ASK, ANSWER, ASK, ANSWER])
    ask, answer = tokenizer.encode(f"user\n{ASK['content']}"), tokenizer.encode(ANSWER["content"])
    head, newline = tokenizer.encode("assistant\n"), tokenizer.encode("\n")
    turn = [start, *ask, end, *newline, start, *head]
    assert row.ids.tolist() == [*turn, *answer, end, *newline, *turn, *answer, end, *newline]
    once = [False] * len(turn) + [True] * (len(answer) + 1) + [False] * len(newline)
    assert row.trained.tolist() == once * 2


def test_a_mask_made_by_hand_with_sentencepiece(tiny_template: ChatTemplate) -> None:
    tokenizer = tiny_template.tokenizer
    user, assistant, end = (tokenizer.control[f"<|{name}|>"] for name in ("user", "assistant", "end"))
    row = tiny_template.encode([ASK, ANSWER])
    ask, answer = tokenizer.encode(ASK["content"]), tokenizer.encode(ANSWER["content"])
    assert row.ids.tolist() == [1, user, *ask, end, assistant, *answer, end]
    assert row.trained.tolist() == [False] * (len(ask) + 4) + [True] * (len(answer) + 1)


def test_last_all_and_weights(chatml: ChatTemplate) -> None:
    chat = [ASK, ANSWER, ASK, {**ANSWER, "content": "Second."}]
    both = "I see a small bird.<|im_end|>|Second.<|im_end|>"
    assert learned(chatml, chatml.encode(chat)) == both
    assert learned(chatml, chatml.encode(chat, train_on="last")) == "Second.<|im_end|>"
    unweighted = [ASK, {**ANSWER, "weight": 0}, ASK, {**ANSWER, "content": "Second.", "weight": 1}]
    assert learned(chatml, chatml.encode(unweighted)) == "Second.<|im_end|>"
    everything = chatml.encode(chat, train_on="all")
    assert everything.trained.tolist() == [False] + [True] * (len(everything.ids) - 1)
    rest = learned(chatml, chatml.encode(unweighted, train_on="all"))
    assert ANSWER["content"] not in rest and "Second.<|im_end|>" in rest and ASK["content"] in rest
    none = chatml.encode([ASK, {**ANSWER, "weight": 0}])
    assert not none.trained.any()


words = st.text(st.sampled_from(" \n\tabé🦙<|>[]/_im_endstartIS") | st.characters(exclude_categories=["Cs", "Co"]), max_size=25)
hostile = st.lists(
    st.one_of(words, st.sampled_from(["<|im_end|>", "<|im_start|>user\n", "</s>", "<|end|>", "<|assistant|>"])), max_size=5
)
contents = hostile.map("".join)


@given(said=st.lists(st.tuples(contents, contents), min_size=1, max_size=3))
def test_the_mask_decodes_to_the_answers_whatever_they_say(
    chatml: ChatTemplate, tiny_template: ChatTemplate, said: list[tuple[str, str]]
) -> None:
    """Control tokens in a person's words stay words, and the prompt of chat is the beginning of the training row."""
    for template, end in ((chatml, "<|im_end|>"), (tiny_template, "<|end|>")):
        if template is tiny_template:  # SentencePiece has one sign for a space and for "▁"
            said = [(ask.replace("▁", ""), answer.replace("▁", "")) for ask, answer in said]
        chat = [
            {"role": role, "content": text} for turn in said for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        row = template.encode(chat)
        assert learned(template, row) == "|".join(answer + end for _, answer in said)
        controls = sum(int(token) in template.tokenizer.control_ids for token in row.ids)
        assert controls == (4 * len(said) if template is chatml else 4 * len(said) + 1)
        prompt = template.prompt(chat[:-1])
        assert row.ids[: len(prompt)].tolist() == prompt
        assert template.tokenizer.decode(row.ids.tolist(), control=True) == template.render(chat)


quiet = st.text("abc é.\n", max_size=20).map(lambda text: "w" + text)


@given(said=st.lists(st.tuples(quiet, quiet), min_size=1, max_size=3))
def test_ids_equal_those_of_the_whole_text(
    chatml: ChatTemplate, tiny_template: ChatTemplate, said: list[tuple[str, str]]
) -> None:
    for template in (chatml, tiny_template):
        chat = [
            {"role": role, "content": text} for turn in said for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        row, text = template.encode(chat), template.render(chat)
        assert row.ids.tolist() == template.tokenizer.encode(text, control=True)


def test_an_answer_is_cut_from_its_header_as_generation_cuts_it(chatml: ChatTemplate) -> None:
    row = chatml.encode([ASK, {"role": "assistant", "content": "\n\nAfter two lines."}])
    prompt = chatml.prompt([ASK])
    assert row.ids[: len(prompt)].tolist() == prompt
    assert learned(chatml, row) == "\n\nAfter two lines.<|im_end|>"


def test_control_text_in_tools_and_calls_is_text(byte_tokenizer: Tokenizer) -> None:
    source = (
        "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls %}{{ c | tojson }}{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = ChatTemplate(source, byte_tokenizer)
    call = {"function": {"name": "look", "arguments": {"where": "<|im_end|>"}}}
    chat = [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]
    row = template.encode(chat, tools=[{"function": {"name": "<|im_start|>"}}])
    assert sum(int(token) in byte_tokenizer.control_ids for token in row.ids) == 4
    assert learned(template, row) == json.dumps(call) + "<|im_end|>"


# --- templates that do it their own way


def encode(tokenizer: Tokenizer, source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    template = ChatTemplate(source, tokenizer)
    return learned(template, template.encode(messages, **options))


TURN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
HEAD = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def test_generation_tags_say_what_is_learned(byte_tokenizer: Tokenizer) -> None:
    tagged = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
    inside = tagged.replace("{% endgeneration %}", "<|im_end|>\n{% endgeneration %}").replace(
        "{% else %}{{ m.content }}{% endif %}<|im_end|>", "{% else %}{{ m.content }}<|im_end|>{% endif %}"
    )
    for body in (tagged, inside):
        assert encode(byte_tokenizer, TURN + body + HEAD, [ASK, ANSWER, ASK, ANSWER]) == "|".join(
            [f"{ANSWER['content']}<|im_end|>"] * 2
        )
        second = [ASK, ANSWER | {"weight": 0}, ASK, ANSWER | {"content": "No <|im_end|>."}]
        assert encode(byte_tokenizer, TURN + body + HEAD, second) == "No <|im_end|>.<|im_end|>"


def test_a_generation_tag_without_an_end_is_refused(byte_tokenizer: Tokenizer) -> None:
    body = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %} and{% endif %}<|im_end|>\n"
    with pytest.raises(TemplateError, match="leaves out message 1"):
        encode(byte_tokenizer, TURN + body + HEAD, [ASK, ANSWER])
    body = body.replace("{% endif %}", "{% else %}{{ m.content }}{% endif %}")
    with pytest.raises(TemplateError, match="without an end-of-turn token"):
        encode(byte_tokenizer, TURN + body + HEAD, [ASK, ANSWER])


def test_a_template_without_an_end_of_turn_is_refused(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(TemplateError, match="no end-of-turn token follows message 2: a model that learns it would never stop"):
        encode(byte_tokenizer, TURN + "{{ m.content }}\n" + HEAD, [ASK, ANSWER])
    ends_only_users = TURN + "{{ m.content }}{% if m.role == 'user' %}<|im_end|>{% endif %}\n" + HEAD
    with pytest.raises(TemplateError, match="follows message 2"):
        encode(byte_tokenizer, ends_only_users, [ASK, ANSWER, ASK, ANSWER])


def test_only_the_first_end_is_learned(byte_tokenizer: Tokenizer) -> None:
    """Phi-3's template writes <|endoftext|> after the last turn."""
    source = TURN + "{{ m.content }}<|im_end|>\n" + HEAD.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")
    assert encode(byte_tokenizer, source, [ASK, ANSWER, ASK, ANSWER]) == "|".join([f"{ANSWER['content']}<|im_end|>"] * 2)


def test_trimmed_content(byte_tokenizer: Tokenizer) -> None:
    source = TURN + "{{ m.content | trim }}<|im_end|>\n" + HEAD
    assert encode(byte_tokenizer, source, [ASK, {**ANSWER, "content": "\n Yes. \n"}]) == "Yes.<|im_end|>"


def test_a_template_that_drops_old_thoughts(byte_tokenizer: Tokenizer) -> None:
    """Qwen3 and DeepSeek show the reasoning of the last turn at most."""
    source = TURN + "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n" + HEAD
    thoughtful = {**ANSWER, "content": "<think>\nhm <|im_end|>\n</think>\n\nYes <|im_end|>."}
    assert encode(byte_tokenizer, source, [ASK, thoughtful, ASK, thoughtful]) == "|".join(["Yes <|im_end|>.<|im_end|>"] * 2)


def test_a_prompt_that_says_more_than_the_turn(byte_tokenizer: Tokenizer) -> None:
    """DeepSeek R1's prompt opens a thought that its turns do not have: the turn is found by its text."""
    source = TURN + "{{ m.content.split('</think>')[-1] }}<|im_end|>\n" + HEAD.replace("assistant\n", "assistant\n<think>\n")
    assert encode(byte_tokenizer, source, [ASK, ANSWER]) == f"{ANSWER['content']}<|im_end|>"
    assert (
        encode(byte_tokenizer, source, [ASK, {**ANSWER, "content": "<think>hm</think>assistant\nYes."}])
        == "assistant\nYes.<|im_end|>"
    )


def test_a_template_that_leaves_a_message_out_is_refused(byte_tokenizer: Tokenizer) -> None:
    source = "{% for m in messages if m.role != 'system' %}" + TURN.split("%}", 1)[1] + "{{ m.content }}<|im_end|>\n" + HEAD
    with pytest.raises(TemplateError, match=r"leaves out message 1 \(system\)") as caught:
        encode(byte_tokenizer, source, [{"role": "system", "content": "Be kind."}, ASK, ANSWER])
    assert "next user message" in caught.value.hint


def test_a_template_that_prints_an_answer_twice_or_changes_it_is_refused(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(TemplateError, match="several times"):
        encode(byte_tokenizer, TURN + "{{ m.content }}{{ m.content }}<|im_end|>\n" + HEAD, [ASK, ANSWER])
    with pytest.raises(TemplateError, match="changes what it prints"):
        encode(byte_tokenizer, TURN + "{{ m.content | length }}{{ m.content }}<|im_end|>\n" + HEAD, [ASK, ANSWER])


def test_a_refused_row_can_still_be_learned_whole_or_asked(byte_tokenizer: Tokenizer) -> None:
    template = ChatTemplate(TURN + "{{ m.content | length }}{{ m.content }}<|im_end|>\n" + HEAD, byte_tokenizer)
    assert (
        template.encode([ASK, ANSWER], train_on="all").trained.sum()
        == len(template.encode([ASK, ANSWER], train_on="all").ids) - 1
    )
    assert template.prompt([ASK]) == byte_tokenizer.encode(template.render([ASK], add_generation_prompt=True), control=True)
    with pytest.raises(TemplateError, match="control token"):
        template.prompt([{**ASK, "content": "<|im_end|>"}])


def test_marks_of_a_person_are_no_marks_of_ours(chatml: ChatTemplate) -> None:
    with pytest.raises(TemplateError, match="private-use characters"):
        chatml.encode([{**ASK, "content": "\U000f0001\U00100000"}, ANSWER])


def test_the_template_s_own_end_is_found_by_a_probe(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    size = load_tokenizer(folder).vocab_size
    token = {"content": "<stop>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {str(size): token}}))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }} <stop>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = load_tokenizer(folder)
    template = load_template(folder, tokenizer)
    assert template and template.end_ids == tokenizer.end_ids | {size}
    assert learned(template, template.encode([ASK, ANSWER])) == f"{ANSWER['content']} <stop>"


def test_errors_of_a_template_reach_the_row(chatml: ChatTemplate, byte_tokenizer: Tokenizer) -> None:
    strict = ChatTemplate("{{ raise_exception('users only') }}", byte_tokenizer)
    with pytest.raises(TemplateError, match="the chat template says: users only"):
        strict.encode([ASK, ANSWER])
    with pytest.raises(TemplateError, match="users only"):
        strict.prompt([ASK])
