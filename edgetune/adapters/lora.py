"""Low-rank adapters (LoRA, arXiv:2106.09685; rsLoRA, arXiv:2312.03732): what they are in memory, and how a new one begins."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.spec import ModelSpec
from edgetune.backend.ops import Adapter
from edgetune.config import AdapterConfig, LinearKind
from edgetune.errors import AdapterError

Floats = NDArray[np.float32]


class LoraFactors(NamedTuple):
    """One module's update: scale * B @ A."""

    a: Floats  # (rank, inputs)
    b: Floats  # (outputs, rank)
    scale: float


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter's factors by module path ("model.layers.0.self_attn.q_proj"), and what its file said besides."""

    factors: Mapping[str, LoraFactors]
    base_model: str = ""
    dropout: float = 0.0
    rslora: bool = False  # the scale is alpha / sqrt(rank)

    def trained_arrays(self) -> dict[str, Floats]:
        """The factors under the names that the ops know: PATH.lora_A and PATH.lora_B."""
        arrays: dict[str, Floats] = {}
        for path, factors in self.factors.items():
            arrays[f"{path}.lora_A"], arrays[f"{path}.lora_B"] = factors.a, factors.b
        return arrays

    def places(self, dropout: float = 0.0) -> dict[str, Adapter]:
        """Where the model carries them."""
        return {path: Adapter(factors.scale, dropout) for path, factors in self.factors.items()}

    def with_arrays(self, arrays: Mapping[str, Floats]) -> "LoraAdapter":
        """The same adapter with other numbers, under the names of `trained_arrays`."""
        factors = {
            path: LoraFactors(arrays[f"{path}.lora_A"], arrays[f"{path}.lora_B"], old.scale)
            for path, old in self.factors.items()
        }
        return LoraAdapter(factors, self.base_model, self.dropout, self.rslora)

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(factors.a.size + factors.b.size for factors in self.factors.values())


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def adapted_paths(spec: ModelSpec, targets: Iterable[LinearKind], layers: Any) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each module that gets an adapter: those kinds, in all layers or in the last N.

    Raises:
        AdapterError: more layers are asked for than the model has.
    """
    count = spec.layers if layers == "all" else int(layers)
    if count > spec.layers:
        raise AdapterError(f"adapter.layers is {count}, the model has {spec.layers}", hint=f'use "all" or 1 to {spec.layers}')
    kinds = set(targets)
    return {
        spec.module_path(layer, kind): spec.linear_shape(kind)
        for layer in range(spec.layers - count, spec.layers)
        for kind in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        if kind in kinds
    }


def new_lora(spec: ModelSpec, config: AdapterConfig, seed: int, base_model: str) -> LoraAdapter:
    """A new adapter that changes nothing yet: B is zero, A uniform in ±1 / sqrt(inputs), as PEFT draws it.

    Each A depends on the seed and its module's place alone.

    Raises:
        AdapterError: the config does not fit the model.
    """
    scale = scale_of(config.alpha, config.rank, config.rslora)
    factors: dict[str, LoraFactors] = {}
    for index, (path, (outputs, inputs)) in enumerate(adapted_paths(spec, config.targets, config.layers).items()):
        random = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
        a = random.uniform(-1, 1, (config.rank, inputs)).astype(np.float32) / np.float32(math.sqrt(inputs))
        factors[path] = LoraFactors(a, np.zeros((outputs, config.rank), np.float32), scale)
    return LoraAdapter(factors, base_model, config.dropout, config.rslora)


def check_fits(adapter: LoraAdapter, spec: ModelSpec) -> None:
    """An adapter must name modules of this model, in their shapes.

    Raises:
        AdapterError: it was made for another base; the message names the first module that differs.
    """
    known = adapted_paths(spec, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), "all")
    for path, factors in adapter.factors.items():
        made_for = (
            f"the adapter was made for {adapter.base_model}" if adapter.base_model else "use the base that it was trained on"
        )
        if path not in known:
            raise AdapterError(f"the model has no module {path}, which the adapter changes", hint=made_for)
        outputs, inputs = known[path]
        if factors.a.shape[1] != inputs or factors.b.shape[0] != outputs:
            shape = f"{factors.b.shape[0]} x {factors.a.shape[1]}"
            raise AdapterError(
                f"the adapter was made for another base: {path} is {outputs} x {inputs} here, {shape} there",
                hint=made_for,
            )
