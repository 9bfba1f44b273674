"""The process that owns llama.cpp: requests on standard input, replies on standard output, one JSON object a line.

It ends when its standard input ends, so it never outlives its parent, whatever it is doing at that moment.
"""

import os
import resource
from contextlib import suppress
from pathlib import Path

from edgetune.llamacpp.protocol import Failed, to_line

REINSTALL = "install it again: pip install --force-reinstall --no-cache-dir llama-cpp-python"


def private_output() -> int:
    """Keeps standard output for replies: what C code prints there goes to standard error from now on."""
    replies = os.dup(1)
    os.set_inheritable(replies, False)
    os.dup2(2, 1)
    return replies


def die_first() -> None:
    """No core dumps; and where memory runs out, Linux ends this process before its parent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def main() -> None:
    """Loads llama.cpp only once nothing that it prints can reach the replies."""
    die_first()
    replies = private_output()
    try:
        from edgetune.llamacpp.service import Service
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # its loader raises each of them for a library that does not fit
        os.write(replies, to_line(Failed(message=f"llama-cpp-python does not work here: {error}", hint=REINSTALL)))
        return
    Service(replies).run()


if __name__ == "__main__":
    main()
