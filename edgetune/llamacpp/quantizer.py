"""llama.cpp's quantiser. Runs in the child process only."""

import os
import re
from collections.abc import Callable
from ctypes import byref
from pathlib import Path

from edgetune.errors import ChildFailed, DiskFull
from edgetune.files import free_space
from edgetune.llamacpp.log import Log
from edgetune.llamacpp.native import lib
from edgetune.llamacpp.protocol import Progress, Quantize, Reply

COUNTER = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
NEARLY_FULL = 1 << 20
BUFFER_BYTES = 1 << 28


def quantize(request: Quantize, log: Log, emit: Callable[[Reply], None]) -> None:
    """Writes the quantised file. llama.cpp has no callback for progress, but its log counts the tensors.

    Raises:
        ChildFailed: llama.cpp gives up; what it has written so far stays at `request.out` for the parent to remove.
        DiskFull: it gave up because the disk is full.
    """

    def progress(text: str) -> None:
        counter = COUNTER.match(text)
        if counter:
            emit(Progress(done=float(counter[1]), total=float(counter[2])))

    settings = lib.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = request.file_type, request.threads
    settings.max_buf_size = BUFFER_BYTES
    log.on_text = progress
    try:
        code = lib.llama_model_quantize(request.source, request.out, byref(settings))
    finally:
        log.on_text = None
    if code:
        reason = log.reason("llama.cpp cannot quantise it")
        if "iostream" in reason or free_space(Path(os.fsdecode(request.out))) < NEARLY_FULL:
            raise DiskFull("no room left while writing", hint="free some disk space and try again")
        raise ChildFailed(reason)
