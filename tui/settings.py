"""What the app remembers of a person's wishes: the theme, and what was open. A small TOML file under EDGETUNE_HOME."""

from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import Struct

from edgetune.errors import EdgeTuneError
from edgetune.files import home, whole_file


class Settings(Struct, omit_defaults=True):
    """Wishes that outlive the app."""

    theme: str = "edgetune-dark"
    project: str = ""  # that was open last

    @staticmethod
    def file() -> Path:
        """Where they are kept."""
        return home() / "app.toml"

    @classmethod
    def load(cls) -> Self:
        """What the file says; defaults where there is none, or none that can be read: nothing of weight is in it."""
        try:
            return msgspec.toml.decode(cls.file().read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return cls()

    def change(self, **changes: Any) -> None:
        """Remembers new wishes. Where they cannot be written they last as long as the app."""
        if all(getattr(self, name) == value for name, value in changes.items()):
            return
        for name, value in changes.items():
            setattr(self, name, value)
        try:
            with whole_file(self.file(), "settings") as part:
                lines = (f"{name} = {msgspec.json.encode(value).decode()}" for name, value in msgspec.to_builtins(self).items())
                part.write_text("\n".join(lines) + "\n", "utf-8")
        except (EdgeTuneError, OSError):
            return
