"""The project's code as a tree: which named points it has, and what it writes without them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHOLE_FILE = ("open", "written", "flushed", "renamed")
WHOLE_FOLDER = ("open", "written", "flush", "flushed", "renamed", "trashed")
# Of each function of files.py that has points: where their name stands among its arguments, and what is added to it.
NAMERS = {
    "fault": (0, ()),
    "whole_file": (1, WHOLE_FILE),
    "whole_folder": (1, WHOLE_FOLDER),
    "NewFile": (1, ()),
    "write_file": (2, ()),
    "copy_file": (2, ()),
    "move": (2, ("flushed", "renamed")),
    "discard": (1, ("trashed",)),
    "append_line": (2, ()),
    "save_safetensors": (4, ()),
    "save_arrays": (3, ()),
}
WRITERS = {
    "write_text", "write_bytes", "touch", "rename", "renames", "truncate", "ftruncate", "tofile", "save_file", "copyfile",
    "copy2", "copytree", "copyfileobj", "symlink_to", "hardlink_to", "link", "symlink", "mkstemp", "mkdtemp",
    "NamedTemporaryFile", "TemporaryFile", "savez", "savetxt", "pwrite",
}  # fmt: skip


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """(file, call, name of what is called) of the whole project, files.py itself apart."""
    for file in sorted([*(ROOT / "edgetune").rglob("*.py"), *(ROOT / "tui").rglob("*.py")]):
        name = file.relative_to(ROOT).as_posix()
        if name == "edgetune/files.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield name, node, called(node)


def called(call: ast.Call) -> str:
    """The last word of what is called."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def points() -> dict[str, str]:
    """Every named point, and a file that has it."""
    found: dict[str, str] = {}
    for file, call, name in calls():
        if name in NAMERS and not is_method_of_others(call, name):
            base = point_of(call, NAMERS[name][0])
            if base is None:  # passed on from an argument that is called `point`
                continue
            assert base, f"{file}:{call.lineno}: {name} has no name for its point"
            found |= {f"{base}-{end}": file for end in NAMERS[name][1]} or {base: file}
    return found


def is_method_of_others(call: ast.Call, name: str) -> bool:
    """`shutil.move` is not files.move."""
    return isinstance(call.func, ast.Attribute) and not is_of(call, "files")


def point_of(call: ast.Call, at: int) -> str | None:
    """The point's name in a call; empty where there is none, None where it is handed on."""
    given = next((each.value for each in call.keywords if each.arg == "point"), None)
    given = given if given is not None else call.args[at] if len(call.args) > at else None
    if isinstance(given, ast.Name) and given.id == "point":
        return None
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else ""


def bare_writes() -> set[tuple[str, str]]:
    """(file, what is called) wherever something is written past files.py."""
    return {(file, name) for file, call, name in calls() if writes(call, name)}


def writes(call: ast.Call, name: str) -> bool:
    """Whether a call opens something for writing, writes it, or gives it a name."""
    constants = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if name in ("open", "memmap", "fdopen"):
        return is_of(call, "os") or any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in constants)
    if name in ("replace", "move"):  # texts have the one, ours is the other
        return is_of(call, "os") or is_of(call, "shutil")
    return name in WRITERS


def is_of(call: ast.Call, module: str) -> bool:
    """Whether it is a function of that module, called by its full name."""
    function = call.func
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == module
