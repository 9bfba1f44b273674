"""A bug of ours becomes a file that can be sent to us: the traceback, without the home folder's name and without tokens."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from edgetune.errors import EdgeTuneError
from edgetune.files import home, whole_file, write_file

SECRETS = re.compile(r"hf_[A-Za-z0-9]{8,}|(?i:(?<=bearer )|(?<=token=)|(?<=password=))\S+")


class Bug(EdgeTuneError):
    """Nothing that a person did: ours to mend."""


def report_crash(error: BaseException, arguments: Sequence[str]) -> Bug:
    """Writes the report and gives the two lines that a person sees. Where it cannot be written, the lines say so."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" in {Path(last[0].filename).name}:{last[0].lineno}" if last else ""
    message = f"a bug of ours: {type(error).__name__}{where}"
    file = home() / "crashes" / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    lines = [
        f"edgetune {' '.join(arguments)}",
        f"Python {sys.version}",
        sys.platform,
        "",
        *traceback.format_exception(error),
    ]
    try:
        with whole_file(file, "crash") as part:
            write_file(part, redact("\n".join(lines)).encode("utf-8", "backslashreplace"), "crash-content")
    except (OSError, EdgeTuneError):
        return Bug(message, hint="please report it; there was no room for a file with the details")
    return Bug(message, hint=f"please report it with {file}: your home folder's name and tokens are blanked out in it")


def redact(text: str) -> str:
    """The text without the home folder's name and without secrets."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "(token)")
    person = os.path.expanduser("~")
    text = text.replace(person, "~") if len(person) > 1 else text
    return SECRETS.sub("(secret)", text)
