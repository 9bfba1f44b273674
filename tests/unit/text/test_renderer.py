import os
import re
import signal
from typing import Any

import pytest

from edgetune.errors import TemplateError
from edgetune.text import renderer
from edgetune.text.renderer import Renderer, Request

HELLO = Request([{"role": "user", "content": "hi"}])


def only(source: str, request: Request = HELLO, **names: str) -> str | TemplateError:
    return Renderer(source, names).render([request])[0]


def reason(source: str) -> str:
    """Why a template is refused, while it is compiled or while it is rendered."""
    try:
        answer = only(source)
    except TemplateError as problem:
        return problem.message
    assert isinstance(answer, TemplateError), f"rendered {answer[:80]!r}"
    return answer.message


def test_blocks_are_trimmed_as_transformers_does() -> None:
    source = "{% for m in messages %}\n  {% if m.content %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}"
    assert only(source) == "hi\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}|{{ pad_token }}|{{ unknown }}", "<s>||"),
        ("{{ {'b': 'é<', 'a': [1, none]} | tojson }}", '{"b": "é<", "a": [1, null]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}", "True True False"),
        ("{% for a in [1, 2, 3] %}{% if a == 2 %}{% continue %}{% endif %}{{ a }}{% endfor %}", "13"),
        ("{% for a in [1, 2, 3] %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% endfor %}", "1"),
        ("{% set ns = namespace(a=1) %}{% for x in [1] %}{% set ns.a = 2 %}{% endfor %}{{ ns.a }}", "2"),
        ("{{ dict(a=1).a }}{{ dict.fromkeys(['k'], 2).k }}", "12"),
        ("a{% generation %}b{% endgeneration %}c", "abc"),
    ],
)
def test_what_a_template_can_do(source: str, text: str) -> None:
    assert only(source, bos_token="<s>") == text


def test_generations_are_marked_where_that_is_asked_for() -> None:
    source = "a{% generation %}b{% endgeneration %}c"
    assert only(source, HELLO._replace(marked=True)) == "a\U00100002b\U00100003c"


def test_the_clock_can_be_held() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    assert Renderer(source, {}, "2026-07-04T12:00:00").render([HELLO]) == ["04 Jul 2026"]
    live = only(source)
    assert isinstance(live, str) and len(live) == 11


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__code__.co_code }}",
    "{{ dict.__class__.__mro__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0] }}{{ raise_exception('refused') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns['__init__'] = 1 %}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_refused_with_a_reason(source: str) -> None:
    assert reason(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% if %}", "line 1"),
        ("a\nb\n{% endfor %}", "line 3"),
        ("{{ 'a' * 10**10 }}", "memory"),
        ("{% set ns = namespace(x=[0]) %}{% for a in range(100000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "memory"),
        ("{% for a in range(1000) %}{{ 'a' * 100000 }}{% endfor %}", "more than 1,048,576 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without end"),
        ("{% for a in range(10**9) %}{% endfor %}", "too big"),
        ("{{ raise_exception('Only users \x1b[2J here') }}", r"Only users \\x1b\[2J here"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7].content + 'a' }}", "has no element 7"),
        ("{{ 5 + 'a' }}", "unsupported operand"),
    ],
)
def test_bad_templates_say_what_is_wrong(source: str, said: str) -> None:
    assert re.search(said, reason(source)), reason(source)


def test_a_slow_template_is_stopped_and_its_neighbours_are_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "SECONDS", 0.3)
    slow = "{% if messages[0].content == 'slow' %}{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}{% endif %}ok"
    quick, stuck = HELLO, Request([{"role": "user", "content": "slow"}])
    answers = Renderer(slow, {}).render([quick, stuck, quick])
    assert [str(answer) for answer in answers] == ["ok", "the chat template takes longer than 0.3 seconds", "ok"]


def test_a_template_that_always_dies_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "SECONDS", 0.1)
    engine = Renderer("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", {})
    answers = [str(answer) for answer in engine.render([HELLO] * 10)]
    assert answers[:3] == ["the chat template takes longer than 0.1 seconds"] * 3
    assert answers[3:] == ["the chat template failed too often to be tried again"] * 7


def test_a_dead_child_is_an_error_and_the_next_text_is_rendered() -> None:
    engine = Renderer("{{ messages[0].content }}", {})
    engine.start()
    assert engine.child
    os.kill(engine.child.process.pid, signal.SIGKILL)
    answer = engine.render([HELLO])[0]
    assert isinstance(answer, TemplateError) and "died" in answer.message
    assert engine.render([HELLO]) == ["hi"]


def test_ctrl_c_does_not_reach_the_child() -> None:
    engine = Renderer("{{ messages[0].content }}", {})
    engine.start()
    assert engine.child
    os.kill(engine.child.process.pid, signal.SIGINT)
    assert engine.render([HELLO]) == ["hi"]


def test_a_child_that_outgrows_its_memory_unseen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Renderer("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", {})
    engine.start()
    monkeypatch.setattr(renderer, "MEMORY", 1 << 20)  # what no process keeps to: as on macOS, where no limit holds it
    answer = engine.render([HELLO])[0]
    assert isinstance(answer, TemplateError) and "memory" in answer.message


def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    engine = Renderer("", {})
    engine.start()
    assert engine.child
    environment = f"/proc/{engine.child.process.pid}/environ"
    if not os.path.exists(environment):
        pytest.skip("no /proc here")
    with open(environment, "rb") as file:
        assert b"hf_secret" not in file.read()


def test_many_texts_come_in_order_whatever_their_size() -> None:
    engine = Renderer("{{ messages[0].content }}", {})
    contents = [f"{at} é\u2028\n" * (1 + at % 7 * 500) for at in range(600)]
    requests: list[Any] = [Request([{"role": "user", "content": content}]) for content in contents]
    assert engine.render(requests) == contents


def test_large_conversations_are_asked_for_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request([{"role": "user", "content": "x" * 1000}])] * 20
    assert len(renderer.first_of(requests)) == 20
    monkeypatch.setattr(renderer, "BATCH_SIZE", 3000)
    assert len(renderer.first_of(requests)) == 3
    assert Renderer("{{ messages[0].content }}", {}).render(requests) == ["x" * 1000] * 20
