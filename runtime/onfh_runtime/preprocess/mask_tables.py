"""The way from a stage's map to the stack's pixels, as tables that a kernel reads.

A :class:`Letterbox` holds it as one matrix per axis, nearly all of it zeros. Here each stack row and column keeps only
the stretch of the map it draws on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.preprocess.stage_input import Letterbox
from onfh_runtime.preprocess.taps import sparse_taps

__all__ = ["MaskTables", "mask_tables"]


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
