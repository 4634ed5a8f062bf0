"""Small connected pieces of a mask, taken away: what stage 2 outlines far from any necrosis is mostly specks.

Two voxels are connected when they touch by a face, an edge or a corner (26 neighbours). The gate leaves holes in a
stack, so two slices touch only when they are neighbours in the stack the mask was made on.

The method is the run-length form of two-scan labelling with union-find: rows of a mask are runs, runs that touch are
united, and a root stands for its piece (He, Chao and Suzuki, "A run-based two-scan labeling algorithm", IEEE
Transactions on Image Processing 17, 2008).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["minimum_voxels", "without_small_components"]


def minimum_voxels(minimum_mm3: float, voxel_mm3: float) -> int:
    """Voxels that a piece must have at least: the fewest whose volume is not below ``minimum_mm3``."""
    # A ratio that only rounding lifts above a whole number is that number.
    return math.ceil(minimum_mm3 / voxel_mm3 * (1 - 1e-12))


def without_small_components(
    mask: NDArray[np.bool_], slice_index: NDArray[np.int64], minimum_voxels: int
) -> tuple[NDArray[np.bool_], int]:
    """A mask without its connected pieces of fewer than ``minimum_voxels`` voxels.

    Args:
        mask: (slices, rows, columns) bool.
        slice_index: (slices,) integers, ascending: where in the stack each slice of the mask lies.
        minimum_voxels: a piece of this many voxels stays; up to 1, all of them do.

    Returns:
        The mask, a new array of the same shape, and how many voxels were taken away.
    """
    slices, rows, columns = mask.shape
    kept = np.array(mask, np.bool_, order="C")
    if minimum_voxels <= 1 or not kept.size:
        return kept, 0
    # A column of background at each end makes changes come in pairs, which are the ends of the runs.
    width = columns + 2
    padded = np.zeros((slices, rows, width), np.bool_)
    padded[:, :, 1:-1] = kept
    flat = padded.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2)
    line, start = np.divmod(changes[:, 0], width)
    length = changes[:, 1] - changes[:, 0]
    index, row = np.divmod(line, rows)
    roots = _roots(np.asarray(slice_index, np.int64)[index] * (rows + 1) + row, start, length, rows, columns)
    small = np.bincount(roots, length, minlength=len(roots))[roots] < minimum_voxels
    lengths = length[small]
    removed = int(lengths.sum())
    within = np.arange(removed) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept.reshape(-1)[np.repeat(line[small] * columns + start[small], lengths) + within] = False
    return kept, removed


def _roots(
    line: NDArray[np.int64], start: NDArray[np.int64], length: NDArray[np.int64], rows: int, columns: int
) -> NDArray[np.int64]:
    """The root of each run: the least run of its piece.

    Runs come in the order of their lines. Lines count through the stack with an empty one below each slice, so that
    the neighbours of a line are found by its number alone, and a slice that is not there has no runs.
    """
    # One number for a place: a line, then a column. A run touches those of another line from one column before its
    # first voxel to one behind its last.
    stride = columns + 1
    starts, stops = line * stride + start, line * stride + start + length
    first, second = [], []
    for offset in (1, rows, rows + 1, rows + 2):
        shift = offset * stride
        begin = np.searchsorted(stops, starts + shift, side="left")
        count = np.searchsorted(starts, stops + shift, side="right") - begin
        run = np.repeat(np.arange(len(line)), count)
        first.append(run)
        second.append(begin[run] + np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count))
    return _united(len(line), np.concatenate(first), np.concatenate(second))


def _united(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least member of each of ``count`` things once each ``first`` is united with its ``second``."""
    parent = np.arange(count)
    while True:
        low, high = np.minimum(parent[first], parent[second]), np.maximum(parent[first], parent[second])
        apart = low != high
        if not apart.any():
            return parent
        first, second = low[apart], high[apart]
        # Of several lower parents one wins; the pairs that lost are united in the next rounds.
        parent[second] = first
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
