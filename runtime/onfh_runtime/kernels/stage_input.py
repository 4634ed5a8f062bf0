"""Launch of ``stage_input.cu``: from stored voxels to a stage's input, for any list of slices, in one launch.

The arithmetic is float32 as in the NumPy reference, in another order: within 1e-5 of it, and within one unit in the
last place of what it rounds to in float16.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.device_memory import DeviceArray
from onfh_runtime.preprocess.device_tables import InputTables
from onfh_runtime.volume import AIR_HU

if TYPE_CHECKING:
    from onfh_runtime.device import Stream

__all__ = ["launch_stage_input", "moved_bytes"]

_BLOCK = 256
_LEAST_ROWS, _ENOUGH_BLOCKS = 8, 1024
"""Tiles are cut lower, down to one row of each warp, while there are too few blocks for a large GPU."""

_VOXEL_TYPES = {"int16": 0, "uint16": 1, "float32": 2}
"""As ``enum VoxelType`` of stage_input.cu numbers them; float32 is HU."""


def launch_stage_input(
    stream: Stream,
    tables: InputTables,
    packed: DeviceArray,
    voxels: DeviceArray,
    slices: DeviceArray,
    *,
    out: DeviceArray,
) -> None:
    """Queue :func:`onfh_runtime.preprocess.stage_input` of some slices of what the stages see.

    Array arguments are borrowed until the stream has run what was queued.

    Args:
        stream: where to queue.
        tables: of the source and the stage.
        packed: ``tables.packed`` on the device.
        voxels: ``tables.source.voxels`` on the device, C-contiguous.
        slices: (n,) int32, the slices to make, in this order; each of ``range(tables.source.shape[0])``, unchecked.
        out: (n, channels, height, width) float32 or float16, normalised.

    Raises:
        ValueError: an array has another shape or dtype.
    """
    source, (height, width) = tables.source, tables.size
    shape = (*slices.shape, tables.channels, *tables.size)
    same = (packed.nbytes, voxels.shape, voxels.dtype) == (tables.packed.nbytes, *_form(source.voxels))
    kinds = slices.dtype == np.int32 and out.dtype in (np.float16, np.float32)
    if not (same and kinds and len(slices.shape) == 1 and out.shape == shape):
        raise ValueError(
            f"voxels {voxels.shape} {voxels.dtype}, slices {slices.shape} {slices.dtype}, out {out.shape} {out.dtype} "
            f"and {packed.nbytes} bytes of tables do not fit voxels {source.voxels.shape} {source.voxels.dtype} and "
            f"inputs {shape[1:]}"
        )
    count = slices.shape[0]
    if not count:
        return
    tiles = -(-width // tables.tile_columns)
    tile_rows = tables.tile_rows
    while tile_rows > _LEAST_ROWS and count * tiles * -(-height // tile_rows) < _ENOUGH_BLOCKS:
        tile_rows //= 2
    part = {name: _part(packed, *place) for name, place in tables.parts.items()}
    low, high = source.padding or (math.inf, -math.inf)
    itemsize = source.voxels.itemsize
    stream.launch(
        "stage_input",
        (tiles, -(-height // tile_rows), count),
        (_BLOCK, 1, 1),
        [
            voxels,
            np.int32(_VOXEL_TYPES[voxels.dtype.name]),
            np.int64(source.origin * itemsize),
            *(np.int32(stride * itemsize) for stride in source.strides),
            *map(np.float32, (low, high, AIR_HU)),
            np.int32(source.scale_axis),
            part["scales"],
            slices,
            part["slabs"],
            part["slab_weights"],
            part["rows"],
            part["row_weights"],
            np.int32(tables.row_taps),
            part["columns"],
            part["column_weights"],
            part["tiles"],
            *map(np.int32, (tile_rows, tables.tile_columns, tables.pitch)),
            part["windows"],
            *map(np.int32, (tables.windows, tables.windows_at_once)),
            part["channels"],
            *map(np.int32, (tables.channels, height, width)),
            out,
            np.int32(out.dtype == np.float16),
        ],
        shared_bytes=4 * tables.windows_at_once * tile_rows * tables.pitch,
    )


def moved_bytes(tables: InputTables, slices: NDArray[np.integer[Any]], dtype: type[np.floating[Any]]) -> int:
    """Bytes that a launch must move at least: every stored voxel it needs once, and every value it writes once.

    What is read twice is counted once, and the tables, some kilobytes, not at all. Over the time of the launch it is
    the bandwidth to hold against that of a copy, which reads and writes each byte once.

    Args:
        tables: of the source and the stage.
        slices: the slices that are made.
        dtype: of the input, float16 or float32.
    """
    source = tables.source
    planes = int(source.weights[np.asarray(slices)].any(axis=0).sum())
    rows, columns = (_union(_read(tables, name)) for name in ("rows", "columns"))
    out = len(slices) * tables.channels * math.prod(tables.size) * np.dtype(dtype).itemsize
    return planes * rows * columns * source.voxels.itemsize + out


def _form(array: NDArray[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return array.shape, array.dtype


def _part(packed: DeviceArray, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
    return DeviceArray(packed.address + offset, shape, dtype)


def _read(tables: InputTables, name: str) -> NDArray[Any]:
    offset, shape, dtype = tables.parts[name]
    return np.frombuffer(tables.packed, dtype, math.prod(shape), offset).reshape(shape)


def _union(runs: NDArray[np.int32]) -> int:
    """How many places lie in any of the stretches (first, count); they go up and leave no gap."""
    runs = runs[runs[:, 1] > 0]
    return int(runs.sum(axis=1).max() - runs[:, 0].min()) if len(runs) else 0
