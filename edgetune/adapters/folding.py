"""Adapters in files that hold one scale or one rank for all modules: scales go into B, ranks are filled up with zeros.

Both leave scale * B @ A as it is: zeros exactly, a folded scale exactly where it is a power of two and to half a unit in the
last place of each number of B elsewhere.
"""

from dataclasses import replace

import numpy as np

from edgetune.adapters.lora import Floats, LoraAdapter, LoraFactors
from edgetune.errors import AdapterError

ROUNDED = 2.0**-24 * (1 + 1e-6)  # relative: what one rounding to float32 changes at most


def with_one_scale(adapter: LoraAdapter) -> LoraAdapter:
    """The same adapter with one scale in all modules: the one that they have, or 1.

    Raises:
        AdapterError: a number times its scale is beyond what float32 holds.
    """
    if len({factors.scale for factors in adapter.factors.values()}) == 1:
        return adapter
    return replace(adapter, factors={path: folded(path, factors) for path, factors in adapter.factors.items()}, rslora=False)


def folded(path: str, factors: LoraFactors) -> LoraFactors:
    """A module whose scale is 1, and whose B is scale times what it was.

    Raises:
        AdapterError: a number becomes infinite, or so small that it loses more than its last bit.
    """
    exact = factors.b.astype(np.float64) * factors.scale
    with np.errstate(over="ignore"):
        b = exact.astype(np.float32)
    if not (np.abs(b - exact) <= ROUNDED * np.abs(exact)).all():
        message = f"{path}: B times the scale {factors.scale:g} is beyond what float32 holds"
        raise AdapterError(message, hint="this format has one scale for all modules; merge the adapter instead")
    return factors._replace(b=b, scale=1.0)


def with_one_rank(adapter: LoraAdapter) -> LoraAdapter:
    """The same adapter with one rank in all modules, the greatest; the rows of A and columns of B that this adds are zero."""
    rank = adapter.rank
    return replace(adapter, factors={path: padded(factors, rank) for path, factors in adapter.factors.items()}, rslora=False)


def padded(factors: LoraFactors, rank: int) -> LoraFactors:
    """A module of that rank."""
    more = rank - len(factors.a)
    if not more:
        return factors
    a: Floats = np.pad(factors.a, ((0, more), (0, 0)))
    b: Floats = np.pad(factors.b, ((0, 0), (0, more)))
    return factors._replace(a=a, b=b)
