"""AdamW (arXiv:1711.05101) on NumPy arrays, changed in place; the arithmetic and its order are PyTorch's."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.runner import Optimizer, Runner, copy_into
from edgetune.config import TrainingConfig

Floats = NDArray[np.float32]


def global_norm(gradients: Mapping[str, Floats]) -> float:
    """The length of all gradients taken as one vector, summed in float64."""
    return math.sqrt(sum(float(np.vdot(flat, flat)) for flat in (g.astype(np.float64).ravel() for g in gradients.values())))


def learns_faster(name: str, array: Floats) -> bool:
    """Whether LoRA+ (arXiv:2402.12354) raises an array's rate: B, and as in PEFT vectors, which are DoRA's magnitudes."""
    return name.endswith(".lora_B") or array.ndim == 1


def optimizer_of(runner: Runner, config: TrainingConfig, rate_ratio: float = 1.0) -> Optimizer:
    """AdamW where the trained arrays of that runner are. rate_ratio: LoRA+'s, of B's rate to A's."""
    parameters = runner.trained()
    own = runner.optimizer(config, {name: rate_ratio for name, array in parameters.items() if learns_faster(name, array)})
    return own or AdamW(parameters, config, rate_ratio)


class AdamW:
    """The two moments of every trained array, and the count of updates. `rate_ratio` is LoRA+'s: B's rate over A's."""

    def __init__(self, parameters: Mapping[str, Floats], config: TrainingConfig, rate_ratio: float = 1.0):
        self.parameters, self.config = parameters, config
        self.ratios = {name: rate_ratio if learns_faster(name, array) else 1.0 for name, array in parameters.items()}
        self.updates = 0
        self.mean = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.square = {name: np.zeros_like(array) for name, array in parameters.items()}

    def norm(self, gradients: Mapping[str, Floats]) -> float:
        """The length of all gradients taken as one vector."""
        return global_norm(gradients)

    def update(self, gradients: Mapping[str, Floats], rate: float, scale: float = 1.0) -> None:
        """One step against `scale` times the gradients, which are used up. Vectors do not decay: norms, biases, magnitudes."""
        self.updates += 1
        first, second = self.config.betas
        root = math.sqrt(1 - second**self.updates)
        for name, array in self.parameters.items():
            gradient, mean, square = gradients[name], self.mean[name], self.square[name]
            own_rate = rate * self.ratios[name]
            if scale != 1:
                gradient *= np.float32(scale)
            if self.config.weight_decay and array.ndim > 1:
                array *= np.float32(1 - own_rate * self.config.weight_decay)
            mean *= np.float32(first)
            mean += np.float32(1 - first) * gradient
            square *= np.float32(second)
            np.multiply(gradient, gradient, out=gradient)
            gradient *= np.float32(1 - second)
            square += gradient
            np.sqrt(square, out=gradient)
            gradient /= np.float32(root)
            gradient += np.float32(self.config.eps)
            np.divide(mean, gradient, out=gradient)
            gradient *= np.float32(own_rate / (1 - first**self.updates))
            array -= gradient

    def arrays(self) -> dict[str, Floats]:
        """The moments under names for a checkpoint."""
        named = {f"mean.{name}": array for name, array in self.mean.items()}
        return named | {f"square.{name}": array for name, array in self.square.items()}

    def restore(self, arrays: Mapping[str, Floats], updates: int) -> None:
        """Puts moments back that `arrays` gave.

        Raises:
            ValueError: they are not of these parameters.
        """
        copy_into(self.arrays(), arrays)
        self.updates = updates
