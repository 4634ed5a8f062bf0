"""Resampling one axis with the weights that are not zero.

A resampling matrix is nearly all zeros: every output draws on one short stretch of the inputs. Kept as stretches, it
costs as many products as it has weights, and arrays small enough for a core's own cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sparse_taps", "weighted_rows"]


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


def weighted_rows(
    image: NDArray[np.float32],
    taps: tuple[NDArray[np.int32], NDArray[np.float32]],
    out: NDArray[np.float32],
    spare: NDArray[np.float32],
) -> None:
    """The product of the matrix behind ``taps`` and an image, tap by tap in ascending order.

    Args:
        image: (inputs, columns) float32.
        taps: from :func:`sparse_taps`.
        out: (outputs, columns) float32, C-contiguous; overwritten.
        spare: the same, for work.
    """
    first, weights = taps
    # With a mode that cannot fail, take writes straight into its output; every stretch lies within the inputs anyway.
    np.take(image, first, axis=0, out=out, mode="clip")
    out *= weights[:, :1]
    for tap in range(1, weights.shape[1]):
        np.take(image, first + tap, axis=0, out=spare, mode="clip")
        np.multiply(spare, weights[:, tap : tap + 1], out=spare)
        out += spare
