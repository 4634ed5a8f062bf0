"""Launches of ``mask.cu``: from a stage's logits to probabilities, masks, and masks without small pieces.

All calls queue on the stream and return at once. Array arguments are C-contiguous and are borrowed until the stream has
run what was queued.

The arithmetic is float32 as in the NumPy reference, in another order: a probability may differ by some units in the
last place, and so may a mask's voxel whose value lies within 1e-6 of the threshold. Components are the same voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from onfh_runtime.bundle import Stage
from onfh_runtime.device import DeviceArray, Stream
from onfh_runtime.preprocess.mask_tables import MaskTables

__all__ = ["component_scratch", "launch_mask", "launch_probabilities", "launch_small_components"]

_Args: TypeAlias = "Sequence[DeviceArray | np.generic]"

_BLOCK = 256
_LINES = 32
"""Threads of a block that walk one row each: few, so that all multiprocessors get some."""

_ACTIVATIONS = {"none": 0, "sigmoid": 1, "softmax": 2}
"""As ``enum Activation`` of mask.cu numbers them."""


def launch_probabilities(
    stream: Stream, logits: DeviceArray, spec: Stage, *, out: DeviceArray, bad: DeviceArray
) -> None:
    """Probability of the positive class, as :func:`onfh_runtime.stages.positive_probability`.

    Args:
        stream: where to queue.
        logits: (rows, classes) or (rows, classes, height, width), float32 or float16, as the stage gives them.
        spec: the stage.
        out: (rows,) or (rows, height, width) float32, 0..1.
        bad: (1,) int32, set to 1 when a probability is NaN or outside 0 to 1, else left alone: the caller zeroes it.
    """
    rows, classes, *plane = logits.shape
    pixels = int(np.prod(plane))
    total = _countable(rows * pixels)
    kernel = "probability_half" if logits.dtype == np.float16 else "probability_float"
    values = (total, classes, pixels, spec.positive_class, _ACTIVATIONS[spec.activation])
    _launch(stream, kernel, total, [logits, out, bad, *map(np.int32, values)])


def launch_mask(
    stream: Stream, maps: DeviceArray, tables: MaskTables, packed: DeviceArray, threshold: float, *, out: DeviceArray
) -> None:
    """Mask on the stack's pixels, as ``map_to_stack(maps, letterbox) >= threshold``.

    Args:
        stream: where to queue.
        maps: (slices, height, width) float32 probabilities.
        tables: of the stack and the map.
        packed: ``tables.packed`` on the device.
        threshold: 0..1.
        out: (slices, rows, columns) uint8, 0 or 1.
    """
    slices, (rows, columns) = maps.shape[0], tables.size
    if slices:
        sizes = (*tables.map_size, *tables.size, *tables.taps)
        args: _Args = [maps, packed, out, *map(np.int32, sizes), np.float32(threshold)]
        stream.launch("map_to_mask", (-(-rows * columns // _BLOCK), slices, 1), (_BLOCK, 1, 1), args)


def component_scratch(shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Shape of the int32 scratch memory that :func:`launch_small_components` needs for a mask of a shape."""
    return (2, *shape)


def launch_small_components(
    stream: Stream,
    mask: DeviceArray,
    slice_index: DeviceArray,
    minimum_voxels: int,
    *,
    scratch: DeviceArray,
    removed: DeviceArray,
) -> None:
    """Take away small pieces of a mask in place, as :func:`onfh_runtime.components.without_small_components`.

    Args:
        stream: where to queue.
        mask: (slices, rows, columns) uint8, 0 or 1.
        slice_index: (slices,) int32, ascending: where in the stack each slice of the mask lies.
        minimum_voxels: a piece of this many voxels stays; up to 1, all of them do.
        scratch: :func:`component_scratch` int32; needs no content.
        removed: (1,) int32, set to the number of voxels taken away.
    """
    slices, rows, columns = mask.shape
    total = _countable(slices * rows * columns)
    stream.zero(removed)
    if minimum_voxels <= 1:
        return
    voxels: _Args = [mask, scratch.rows(0, 1), scratch.rows(1, 2), *map(np.int32, (total, rows, columns))]
    _launch(stream, "component_runs", slices * rows, voxels, block=_LINES)
    _launch(stream, "component_merge", total, [*voxels, slice_index])
    _launch(stream, "component_sizes", total, voxels)
    _launch(stream, "component_removal", total, [*voxels, np.int32(minimum_voxels), removed])


def _countable(total: int) -> int:
    """``total``, which kernels count in int32, the threads of a last block that is not full included."""
    if total > np.iinfo(np.int32).max - _BLOCK:
        raise ValueError(f"{total} voxels are more than the kernels can count")
    return total


def _launch(stream: Stream, kernel: str, threads: int, args: _Args, *, block: int = _BLOCK) -> None:
    """Queue a kernel of one thread for each of ``threads`` things, when there are any."""
    if threads:
        stream.launch(kernel, (-(-threads // block), 1, 1), (block, 1, 1), args)
