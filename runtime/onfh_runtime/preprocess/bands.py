"""Resampling one axis with small dense pieces of a matrix.

A resampling matrix is nearly all zeros, and its outputs draw on inputs near to them: along the diagonal lie small
blocks with all its weights. Each is a matrix product of its own, so large that the product runs at full speed, and so
small that few zeros are multiplied and no library shares it out among cores, which the callers do themselves. They give
several images at once: a call for each block of each image is so short that Python's lock passes between the threads
all the time, and two of them are no faster than one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bands"]

MOST_OUTPUTS, MOST_INPUTS = 16, 32
"""Of one block, unless a single output draws on more inputs. With 512 columns, OpenBLAS keeps to one thread."""


@dataclass(frozen=True)
class _Block:
    outputs: slice
    inputs: slice
    weights: NDArray[np.float32]
    """(outputs, inputs), C-contiguous."""
    turned: NDArray[np.float32]
    """(inputs, outputs), C-contiguous."""


def _float(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


class Bands:
    """A matrix as its blocks along the diagonal, which are small where neighbouring outputs draw on the same inputs.

    Args:
        matrix: (outputs, inputs) float64.
    """

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        inputs = matrix.shape[1]
        used = matrix != 0
        first, stop = used.argmax(axis=1), inputs - used[:, ::-1].argmax(axis=1)
        stop = np.where(used.any(axis=1), stop, first + 1)
        self._blocks, begin = [], 0
        while begin < len(matrix):
            end = begin + 1
            while end < min(len(matrix), begin + MOST_OUTPUTS):
                if stop[begin : end + 1].max() - first[begin : end + 1].min() > MOST_INPUTS:
                    break
                end += 1
            span = slice(int(first[begin:end].min()), int(stop[begin:end].max()))
            weights = np.ascontiguousarray(matrix[begin:end, span], np.float32)
            self._blocks.append(_Block(slice(begin, end), span, weights, np.ascontiguousarray(weights.T)))
            begin = end

    def times(
        self,
        images: NDArray[Any],
        out: NDArray[np.float32],
        values: Callable[[NDArray[Any]], NDArray[np.float32]] = _float,
    ) -> None:
        """The matrix times images: (..., inputs, n) to ``out``, (..., outputs, n), whose rows are contiguous.

        Args:
            images: of any type.
            out: gets the products.
            values: what is multiplied, of some rows of the images; pieces stay in the cache from there to the product.
        """
        for block in self._blocks:
            np.matmul(block.weights, values(images[..., block.inputs, :]), out=out[..., block.outputs, :])

    def times_rows(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """The matrix times every row of images: (..., n, inputs) to ``out``, (..., n, outputs); rows are contiguous."""
        for block in self._blocks:
            np.matmul(images[..., block.inputs], block.turned, out=out[..., block.outputs])
