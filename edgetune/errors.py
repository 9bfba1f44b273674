"""Every error a person can meet, drawn as a tree. Each says what is wrong and where, and carries a hint and an exit code.

EdgeTuneError            1  a bug of ours, if it is raised bare
├─ InputError            2  the input is at fault
│  ├─ ConfigError           a config file, a key, a flag
│  ├─ DataError             a file of rows, or one row of it
│  ├─ TemplateError         a chat template
│  ├─ ModelError            a model folder or GGUF file
│  │  ├─ UnsupportedFamily     a model family that is not in the list
│  │  ├─ TokenizerError        a tokenizer file
│  │  └─ BeyondRange           a number that a type cannot hold; another type may
│  ├─ AdapterError          an adapter folder
│  ├─ CheckpointError       a run or its checkpoints
│  ├─ HubError              the hub does not answer, or says no
│  └─ ChildFailed           a child process (llama.cpp, a training that is measured) died or refused
├─ Refused               3  a preflight says no
│  ├─ DoesNotFit            not enough memory
│  └─ DiskFull              not enough disk, before or while writing
├─ StoppedEarly          4  stopped, everything saved, `resume` continues
└─ VerificationFailed    5  what came out is not what was trained, or not what was promised
"""

import re
from pathlib import Path
from typing import ClassVar


class EdgeTuneError(Exception):
    """What is wrong, where, and a hint that says what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", file: Path | str | None = None, line: int | None = None):
        where = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        super().__init__(where + message)
        self.message, self.hint, self.file, self.line = where + message, hint, file, line

    @property
    def kind(self) -> str:
        """The error's name for programs: `DoesNotFit` is "does_not_fit"."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()


class InputError(EdgeTuneError):
    """The command line, config, data or model folder is at fault."""

    exit_code = 2


class ConfigError(InputError):
    """A config file, a key of it, or a flag."""


class DataError(InputError):
    """A file of rows, or one row of it."""


class TemplateError(InputError):
    """A chat template cannot be rendered, or not masked exactly."""


class ModelError(InputError):
    """A model folder or GGUF file is incomplete, damaged, hostile, or not a model."""


class UnsupportedFamily(ModelError):
    """A model family that is not in the list."""


class BeyondRange(ModelError):
    """A finite number is beyond what a type can hold; another type may."""


class TokenizerError(ModelError):
    """A tokenizer file is absent, damaged, or of a kind that we cannot reproduce exactly."""


class AdapterError(InputError):
    """An adapter is damaged, of another base, or uses a feature that we do not implement."""


class CheckpointError(InputError):
    """A run folder or its checkpoints cannot be continued."""


class HubError(InputError):
    """The hub does not answer, or says no."""


class ChildFailed(InputError):
    """A child process (llama.cpp, a training that is measured) died or refused."""


class Refused(EdgeTuneError):
    """A preflight says no: nothing was started."""

    exit_code = 3


class DoesNotFit(Refused):
    """More memory is needed than this machine can give."""


class DiskFull(Refused):
    """More disk is needed than there is."""


class StoppedEarly(EdgeTuneError):
    """Stopped before the end; everything is saved and `resume` continues."""

    exit_code = 4


class VerificationFailed(EdgeTuneError):
    """What came out is not what was trained, or not what was promised."""

    exit_code = 5
