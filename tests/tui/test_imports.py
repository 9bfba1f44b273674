"""The app computes nothing: neither native libraries nor training are ever loaded into its process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = {"numpy", "mlx", "llama_cpp", "tokenizers", "sentencepiece", "safetensors", "huggingface_hub", "gguf", "ml_dtypes"}
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "tui").rglob("*.py")
    if file.stem != "__main__"
)


def loaded_by(code: str, **environment: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_no_module_of_the_app_loads_native_code() -> None:
    loaded = loaded_by("\n".join(f"import {module}" for module in MODULES))
    assert loaded & NATIVE == set()
    ours = {name for name in loaded if name.startswith(("edgetune.training", "edgetune.export", "edgetune.backend"))}
    assert ours <= {"edgetune.training", "edgetune.training.control", "edgetune.backend", "edgetune.backend.sizes"}  # no arrays


JOURNEY = """
import asyncio, sys
from tui.app import EdgeTune
async def go():
    app = EdgeTune()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause(0.3)
        for key in ("1", "2", "0", "slash", "x", "escape", "1", "f1", "escape"):
            await pilot.press(key)
            await pilot.pause()
asyncio.run(go())
"""


@pytest.mark.slow
def test_neither_does_a_walk_through_the_screens() -> None:
    assert loaded_by(JOURNEY) & NATIVE == set()
