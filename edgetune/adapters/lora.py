"""Low-rank adapters: what they are in memory, whatever file they come from, and how a new one begins.

LoRA (arXiv:2106.09685), rsLoRA (arXiv:2312.03732), and DoRA (arXiv:2402.09353), which also learns the length of each row.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.spec import ModelSpec
from edgetune.backend.ops import Adapter, Place
from edgetune.backend.trained_rows import ROWS, TrainedRows
from edgetune.config import AdapterConfig
from edgetune.errors import AdapterError

Floats = NDArray[np.float32]


class LoraFactors(NamedTuple):
    """One module's update: scale * B @ A. With a magnitude (DoRA) each row of W + scale * B @ A is brought to that length."""

    a: Floats  # (rank, inputs)
    b: Floats  # (outputs, rank)
    scale: float
    magnitude: Floats | None = None  # (outputs,)


class TokenRows(NamedTuple):
    """Rows of the embedding, or of a head of its own, that stand in the place of the base's."""

    ids: tuple[int, ...]
    values: Floats  # (tokens, dim)


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter's factors by module path ("model.layers.0.self_attn.q_proj"), and what its file said besides."""

    factors: Mapping[str, LoraFactors]
    base_model: str = ""
    dropout: float = 0.0
    rslora: bool = False  # the scale is alpha / sqrt(rank)
    tokens: Mapping[str, TokenRows] = field(default_factory=lambda: dict[str, TokenRows]())  # by module path

    def trained_arrays(self) -> dict[str, Floats]:
        """The numbers under the names that the ops know: PATH.lora_A, PATH.lora_B and DoRA's PATH.lora_magnitude_vector.

        Rows of single tokens are PATH.trainable_tokens_delta.
        """
        arrays: dict[str, Floats] = {}
        for path, factors in self.factors.items():
            arrays[f"{path}.lora_A"], arrays[f"{path}.lora_B"] = factors.a, factors.b
            if factors.magnitude is not None:
                arrays[f"{path}.lora_magnitude_vector"] = factors.magnitude
        return arrays | {f"{path}.{ROWS}": rows.values for path, rows in self.tokens.items()}

    def places(self, dropout: float = 0.0, dora: bool = False) -> dict[str, Place]:
        """Where the model carries them. `dora`: also those that have no magnitude yet are to have one."""
        places: dict[str, Place] = {path: TrainedRows(rows.ids) for path, rows in self.tokens.items()}
        for path, each in self.factors.items():
            places[path] = Adapter(each.scale, dropout, dora or each.magnitude is not None)
        return places

    def with_arrays(self, arrays: Mapping[str, Floats]) -> "LoraAdapter":
        """The same adapter with other numbers, under the names of `trained_arrays`."""
        factors = {
            path: LoraFactors(
                arrays[f"{path}.lora_A"], arrays[f"{path}.lora_B"], old.scale, arrays.get(f"{path}.lora_magnitude_vector")
            )
            for path, old in self.factors.items()
        }
        tokens = {path: rows._replace(values=arrays[f"{path}.{ROWS}"]) for path, rows in self.tokens.items()}
        return replace(self, factors=factors, tokens=tokens)

    @property
    def is_dora(self) -> bool:
        """Whether rows have magnitudes of their own. In the files of others all modules have them, or none."""
        return any(factors.magnitude is not None for factors in self.factors.values())

    @property
    def rank(self) -> int:
        """The greatest rank of a module."""
        return max(len(factors.a) for factors in self.factors.values())

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(array.size for array in self.trained_arrays().values())


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def alpha_of(scale: float, rank: int, rslora: bool) -> int | float:
    """The alpha that gives this scale, to the bit wherever one does; an integer wherever one does, as in PEFT."""
    number = scale * (math.sqrt(rank) if rslora else rank)
    nearest: list[int | float] = [round(number), number, math.nextafter(number, 0), math.nextafter(number, math.inf)]
    return next((alpha for alpha in nearest if scale_of(alpha, rank, rslora) == scale), number)


def adapted_paths(spec: ModelSpec, targets: Iterable[str], layers: Any) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each module that gets an adapter: those kinds, in all layers or in the last N.

    Where a family has q, k and v or gate and up as one layer, a target that is a part of it stands for the whole.

    Raises:
        AdapterError: more layers are asked for than the model has.
    """
    count = spec.layers if layers == "all" else int(layers)
    if count > spec.layers:
        raise AdapterError(f"adapter.layers is {count}, the model has {spec.layers}", hint=f'use "all" or 1 to {spec.layers}')
    return {
        spec.module_path(layer, kind): spec.linear_shape(kind)
        for layer in range(spec.layers - count, spec.layers)
        for kind in spec.kinds_of(targets)
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
    """An adapter must name modules of this model, in their shapes, and rows that its embedding has.

    Raises:
        AdapterError: it was made for another base; the message names the first module that differs.
    """
    known = adapted_paths(spec, spec.linear_kinds, "all")
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
    for path, rows in adapter.tokens.items():
        if path == "lm_head" and spec.tied:
            message = "the adapter trains rows of lm_head, which is the embedding in this model"
            raise AdapterError(message, hint="use the base that it was trained on")
        if rows.values.shape[1] != spec.dim or max(rows.ids) >= spec.vocab:
            shape = f"{spec.vocab} x {spec.dim} here, {rows.values.shape[1]} wide and at least {max(rows.ids) + 1} high there"
            hint = "use the base that it was trained on; a base whose embedding was made larger must be saved with it"
            raise AdapterError(f"the adapter was made for another base: {path} is {shape}", hint=hint)
