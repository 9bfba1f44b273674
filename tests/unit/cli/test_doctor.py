import json
from pathlib import Path
from typing import Any

import pytest

from edgetune.cli import doctor
from edgetune.cli.main import main

Capture = pytest.CaptureFixture[str]
SECRET = "hf_thisIsASecretOfTheTests"


def checks(capture: Capture) -> dict[str, Any]:
    found = json.loads(capture.readouterr().out)["checks"]
    return {check["name"]: check for check in found}


@pytest.mark.slow
def test_a_healthy_machine_is_ready(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert main(["doctor", "--json"]) == 0
    captured = capsys.readouterr()
    found = {check["name"]: check for check in json.loads(captured.out)["checks"]}
    assert all(found[name]["ok"] for name in ("python", "chip", "home", "numpy", "llama.cpp", "packages"))
    assert all({"name", "ok", "detail", "hint"} <= set(check) for check in found.values())
    assert "NumPy 2" in found["numpy"]["detail"] and "llama-cpp-python 0.3" in found["llama.cpp"]["detail"]
    assert found["hub token"]["detail"] == "there" and SECRET not in captured.out + captured.err


def test_what_is_needed_and_missing_ends_with_code_2_and_a_hint(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LLAMA", "import sys; sys.exit('llama-cpp-python 0.3.30 lacks llama_decode')")
    monkeypatch.setattr(doctor, "arithmetic", doctor.python)
    assert main(["doctor"]) == 2
    text = capsys.readouterr().out
    assert "✗ llama.cpp  llama-cpp-python 0.3.30 lacks llama_decode" in text
    assert "hint: install it again" in text and "cannot work yet: llama.cpp" in text


def test_what_is_only_advice_ends_with_code_0(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("arithmetic", "llama_cpp"):
        monkeypatch.setattr(doctor, name, doctor.python)
    monkeypatch.setattr(doctor, "LEAST_DISK", 1 << 70)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "! disk" in text and "hint: free some" in text and "ready to train" in text


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGETUNE_HOME", str(tmp_path / "file" / "home"))
    check = doctor.home()
    assert check.needed and not check.ok and "EDGETUNE_HOME" in check.hint


def test_a_crash_of_a_native_library_is_an_answer() -> None:
    assert doctor.in_child("import os; os.abort()", {}) == (False, "ended with code -6")
    assert doctor.in_child("import nothing_of_that_name", {})[1].startswith("ModuleNotFoundError")
    assert doctor.in_child("print('fine')", {}) == (True, "fine")


def test_every_function_of_llama_cpp_that_is_called_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def remember(code: str, environment: dict[str, str], *arguments: str) -> tuple[bool, str]:
        asked.extend(arguments)
        return True, ""

    monkeypatch.setattr(doctor, "in_child", remember)
    assert doctor.llama_cpp().ok
    assert {"llama_decode", "llama_model_quantize", "llama_tokenize"} <= set(asked)


def test_mlx_is_tried_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check = doctor.mlx()
    assert (
        check.ok and not check.needed and check.detail == "not installed: NumPy computes" and "edgetune[cuda12]" in check.hint
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(doctor, "MLX", "import sys; sys.exit('ImportError: libmlx.so')")
    check = doctor.mlx()
    assert not check.ok and not check.needed and "libmlx.so" in check.detail and "pip install mlx" in check.hint


def test_mlx_on_a_processor_says_that_it_is_slow() -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    check = doctor.mlx()
    assert check.ok and check.detail.startswith("MLX 0.")
    assert "on the CPU: slow on a processor, so only used with --backend mlx" in check.detail or "GPU" in check.detail


def test_versions_are_compared_with_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [
        "numpy>=2,<3",
        "msgspec>=99",
        "no-such-package>=1",
        "mlx>=99 ; platform_system == 'Nowhere'",
        "x ; extra == 'dev'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needs)
    check = doctor.packages()
    assert not check.ok and "msgspec" in check.detail and "no-such-package is not there" in check.detail
    assert "numpy" not in check.detail and "mlx" not in check.detail


def test_a_battery_is_only_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.hardware.machine.power_source", lambda: ("battery", 63.0))
    check = doctor.power()
    assert not check.ok and not check.needed and "63.0 %" in check.detail and "plug it in" in check.hint


def test_an_absent_starter_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.hub.catalog.starter", lambda: tmp_path)
    check = doctor.starter()
    assert not check.ok and "config.json is not there" in check.detail
