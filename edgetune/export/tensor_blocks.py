"""Blocks of a tensor, cast once. A cast that a target type cannot hold is an error, never an infinity."""

from functools import cache
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.weights import to_bfloat16
from edgetune.backend.numpy_weights import as_floats, from_bfloat16
from edgetune.errors import BeyondRange, ModelError

INFINITIES = {"F16": 0x7C00, "BF16": 0x7F80}  # the bits of infinity; all above are not numbers
LIMITS = {"F16": 65504.0, "BF16": 3.3895e38, "F32": 3.4028e38, "Q8_0": 127 * 65504.0}
SMALLEST_NORMAL = 113 << 7  # bfloat16 bits of 2**-14, below which float16 loses precision


def encode(stored: NDArray[Any], source: str, target: str, name: str) -> NDArray[Any]:
    """A stored block of type `source` as the bits of type `target`: F32, F16, BF16 or Q8_0 (gguf's blocks of 32).

    Raises:
        ModelError: it holds a value that is not a number.
        BeyondRange: it holds one that is beyond what the target can hold.
    """
    if source == target:
        encoded = stored
    elif target == "F16":
        with np.errstate(over="ignore"):
            encoded = bfloat16_to_float16(stored) if source == "BF16" else stored.astype(np.float16)
    else:
        floats = as_floats(stored)
        if target == "F32":
            encoded = floats
        elif target == "BF16":
            encoded = to_bfloat16(floats)
        else:
            check_range(floats, target, name)
            return gguf.quants.quantize(floats, gguf.GGMLQuantizationType[target])
    if not holds_numbers(encoded, target):
        check_range(as_floats(stored), target, name)
    return encoded


def holds_numbers(encoded: NDArray[Any], target: str) -> bool:
    """Whether no value is infinite or not a number."""
    if target == "F32":
        return bool(np.isfinite(encoded).all())
    return int((encoded.view(np.uint16) & 0x7FFF).max(initial=0)) < INFINITIES[target]


def check_range(values: NDArray[np.float32], target: str, name: str) -> None:
    """Says which value a type cannot hold.

    Raises:
        ModelError: there is one; BeyondRange where it is finite.
    """
    largest = float(np.abs(values).max(initial=0))
    if not np.isfinite(largest):
        raise ModelError(f"{name} holds a value that is not a number", hint="the model is damaged, or its training diverged")
    if largest >= LIMITS[target]:
        message = f"{name} holds {largest:.6g}, more than {target}'s {LIMITS[target]:.6g}"
        raise BeyondRange(message, hint="write BF16 or F32 instead")


@cache
def float16_of_bfloat16() -> NDArray[np.uint16]:
    """The float16 bits of every bfloat16, rounded to the nearest."""
    with np.errstate(over="ignore", invalid="ignore"):
        return from_bfloat16(np.arange(1 << 16, dtype=np.uint16)).astype(np.float16).view(np.uint16)


def bfloat16_to_float16(bits: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Exact where float16 is normal: three more bits of fraction, three less of exponent. Small values come from a table."""
    size = bits & np.uint16(0x7FFF)
    halves = size << np.uint16(3)
    halves -= np.uint16(0xC000)  # 112 << 10 modulo 2**16: the two exponents' biases differ by 112
    halves |= bits & np.uint16(0x8000)
    other = np.flatnonzero((size < SMALLEST_NORMAL) | (size >= 143 << 7))
    halves.reshape(-1)[other] = float16_of_bfloat16()[bits.reshape(-1)[other]]
    return halves
