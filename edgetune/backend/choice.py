"""Which backend computes: NumPy, which is always there, or MLX, where that is installed."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.runner import Runner
from edgetune.errors import ConfigError


@dataclass(frozen=True)
class Backend:
    """A backend by its name, "numpy" or "mlx"; nothing of it is loaded before it makes a runner."""

    name: str

    def runner(self, parameters: Mapping[str, NDArray[np.float32]], workers: int, share_weights: bool = False) -> Runner:
        """A runner for those trained arrays. workers: threads on NumPy, rows that go through together on MLX.

        share_weights: NumPy's alone, as MLX multiplies by what is stored.
        """
        if self.name == "numpy":
            return NumpyRunner(parameters, workers, share_weights=share_weights)
        from edgetune.backend.mlx_runner import MlxRunner

        return MlxRunner(parameters, workers)

    @property
    def packages(self) -> tuple[str, ...]:
        """What its numbers depend on."""
        return ("numpy",) if self.name == "numpy" else ("numpy", "mlx")


NUMPY, MLX = Backend("numpy"), Backend("mlx")


def choose_backend(name: str) -> Backend:
    """The backend of that name; "auto" takes MLX where it has a GPU, and NumPy elsewhere.

    Raises:
        ConfigError: MLX is asked for and cannot be loaded; the hint says how to install it.
    """
    if name == "numpy" or (name == "auto" and find_spec("mlx") is None):
        return NUMPY
    try:
        from edgetune.backend.mlx_runner import has_gpu
    except ImportError as error:
        if name == "auto":
            return NUMPY
        raise ConfigError(f"--backend mlx: MLX cannot be loaded ({error})", hint=INSTALL) from None
    return MLX if name == "mlx" or has_gpu() else NUMPY


INSTALL = (
    "on a Mac: pip install mlx; on Linux: pip install 'edgetune[cuda12]' or 'edgetune[cuda13]' for an NVIDIA GPU, "
    "'edgetune[mlx-cpu]' for a processor, slow and meant for tests"
)
