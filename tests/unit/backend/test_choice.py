import sys
from types import ModuleType, SimpleNamespace

import pytest

from edgetune.backend import choice
from edgetune.backend.choice import MLX, NUMPY, choose_backend
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.errors import ConfigError


@pytest.fixture
def without_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("mlx", "edgetune.backend.mlx_"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlx", None)  # type: ignore[arg-type]  # importing it is an ImportError
    monkeypatch.setattr(choice, "find_spec", lambda name: None)


def with_mlx(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    """A machine where MLX is installed, with a GPU that it can use or without one."""
    module = ModuleType("edgetune.backend.mlx_runner")
    module.has_gpu = lambda: gpu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgetune.backend.mlx_runner", module)
    monkeypatch.setattr(choice, "find_spec", lambda name: SimpleNamespace(name=name))


def test_auto_takes_mlx_where_it_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_mlx(monkeypatch, gpu=True)
    assert [choose_backend(name) for name in ("auto", "mlx", "numpy")] == [MLX, MLX, NUMPY]


def test_auto_takes_numpy_where_mlx_has_only_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    with_mlx(monkeypatch, gpu=False)
    assert [choose_backend(name) for name in ("auto", "mlx", "numpy")] == [NUMPY, MLX, NUMPY]


@pytest.mark.usefixtures("without_mlx")
def test_without_mlx_it_is_numpy_and_who_asks_for_it_is_told_how_to_get_it() -> None:
    assert choose_backend("auto") == NUMPY
    assert isinstance(NUMPY.runner({}, 1), NumpyRunner)
    with pytest.raises(ConfigError, match="--backend mlx: MLX cannot be loaded") as caught:
        choose_backend("mlx")
    for extra in ("'edgetune[mlx-cpu]'", "'edgetune[cuda12]'", "'edgetune[cuda13]'", "pip install mlx"):
        assert extra in caught.value.hint


def test_mlx_that_is_installed_but_broken_is_not_taken_unasked(without_mlx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the package `mlx` without a library for this system."""
    monkeypatch.setattr(choice, "find_spec", lambda name: SimpleNamespace(name=name))
    assert choose_backend("auto") == NUMPY
