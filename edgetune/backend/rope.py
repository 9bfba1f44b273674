"""Rotary position embedding: how fast each pair of a head's dimensions turns, for every scaling that exists.

RoFormer (arXiv:2104.09864); linear and dynamic NTK scaling; YaRN (arXiv:2309.00071); LongRoPE (arXiv:2402.13753); Llama 3's
own. The formulas and their defaults follow transformers 5, `modeling_rope_utils.py`, which is what models are published for.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclass(frozen=True)
class Rope:
    """The rotation of one kind of layer. Frequencies are radians per position; lengths are tokens."""

    dim: int  # how many of a head's dimensions turn
    base: float = 10_000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    max_positions: int = 0  # dynamic: beyond this the base grows
    original_positions: int = 0  # llama3, yarn, longrope: the length before it was stretched
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn
    short_factor: tuple[float, ...] = ()  # longrope: a divisor for each pair
    long_factor: tuple[float, ...] = ()  # longrope
    scale: float = 1.0  # yarn, longrope: cos and sin are multiplied by it

    def frequencies(self, length: int) -> NDArray[np.float64]:
        """(dim / 2,) radians per position, for a sequence of `length` tokens."""
        return frequencies(self, self.regime(length))

    def regime(self, length: int) -> int:
        """A length that stands for all with the same frequencies: most kinds do not look at the length."""
        if self.kind == "dynamic":
            return max(length, self.max_positions)
        if self.kind == "longrope":
            return self.original_positions + (length > self.original_positions)
        return 0


@lru_cache(maxsize=64)
def frequencies(rope: Rope, length: int) -> NDArray[np.float64]:
    """(dim / 2,) radians per position."""
    exponents = np.arange(0, rope.dim, 2) / rope.dim
    plain = rope.base**-exponents
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "dynamic":
        stretch = rope.factor * length / rope.max_positions - (rope.factor - 1)
        return (rope.base * stretch ** (rope.dim / (rope.dim - 2))) ** -exponents
    if rope.kind == "llama3":
        return llama3(rope, plain)
    if rope.kind == "yarn":
        return yarn(rope, plain)
    if rope.kind == "longrope":
        return plain / np.array(rope.long_factor if length > rope.original_positions else rope.short_factor)
    return plain


def llama3(rope: Rope, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slow rotations are divided by the factor, fast ones kept, those between mixed."""
    turns = rope.original_positions * plain / (2 * math.pi)  # in the original length
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(smooth, 0, 1)
    return plain * ((1 - kept) / rope.factor + kept)


def yarn(rope: Rope, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pairs that turn often keep their frequency, those that turn less than once are divided, a ramp lies between."""

    def pair_that_turns(times: float) -> float:
        return rope.dim * math.log(rope.original_positions / (times * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    ramp = np.clip((np.arange(rope.dim // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    return plain / rope.factor * ramp + plain * (1 - ramp)
