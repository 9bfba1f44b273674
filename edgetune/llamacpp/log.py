"""The end of what llama.cpp logs, kept for error messages. Runs in the child process only."""

from collections import deque
from collections.abc import Callable
from typing import Any

from edgetune.files import clean
from edgetune.llamacpp.native import lib

WARNING, ERROR, CONTINUED = 3, 4, 5
KEPT_LINES = 200
LONGEST_LINE = 500


class Log:
    """Takes over llama.cpp's log. `on_text`, where it is set, sees every piece as it comes."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=KEPT_LINES)
        self.on_text: Callable[[str], None] | None = None
        self.callback = lib.llama_log_callback(self.take)  # llama.cpp keeps only its address
        lib.llama_log_set(self.callback, None)

    def clear(self) -> None:
        """Forgets what earlier requests logged."""
        self.lines.clear()

    def take(self, level: int, raw: bytes, _: Any) -> None:
        """One piece of log; a piece of level CONTINUED belongs to the line before it."""
        text = raw.decode(errors="replace")
        if self.on_text:
            self.on_text(text)
        if level == CONTINUED and self.lines:
            level, before = self.lines.pop()
            text = before + text
        self.lines.append((level, text[:LONGEST_LINE]))

    def reason(self, failed: str) -> str:
        """What failed, and the last errors in llama.cpp's own words, without its function names."""
        errors = [text.strip() for level, text in self.lines if level == ERROR and text.strip()]
        told = list(dict.fromkeys(without_function(text) for text in errors))[:2]
        return clean(": ".join([failed, "; ".join(told)] if told else [failed]))

    def tail(self) -> str:
        """The last lines, for a bug report."""
        return clean("".join(text for _, text in self.lines))[-4000:]


def without_function(text: str) -> str:
    """ "llama_model_load: error loading model: …" without what only a developer of llama.cpp can use."""
    head, colon, rest = text.partition(": ")
    return rest if colon and " " not in head and rest else text
