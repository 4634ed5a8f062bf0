"""The way from a stage's map to the stack's pixels, as tables that a kernel reads.

A :class:`Letterbox` holds it as one matrix per axis, nearly all of it zeros. Here each stack row and column keeps only
the stretch of the map it draws on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.preprocess.stage_input import Letterbox

__all__ = ["MaskTables", "mask_tables", "sparse_taps"]


@dataclass(frozen=True)
class MaskTables:
    """Tables of one stack and one map.

    Attributes:
        map_size: (height, width) of the map.
        size: (rows, columns) of the stack's slices.
        taps: (rows, columns) of the map that one pixel of the stack draws on.
        packed: int32 words, one after the other: the first map row of each stack row, the first map column of each
            stack column; then the bits of float32 weights, (rows, row taps) and (columns, column taps).
    """

    map_size: tuple[int, int]
    size: tuple[int, int]
    taps: tuple[int, int]
    packed: NDArray[np.int32]


def mask_tables(tables: Letterbox) -> MaskTables:
    """The tables of ``tables.back_rows`` and ``tables.back_columns``, with the weights that map_to_stack uses."""
    first_row, row_weights = sparse_taps(tables.back_rows)
    first_column, column_weights = sparse_taps(tables.back_columns)
    return MaskTables(
        map_size=(tables.back_rows.shape[1], tables.back_columns.shape[1]),
        size=(len(first_row), len(first_column)),
        taps=(row_weights.shape[1], column_weights.shape[1]),
        packed=np.concatenate(
            [first_row, first_column, row_weights.reshape(-1).view(np.int32), column_weights.reshape(-1).view(np.int32)]
        ),
    )


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
