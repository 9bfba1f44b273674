"""A model folder and an adapter folder, opened together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetune.adapters.lora import LoraAdapter, check_fits
from edgetune.adapters.open import open_adapter
from edgetune.architecture.load import Source, build_model, check_shapes
from edgetune.architecture.quantized_base import QuantizedBase
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.transformer import Model
from edgetune.architecture.weights import WeightFolder
from edgetune.config import QuantizeBase


@dataclass(frozen=True)
class AdaptedModel:
    """A model whose ops find the adapter's factors in `parameters`."""

    spec: ModelSpec
    model: Model
    parameters: dict[str, NDArray[np.float32]]


def open_adapted(folder: Path, adapter: Path | LoraAdapter | None = None, quantize_base: QuantizeBase = "none") -> AdaptedModel:
    """The model of a folder, with an adapter if one is given; matrices stay on the disk until they are read.

    `quantize_base`: they are packed instead, as they were when the adapter was trained.

    Raises:
        ModelError: config.json or the weights are absent or damaged.
        AdapterError: the adapter is damaged, or was made for another base.
    """
    spec = read_spec(folder)
    weights = WeightFolder(folder)
    check_shapes(spec, weights, folder)
    source = Source(spec, weights, packed=None if quantize_base == "none" else QuantizedBase(weights, quantize_base))
    if adapter is None:
        return AdaptedModel(spec, build_model(source, {}), {})
    lora = open_adapter(adapter) if isinstance(adapter, Path) else adapter
    check_fits(lora, spec)
    return AdaptedModel(spec, build_model(source, lora.places()), lora.trained_arrays())
