"""AdamW (arXiv:1711.05101) on MLX: the arithmetic and its order are those of training/optimizer.py."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.mlx_ops import Array, mx
from edgetune.backend.runner import copy_into
from edgetune.config import TrainingConfig

if TYPE_CHECKING:
    from edgetune.backend.mlx_runner import MlxRunner

Arrays = dict[str, Array]


class MlxAdamW:
    """The two moments of every trained array of a runner, and the count of updates. `ratios` raise the rate of some."""

    def __init__(self, runner: "MlxRunner", config: TrainingConfig, ratios: Mapping[str, float]):
        self.runner, self.config, self.ratios = runner, config, ratios
        self.updates = 0
        self.mean = {name: mx.zeros_like(array) for name, array in runner.parameters.items()}
        self.square = {name: mx.zeros_like(array) for name, array in runner.parameters.items()}
        self.lengths, self.step = runner.compile(lengths), runner.compile(self.stepped)

    def norm(self, gradients: Mapping[str, Array]) -> float:
        """The length of all gradients taken as one vector, summed in float64."""
        return math.hypot(*np.array(self.lengths(list(gradients.values()))).tolist())

    def update(self, gradients: Mapping[str, Array], rate: float, scale: float = 1.0) -> None:
        """One step against `scale` times the gradients. Vectors do not decay: norms, biases, magnitudes."""
        self.updates += 1
        first, second = self.config.betas
        common = mx.array([scale, math.sqrt(1 - second**self.updates)])
        rates = {
            ratio: mx.array([1 - rate * ratio * self.config.weight_decay, rate * ratio / (1 - first**self.updates)])
            for ratio in {1.0, *self.ratios.values()}
        }
        parameters, self.mean, self.square = self.step(
            self.runner.parameters, self.mean, self.square, dict(gradients), common, rates
        )
        mx.eval(parameters, self.mean, self.square)
        self.runner.change(parameters)

    def stepped(
        self,
        parameters: Arrays,
        means: Arrays,
        squares: Arrays,
        gradients: Arrays,
        common: Array,
        rates: dict[float, Array],
    ) -> tuple[Arrays, Arrays, Arrays]:
        """What arrays and moments become. common: the gradients' scale and the root; rates: what decay leaves, and the rate."""
        scale, root = common
        first, second = self.config.betas
        new: tuple[Arrays, Arrays, Arrays] = {}, {}, {}
        for name, array in parameters.items():
            left, size = rates[self.ratios.get(name, 1.0)]
            gradient = gradients[name] * scale
            if array.ndim > 1:
                array = array * left
            mean = means[name] * first + (1 - first) * gradient
            square = squares[name] * second + gradient * gradient * (1 - second)
            array = array - mean / (mx.sqrt(square) / root + self.config.eps) * size
            new[0][name], new[1][name], new[2][name] = array, mean, square
        return new

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The moments under names for a checkpoint."""
        named = {f"mean.{name}": np.array(array) for name, array in self.mean.items()}
        return named | {f"square.{name}": np.array(array) for name, array in self.square.items()}

    def restore(self, arrays: Mapping[str, NDArray[np.float32]], updates: int) -> None:
        """Puts moments back that `arrays` gave.

        Raises:
            ValueError: they are not of these parameters.
        """
        moments = self.arrays()
        copy_into(moments, arrays)
        self.mean = {name: mx.array(moments[f"mean.{name}"]) for name in self.mean}
        self.square = {name: mx.array(moments[f"square.{name}"]) for name in self.square}
        self.updates = updates


def lengths(arrays: list[Array]) -> Array:
    """The length of each array as a vector. Divided by its largest number first: squares of float32 end at 1e38."""
    largest = [mx.maximum(mx.abs(array).max(), 1e-30) for array in arrays]
    return mx.stack([top * mx.sqrt(((array / top) ** 2).sum()) for array, top in zip(arrays, largest, strict=True)])
