"""Keys of one's own: EDGETUNE_HOME/keys.toml gives a binding's id another key.

"train.pause" = "p"
"app.stage1" = "f5,1"
"""

import tomllib

from edgetune.files import clean, home

UNUSABLE = {"ctrl+m", "ctrl+i", "ctrl+h"}  # they arrive as Enter, Tab and Backspace


def load_keymap() -> tuple[dict[str, str], str]:
    """The keys by binding id, and what is wrong with the file, if anything is."""
    file = home() / "keys.toml"
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, f"{file}: {clean(str(error))}; the usual keys count"
    keymap: dict[str, str] = {}
    for name, keys in values.items():
        if not isinstance(keys, str) or not keys or UNUSABLE & set(keys.split(",")):
            return {}, f"{file}: {clean(name)} = {clean(str(keys))!r} is no key a terminal can send; the usual keys count"
        keymap[name] = keys
    return keymap, ""
