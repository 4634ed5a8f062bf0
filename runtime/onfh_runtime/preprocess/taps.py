"""A resampling matrix by the weights that are not zero, as kernels take it.

Nearly all of such a matrix is zeros: every output draws on one short stretch of the inputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sparse_taps"]


def sparse_taps(matrix: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The stretch of each row of a matrix that holds all its non-zeros.

    Args:
        matrix: (outputs, inputs) float64.

    Returns:
        Where the stretch begins, (outputs,) int32, and its values, (outputs, longest stretch) float32. Every stretch is
        as long as the longest and lies within the inputs.
    """
    inputs = matrix.shape[1]
    used = matrix != 0
    first, last = used.argmax(axis=1), inputs - 1 - used[:, ::-1].argmax(axis=1)
    taps = int(np.where(used.any(axis=1), last - first + 1, 1).max())
    first = np.minimum(first, inputs - taps)
    values = np.take_along_axis(matrix, first[:, None] + np.arange(taps), axis=1)
    return first.astype(np.int32), values.astype(np.float32)
