"""Frozen weights in 4 or 8 bits while an adapter learns on them (QLoRA, arXiv:2305.14314): packed when a model is loaded.

Packed is what mlx-lm's `convert --quantize` packs: every linear layer, the embedding and the head, as far as their rows divide
into groups; norms and biases are not. Rows are read from the file block by block, so that the floats are never all in memory.
"""

from collections.abc import Callable

import numpy as np

from edgetune.architecture.row_blocks import Meter, row_blocks
from edgetune.architecture.tensor_info import ITEM_SIZES, STORED, TensorInfo
from edgetune.architecture.weights import WeightFolder, stored_as
from edgetune.backend.numpy_weights import FrozenMatrix, Quantized, as_floats
from edgetune.backend.quantized import Packing, quantize
from edgetune.config import QuantizeBase
from edgetune.errors import ModelError
from edgetune.events import Progress

BASE_PACKINGS: dict[QuantizeBase, Packing] = {"8bit": Packing("affine", 8, 64), "4bit": Packing("affine", 4, 64)}


class QuantizedBase:
    """A model folder whose matrices are packed as they are asked for."""

    def __init__(self, weights: WeightFolder, precision: QuantizeBase, on_progress: Callable[[Progress], None] | None = None):
        self.weights, self.packing = weights, BASE_PACKINGS[precision]
        floats = [info.stored_bytes for info in weights.tensors.values() if can_pack(info, self.packing)]
        self.meter = Meter("quantising the base", sum(floats), on_progress)

    def matrix(self, name: str) -> FrozenMatrix:
        """A matrix in memory, packed; one that cannot be is left as it is stored, on the disk.

        Raises:
            ModelError: there is no tensor of that name, or it holds a value that is not a number.
        """
        info = self.weights.info(name)
        if not can_pack(info, self.packing):
            return self.weights.matrix(name)
        rows, inputs = info.shape
        codes = np.empty((rows, self.packing.row_bytes(inputs)), np.uint8)
        scales, biases = (np.empty((rows, inputs // self.packing.group), STORED[info.dtype]) for _ in range(2))
        start = 0
        for block in row_blocks(info):
            part, floats = slice(start, start + len(block)), as_floats(block)
            if not np.isfinite(floats).all():
                raise ModelError(f"{name} holds a value that is not a number", file=info.file, hint="the model is damaged")
            codes[part], scale, bias = quantize(floats, self.packing)
            scales[part], biases[part] = stored_as(scale, info.dtype), stored_as(bias, info.dtype)
            start = part.stop
            self.meter.add(block.nbytes)
        return Quantized(self.packing, codes, scales, biases)


def can_pack(info: TensorInfo, packing: Packing) -> bool:
    """Whether a tensor is a matrix of floats whose rows divide into groups."""
    return info.packed is None and len(info.shape) == 2 and packing.fits(info.shape[1])


def base_bytes(weights: WeightFolder, precision: QuantizeBase) -> int:
    """What the weights of a folder take in memory, packed like that."""
    packing = BASE_PACKINGS.get(precision)
    return sum(tensor_bytes(info, packing) for info in weights.tensors.values())


def tensor_bytes(info: TensorInfo, packing: Packing | None) -> int:
    """What one tensor takes."""
    if packing is None or not can_pack(info, packing):
        return info.stored_bytes
    rows, inputs = info.shape
    return rows * (packing.row_bytes(inputs) + 2 * inputs // packing.group * ITEM_SIZES[info.dtype])
