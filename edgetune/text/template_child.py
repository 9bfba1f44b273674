"""The process that renders a chat template: run by its path, it needs nothing but the standard library and jinja2.

A template is a program from a stranger. It runs in jinja2's sandbox, in this process, which has limits: no file beyond
its pipes, so much memory, so many seconds for each text and so many characters of it. One JSON line in: the template
and the limits; then a line for each batch of conversations. One JSON line out for each text. What a template can do and
see is what transformers gives it (utils/chat_template_utils.py); what a {% generation %} tag holds is marked with two
private-use characters where its caller asks.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

GENERATION_START, GENERATION_STOP = "\U00100002", "\U00100003"
# What a template's mistakes raise; whatever else comes up ends this process, and the parent says so.
MISTAKES = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Generation(Extension):
    """The tag {% generation %}, which says what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form
    marked = False

    def parse(self, parser: Any) -> nodes.Node:
        """A call block around the tag's body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("written"), [], [], body).set_lineno(line)

    def written(self, caller: Callable[[], str]) -> str:
        """The body, with its ends marked where that is asked for."""
        return f"{GENERATION_START}{caller()}{GENERATION_STOP}" if Generation.marked else caller()


class TemplateDict:
    """The function dict() without the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """A dict."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """dict.fromkeys."""
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """A namespace that holds no name of Python's own."""

    def __init__(*args: Any, **kwargs: Any):
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        refuse_private(name)
        Namespace.__setitem__(self, name, value)


def refuse_private(name: object) -> None:
    """Names that begin with an underscore are Python's."""
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def raise_exception(message: object) -> None:
    """What a template calls to refuse a conversation."""
    raise jinja2.TemplateError(str(message))


def to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """JSON as a model reads it: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compiled(source: str, now: str | None) -> jinja2.Template:
    """The template in the sandbox. `now`: the time that strftime_now tells, in ISO format; None: the real one."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = to_json

    def strftime_now(form: str) -> str:
        return (datetime.fromisoformat(now) if now else datetime.now()).strftime(form)

    functions: dict[str, Any] = {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": TemplateDict(),
        "namespace": TemplateNamespace,
    }
    environment.globals.update(functions)
    return environment.from_string(source)


def rendered(template: jinja2.Template, context: dict[str, Any], longest: int) -> str:
    """One text; jinja2.TemplateError where it grows beyond `longest` characters."""
    parts: list[str] = []
    size = 0
    for part in template.generate(context):
        parts.append(part)
        size += len(part)
        if size > longest:
            raise jinja2.TemplateError(f"it writes more than {longest:,} characters")
    return "".join(parts)


def answer(work: Callable[[], str], seconds: float) -> dict[str, str]:
    """What a piece of work gives, or what is wrong with it. SIGPROF ends the process when the time is spent."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return {"text": work()}
    except jinja2.TemplateSyntaxError as problem:
        return {"error": f"line {problem.lineno}: {problem.message}"}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except MISTAKES as problem:
        return {"error": str(problem) or type(problem).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def confine(memory: int) -> None:
    """Gives up what a template must not have: memory, files. What jinja2 imports late is imported before."""
    for warm_up in ("{{ strftime_now('%c') }}{{ lipsum() }}{{ 'a.b'|urlize|wordwrap(1) }}{{ 0 / 0 }}", "{% if %}"):
        with suppress(*MISTAKES):
            compiled(warm_up, None).render()
    limits = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_NOFILE: 3,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def write(reply: dict[str, str]) -> None:
    """One line out."""
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until its input ends."""
    for ignored in (signal.SIGINT, signal.SIGHUP):  # the parent's to decide: its end is the end of our input
        signal.signal(ignored, signal.SIG_IGN)
    setup = json.loads(sys.stdin.readline())
    confine(setup["memory"])
    made: list[jinja2.Template] = []
    write(answer(lambda: made.append(compiled(setup["template"], setup["now"])) or "", setup["seconds"]))
    for line in sys.stdin if made else ():
        for messages, tools, prompt, marked in json.loads(line):
            Generation.marked = marked
            context = {
                "messages": messages,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": prompt,
                **setup["names"],
            }
            write(answer(partial(rendered, made[0], context, setup["longest"]), setup["seconds"]))


if __name__ == "__main__":
    main()
