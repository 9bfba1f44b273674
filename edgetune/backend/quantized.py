"""Weights in one to eight bits, in MLX's layouts: how a row is stored, how it is made, and how it becomes floats again.

A row is a stream of codes of `bits` bits, the lowest bits first. Every `group` of them along the inputs shares a scale:

    affine  weight = code * scale + bias        code is a whole number; scale and bias are floats of the weights' type
    mxfp4   weight = E2M1[code] * E8M0[scale]   OCP Microscaling Formats 1.0
    mxfp8   weight = E4M3[code] * E8M0[scale]   the same
    nvfp4   weight = E2M1[code] * E4M3[scale]

https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html
"""

from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
MODES: tuple[Mode, ...] = get_args(Mode)
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
SMALLEST_SCALE = np.float32(1e-7)


class Packing(NamedTuple):
    """How the weights of a matrix are packed: what a code means, its bits, and how many codes share a scale."""

    mode: Mode = "affine"
    bits: int = 4
    group: int = 64

    def fits(self, inputs: int) -> bool:
        """Whether a row of that many weights divides into groups."""
        return inputs % self.group == 0

    def row_bytes(self, inputs: int) -> int:
        """Bytes of a row's codes."""
        return inputs * self.bits // 8


PACKINGS = {
    "affine": tuple(Packing("affine", bits, group) for group in (64, 32, 128) for bits in (4, 1, 2, 3, 5, 6, 8)),
    "mxfp4": (Packing("mxfp4", 4, 32),),
    "mxfp8": (Packing("mxfp8", 8, 32),),
    "nvfp4": (Packing("nvfp4", 4, 16),),
}
"""What each mode knows, its default first."""


def small_float(codes: NDArray[np.intp], exponent: int, mantissa: int) -> Floats:
    """The numbers of codes that hold a sign, an exponent and a mantissa, as IEEE 754 has them but without infinities."""
    fraction = codes & (1 << mantissa) - 1
    power = codes >> mantissa & (1 << exponent) - 1
    significand = np.where(power > 0, fraction + (1 << mantissa), fraction)
    sign = 1 - 2 * (codes >> (mantissa + exponent))
    lowest = 2 - (1 << (exponent - 1)) - mantissa
    return np.ldexp((sign * significand).astype(np.float32), np.maximum(power, 1) - 1 + lowest)


E2M1 = small_float(np.arange(16), 2, 1)
E4M3 = small_float(np.arange(256), 4, 3)
E4M3[[0x7F, 0xFF]] = np.nan
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.float32(np.nan))
SCALES = {"mxfp4": E8M0, "mxfp8": E8M0, "nvfp4": E4M3}
"""What a byte stands for that is a scale. The affine mode's scales are floats."""


@cache
def decoded_bytes(mode: Mode, bits: int) -> NDArray[Any]:
    """What each of a byte's 256 values holds: one float of eight bits' codes, or two of four bits', side by side in a word."""
    values = {"affine": np.arange(1 << bits, dtype=np.float32), "mxfp4": E2M1, "mxfp8": E4M3, "nvfp4": E2M1}[mode]
    if bits == 8:
        return values
    byte = np.arange(256)
    return np.stack([values[byte & 15], values[byte >> 4]], -1).view(np.uint64).ravel()


def unpack(codes: Bytes, bits: int) -> NDArray[np.uint64]:
    """(rows, bytes) -> (rows, codes): eight codes lie in as many bytes as each has bits."""
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // bits, 8), np.uint8)
    words[..., :bits] = codes.reshape(*codes.shape[:-1], -1, bits)
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(bits)
    return (words.view("<u8") >> shifts & np.uint64((1 << bits) - 1)).reshape(*codes.shape[:-1], -1)


def pack(codes: Bytes, bits: int) -> Bytes:
    """(rows, codes) of four or eight bits -> (rows, bytes)."""
    return codes if bits == 8 else codes[..., 0::2] | codes[..., 1::2] * np.uint8(16)


def dequantize(codes: Bytes, scales: Floats, biases: Floats | None, packing: Packing, out: Floats) -> None:
    """Writes the weights to `out`, (rows, inputs), C-contiguous.

    codes: (rows, bytes); scales, and in the affine mode biases: (rows, groups), as floats.
    """
    if packing.mode == "affine" and packing.bits == 8:
        out[...] = codes
    elif packing.bits in (4, 8):
        table = decoded_bytes(packing.mode, packing.bits)
        table.take(codes, out=out.view(table.dtype), mode="clip")  # no byte is beyond the table; "raise" would buffer
    else:
        out[...] = unpack(codes, packing.bits)
    grouped = out.reshape(len(out), -1, packing.group)
    grouped *= scales[..., None]
    if biases is not None:
        grouped += biases[..., None]


def quantize(weight: Floats, packing: Packing) -> tuple[Bytes, Floats, Floats]:
    """Codes, scales and biases of rows in the affine mode, as MLX computes them: in float32.

    The end of a group's range that is farther from zero is met exactly, and so is zero where the range holds it.
    """
    bins = np.float32((1 << packing.bits) - 1)
    grouped = weight.reshape(len(weight), -1, packing.group)
    low, high = grouped.min(-1), grouped.max(-1)
    scale = np.maximum((high - low) / bins, SMALLEST_SCALE)
    from_low = np.abs(low) > np.abs(high)
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    steps = np.rint(edge / scale)
    is_far = steps != 0
    scale = np.divide(edge, steps, out=scale, where=is_far)
    bias = np.where(is_far, edge, np.float32(0))
    codes = grouped - bias[..., None]
    codes /= scale[..., None]
    np.rint(codes, out=codes)
    np.clip(codes, 0, bins, out=codes)
    return pack(codes.astype(np.uint8).reshape(weight.shape), packing.bits), scale, bias
