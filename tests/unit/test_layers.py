"""What every file of the project keeps to, beyond what ruff, pyright and import-linter hold."""

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "edgetune").rglob("*.py"), *(ROOT / "tui").rglob("*.py")])
LONGEST_FUNCTION = 60
HEAVY = {
    "numpy",
    "tokenizers",
    "sentencepiece",
    "huggingface_hub",
    "gguf",
    "jinja2",
    "llama_cpp",
    "mlx",
    "textual",
    "rich.console",
    "psutil",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def short(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text("utf-8"))))


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def modules_loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("module", ["edgetune", "edgetune.cli.main"])
def test_what_answers_at_once_loads_nothing_heavy(module: str) -> None:
    assert modules_loaded_by(f"import {module}") & HEAVY == set()


def test_help_loads_nothing_heavy_either() -> None:
    assert modules_loaded_by("from edgetune.cli.main import main\nmain(['--help'])\nmain(['train', '--help'])") & HEAVY == set()


def test_help_answers_in_a_third_of_a_second() -> None:
    """Counted in the processor's seconds: what else this machine does meanwhile is not the help's."""

    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "edgetune", "--help"], capture_output=True, check=True, cwd=ROOT)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.3


def test_mlx_is_loaded_only_where_it_is_asked_for() -> None:
    """Its files are imported by one function, which no import runs, and by one another."""
    ours = [file for file in SOURCES if not file.stem.startswith("mlx_")]
    top = {
        short(file)
        for file in ours
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgetune.backend.mlx_")
    }
    assert top == set()
    loaded = modules_loaded_by(
        "import edgetune.training.session, edgetune.backend.choice as choice\nchoice.choose_backend('numpy')"
    )
    assert "mlx" not in loaded


def test_llama_cpp_is_loaded_by_its_child_process_only() -> None:
    """Its bindings are imported in one folder, and what the rest of the project imports of that folder loads none of them."""
    assert {file.parent.name for file in SOURCES if "llama_cpp" in imports(file)} <= {"llamacpp"}
    others = [
        module_of(file)
        for file in SOURCES
        if file.parent.name != "llamacpp"
        and not short(file).startswith("tui/")
        and file.stem != "__main__"
        and not file.stem.startswith("mlx_")
    ]
    loaded = modules_loaded_by("\n".join(f"import {module}" for module in [*others, "edgetune.llamacpp.client"]))
    assert loaded & {"llama_cpp", "mlx", "textual", "torch"} == set()


@pytest.mark.parametrize(
    ("library", "place"),
    [
        ("textual", "tui/"),
        ("mlx", "edgetune/backend/mlx_ops.py"),
        ("typer", "edgetune/cli/"),
        ("rich", ("edgetune/cli/", "tui/")),
        ("huggingface_hub", "edgetune/hub/"),
    ],
)
def test_a_library_is_used_in_its_place_only(library: str, place: str | tuple[str, ...]) -> None:
    assert [short(file) for file in SOURCES if library in imports(file) and not short(file).startswith(place)] == []


def test_nothing_unpickles_or_runs_text() -> None:
    for file in SOURCES:
        assert not imports(file) & {"pickle", "dill", "shelve", "marshal", "torch"}, short(file)
        calls = {node.func.id for node in nodes(file) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not calls & {"eval", "exec", "compile", "__import__"}, short(file)


def test_functions_are_short() -> None:
    long = [
        f"{short(file)}:{node.lineno} {node.name} has {lines} lines"
        for file in SOURCES
        for node in nodes(file)
        if isinstance(node, Function) and (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert long == []


def test_only_the_command_line_prints() -> None:
    printing = {
        short(file)
        for file in SOURCES
        for node in nodes(file)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == {"edgetune/cli/output.py"}


def test_only_the_outermost_handlers_catch_everything() -> None:
    def catches_all(node: ast.AST) -> bool:
        if not isinstance(node, ast.ExceptHandler):
            return False
        names = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)} if node.type else {"Exception"}
        goes_on = not isinstance(node.body[-1], ast.Raise)  # to clean up, or to translate, and raise again is another thing
        return goes_on and bool(names & {"Exception", "BaseException"})

    assert {short(file) for file in SOURCES if any(map(catches_all, nodes(file)))} <= {"edgetune/cli/main.py", "tui/follow.py"}


def test_a_docstring_begins_with_one_plain_line() -> None:
    for file in SOURCES:
        for node in nodes(file):
            if isinstance(node, Function | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node, clean=False)):
                where = f"{short(file)}:{getattr(node, 'lineno', 1)}"
                assert text.strip() and text[0] != "\n", f"{where}: the first line is empty"


def test_no_file_tells_of_the_past_or_of_plans() -> None:
    for file in SOURCES:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            comment = line.partition("#")[2]
            assert not {"TODO", "FIXME", "XXX", "HACK"} & set(comment.split()), f"{short(file)}:{number}"
            assert "NotImplementedError" not in line, f"{short(file)}:{number}"


def test_a_run_is_planned_anew_without_any_library_of_numbers() -> None:
    """The app does so in its own process, at every key."""
    assert modules_loaded_by("import edgetune.planner.plan") & (HEAVY | {"platformdirs"}) == set()
