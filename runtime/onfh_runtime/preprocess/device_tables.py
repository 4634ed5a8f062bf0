"""From stored voxels to a stage's input in one pass: what of a volume is uploaded, and the tables a kernel reads.

The NumPy reference makes the coronal stack first and each stage's input from it. A kernel does both at once, and works
out neither place nor weight: they are computed here, once, in float64, and rounded to float32 as the reference rounds
them. The tables keep of each matrix only the stretches that are not zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import StageInput
from onfh_runtime.preprocess.coronal import CoronalPlan
from onfh_runtime.preprocess.stage_input import letterbox
from onfh_runtime.volume import AIR_HU, CoronalStack, Volume

__all__ = ["DeviceSource", "InputTables", "device_source", "input_tables"]

SHARED_BYTES = 48 * 1024
"""Shared memory a block may have on every GPU without asking for more."""

TILE_ROWS = (32, 16, 8, 4, 2, 1)
"""What a block's rows may be; 32 is the most that stage_input.cu makes."""

_WIDEST_TILE, _LANES, _WARPS, _SHARED_AT_EASE = 128, 32, 8, 24 * 1024
_ALIGNMENT = 16


@dataclass(frozen=True)
class DeviceSource:
    """What the stages can see of a volume, as it is uploaded: stored voxels and how they are read as a coronal stack.

    Attributes:
        voxels: int16, uint16 or float32, axes as stored; a view, to be uploaded C-contiguous.
        shape: (slices, rows, columns) of the stack that the stages see.
        spacing_mm: (row, column) spacing of that stack, mm.
        origin: element of the uploaded voxels at the stack's first plane, row and column.
        strides: elements to the next plane, row and column of the stack; negative where an axis runs the other way.
        weights: (slices, planes) float64, the share of each plane in each slice.
        scale: (n, 2) float64, slope and intercept (HU) of every plane, row or column, or of all (n = 1).
        scale_axis: the stack axis that ``scale`` runs along; 3 when one scale holds for all.
        padding: inclusive range of stored values that mean "not measured", or None.
    """

    voxels: NDArray[Any]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float]
    origin: int
    strides: tuple[int, int, int]
    weights: NDArray[np.float64]
    scale: NDArray[np.float64]
    scale_axis: int
    padding: tuple[int, int] | None


@dataclass(frozen=True)
class InputTables:
    """The tables of one source and one stage, in one block so that one upload carries them.

    Attributes:
        source: what the tables are for.
        packed: bytes to upload.
        parts: of each table its first byte, shape and dtype.
        size: (height, width) of the input.
        channels: of the input.
        windows: distinct windows of the channels.
        windows_at_once: how many of them one pass makes, 1 or 3.
        row_taps: most stack rows that one row of the input draws on.
        tile_rows, tile_columns: pixels of the input that one block makes, at most.
        pitch: most stack columns that one tile draws on.
    """

    source: DeviceSource
    packed: NDArray[np.uint8]
    parts: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]]
    size: tuple[int, int]
    channels: int
    windows: int
    windows_at_once: int
    row_taps: int
    tile_rows: int
    tile_columns: int
    pitch: int


def device_source(
    volume: Volume, plan: CoronalPlan, box: tuple[slice, slice, slice], seen: CoronalStack
) -> DeviceSource:
    """The part of a volume that the stages see.

    Sheared planes are interpolated, which the kernel does not do: of a tilted volume the source is ``seen`` itself.

    Args:
        volume: as stored.
        plan: its coronal stack.
        box: the part of the whole stack that the stages see.
        seen: that part.
    """
    _, rows, columns = seen.hu.shape
    spacing = seen.spacing_mm[1:]
    if plan.tilted:
        hu, whole = seen.hu, np.array([[1.0, 0.0]])
        return DeviceSource(hu, hu.shape, spacing, 0, (rows * columns, columns, 1), np.eye(len(hu)), whole, 3, None)
    weights = plan.weights[box[0]]
    used = np.flatnonzero(weights.any(axis=0))
    planes = slice(int(used[0]), int(used[-1]) + 1)
    cut = [slice(None)] * 3
    for axis, flip, side in zip(plan.axes, plan.flips, (planes, box[1], box[2]), strict=True):
        count = volume.voxels.shape[axis]
        cut[axis] = slice(count - side.stop, count - side.start) if flip else side
    voxels = volume.voxels[tuple(cut)]
    steps = (voxels.shape[1] * voxels.shape[2], voxels.shape[2], 1)
    strides = [-steps[axis] if flip else steps[axis] for axis, flip in zip(plan.axes, plan.flips, strict=True)]
    origin = sum(
        steps[axis] * (voxels.shape[axis] - 1) for axis, flip in zip(plan.axes, plan.flips, strict=True) if flip
    )
    scale = np.stack([volume.slope[cut[0]], volume.intercept[cut[0]]], axis=1)
    scale_axis = plan.axes.index(0)
    if plan.flips[scale_axis]:
        scale = scale[::-1]
    if (scale == scale[0]).all():
        scale, scale_axis = scale[:1], 3
    return DeviceSource(
        voxels=voxels,
        shape=(len(weights), rows, columns),
        spacing_mm=spacing,
        origin=origin,
        strides=(strides[0], strides[1], strides[2]),
        weights=weights[:, planes],
        scale=scale,
        scale_axis=scale_axis,
        padding=volume.padding,
    )


def input_tables(source: DeviceSource, spec: StageInput) -> InputTables:
    """The tables that make one stage's input of a source, as :func:`~onfh_runtime.preprocess.stage_input` makes it."""
    boxed = letterbox(source.shape[1:], source.spacing_mm, spec)
    rows, row_weights = _runs(boxed.rows)
    columns, column_weights = _runs(boxed.columns)
    slabs, slab_weights = _runs(source.weights)
    begins = np.cumsum(slabs[:, 1]) - slabs[:, 1]
    windows = list(dict.fromkeys(spec.windows))
    at_once = 1 if len(windows) == 1 else 3
    planes = float(slabs[:, 1].mean())
    tile_rows, tile_columns = _tile(rows, columns, planes=planes, windows=at_once, channels=len(spec.windows))
    tiles = _seen_by_tiles(columns, tile_columns)
    lows = np.array([window.center - window.width / 2 for window in windows])
    widths = np.array([window.width for window in windows])
    channels = np.zeros((len(spec.windows), 4), np.float32)
    channels.view(np.int32)[:, 0] = [windows.index(window) for window in spec.windows]
    channels[:, 1], channels[:, 2] = spec.mean, 1 / np.array(spec.std)
    packed, parts = _pack(
        scales=source.scale.astype(np.float32),
        slabs=np.column_stack([slabs, begins]).astype(np.int32),
        slab_weights=slab_weights[np.arange(slab_weights.shape[1]) < slabs[:, 1:]],
        rows=rows,
        row_weights=row_weights,
        columns=columns,
        column_weights=np.ascontiguousarray(column_weights.T),
        tiles=tiles,
        windows=np.column_stack([lows, 1 / widths, np.clip((AIR_HU - lows) / widths, 0, 1)]).astype(np.float32),
        channels=channels,
    )
    return InputTables(
        source=source,
        packed=packed,
        parts=parts,
        size=spec.size,
        channels=len(spec.windows),
        windows=len(windows),
        windows_at_once=at_once,
        row_taps=row_weights.shape[1],
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        pitch=int(tiles[:, 1].max()),
    )


def _runs(matrix: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The stretch of each row of a matrix that is not zero.

    Returns:
        First column and count of each row, (rows, 2) int32, and its values, (rows, longest stretch) float32.
    """
    inputs = matrix.shape[1]
    used = matrix != 0
    first = used.argmax(axis=1)
    count = np.where(used.any(axis=1), inputs - used[:, ::-1].argmax(axis=1) - first, 0)
    taps = np.arange(max(1, int(count.max())))
    values = np.take_along_axis(matrix, np.minimum(first[:, None] + taps, inputs - 1), axis=1)
    return np.column_stack([first, count]).astype(np.int32), (values * (taps < count[:, None])).astype(np.float32)


def _seen_by_tiles(columns: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """First and number of the stack columns that each column of tiles draws on, (tiles, 2) int32."""
    inside = columns[:, 1] > 0
    starts = np.arange(0, len(columns), width)
    first = np.minimum.reduceat(np.where(inside, columns[:, 0], np.iinfo(np.int32).max), starts)
    end = np.maximum.reduceat(np.where(inside, columns.sum(axis=1), 0), starts)
    return np.column_stack([np.where(end > 0, first, 0), np.maximum(end - first, 0)]).astype(np.int32)


def _tile(
    rows: NDArray[np.int32], columns: NDArray[np.int32], *, planes: float, windows: int, channels: int
) -> tuple[int, int]:
    """Rows and columns of the tile that takes the fewest memory instructions of those that fit.

    Where a slab is one plane, each lane of a warp takes two columns at a time: a tile that sees 64 columns keeps all of
    them busy, one that sees 66 takes twice as long.
    """
    at_once = _LANES * (2 if planes == 1 else 1)
    taps_down, taps_along = float(rows[:, 1].mean()), float(columns[:, 1].mean())
    width = len(columns)
    widths = sorted({-(-width // count) for count in range(-(-width // _WIDEST_TILE), width + 1)}, reverse=True)
    best: dict[int, tuple[float, int, int]] = {}
    for tile_columns in widths:
        seen = _seen_by_tiles(columns, tile_columns)[:, 1]
        for tile_rows in TILE_ROWS:
            shared = 4 * windows * tile_rows * int(seen.max())
            each = -(-tile_rows // _WARPS)
            down = float((-(-seen // at_once)).sum()) * at_once / _LANES * taps_down * (planes + 1)
            along = len(seen) * -(-tile_columns // _LANES) * (taps_along * (1 + 1 / each) + 2 * channels)
            cost = -(-len(rows) // tile_rows) * each * (down + along)
            for limit in (_SHARED_AT_EASE, SHARED_BYTES):
                if shared <= limit:
                    best[limit] = min(best.get(limit, (math.inf, 0, 0)), (cost, tile_rows, tile_columns))
        if tile_columns < _LANES and best:
            break
    if not best:
        raise ValueError(f"{int(columns[:, 1].max())} stack columns in one pixel are more than a block can hold")
    _, tile_rows, tile_columns = best.get(_SHARED_AT_EASE, best[SHARED_BYTES])
    return tile_rows, tile_columns


def _pack(
    **tables: NDArray[Any],
) -> tuple[NDArray[np.uint8], dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]]]:
    parts, offset = {}, 0
    for name, table in tables.items():
        parts[name] = (offset, table.shape, table.dtype)
        offset += -(-table.nbytes // _ALIGNMENT) * _ALIGNMENT
    packed = np.zeros(offset, np.uint8)
    for name, table in tables.items():
        start = parts[name][0]
        packed[start : start + table.nbytes] = np.ascontiguousarray(table).reshape(-1).view(np.uint8)
    return packed, parts
