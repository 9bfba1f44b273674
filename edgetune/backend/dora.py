"""DoRA (arXiv:2402.09353) on NumPy: an adapted matrix's rows are brought to lengths that are trained.

W' = magnitude * (W + scale B A) / length, where length is each row's own: a constant in the backward, as in the paper's section
4.3, PEFT and mlx-lm.
"""

import numpy as np

from edgetune.backend.numpy_tape import Floats


def row_lengths(matrix: Floats) -> Floats:
    """(rows, columns) -> (rows,): the length of each row. A row of zeros has no direction and stays zero: it counts as one."""
    lengths = np.sqrt(np.vecdot(matrix, matrix))
    lengths[lengths == 0] = 1
    return lengths


def magnitude_gradient(y: Floats, d: Floats, bias: Floats | None, magnitude: Floats) -> Floats:
    """(outputs,): the gradient by the magnitude, from what a layer gave and the gradient of that, both (time, outputs).

    y - bias = magnitude * u, where u is the layer with rows of length one, and the gradient is the sum of d u over time. A
    magnitude of zero has hidden its u: it gets no gradient.
    """
    pull = np.vecdot(y.T, d.T)
    if bias is not None:
        pull -= bias * d.sum(0)
    return np.divide(pull, magnitude, out=np.zeros_like(magnitude), where=magnitude != 0)
