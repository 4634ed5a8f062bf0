"""From the coronal stack to a stage's NCHW input, and from a stage's map back to the stack.

One slice is windowed, scaled to fit (letterbox) about the common centre of image and input, and normalised. Scaling is
a product with one small matrix per axis: a triangle filter as wide as the coarser of the two grids, so that shrinking
does not alias and enlarging is linear interpolation (the ``antialias`` rule of Pillow and torch). Outside the image
there is air.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import StageInput, Window
from onfh_runtime.cpu import over_cores
from onfh_runtime.preprocess.bands import Bands
from onfh_runtime.volume import AIR_HU, CoronalStack

__all__ = ["Letterbox", "letterbox", "map_to_stack", "mask_to_input", "resample_matrix", "stage_input"]

TOGETHER = 4
"""Slices that are scaled at once; see :mod:`~onfh_runtime.preprocess.bands`."""


@dataclass(frozen=True)
class Letterbox:
    """The scaling between a stack's slices and a stage's input, both centred on the same point.

    Attributes:
        pixel_mm: side of one (square) input pixel, mm.
        rows: (height, stack rows) float64 weights; rows of pixels outside the image are zero.
        columns: (width, stack columns) float64 weights, likewise.
        back_rows: (stack rows, map height) float64 weights of the way back.
        back_columns: (stack columns, map width) float64 weights of the way back.
    """

    pixel_mm: float
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    back_rows: NDArray[np.float64]
    back_columns: NDArray[np.float64]


def letterbox(
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    spec: StageInput,
    map_size: tuple[int, int] | None = None,
) -> Letterbox:
    """Tables for one stack and one stage.

    Args:
        shape: (rows, columns) of the stack's slices.
        spacing_mm: (row, column) spacing of the stack's slices, mm.
        spec: the stage's input.
        map_size: (height, width) of the map the stage answers with, over the same field; the input's size by default.
    """
    (rows, columns), (height, width) = shape, spec.size
    pixel = max(spec.min_pixel_spacing_mm, rows * spacing_mm[0] / height, columns * spacing_mm[1] / width)
    map_height, map_width = map_size or spec.size
    return Letterbox(
        pixel_mm=pixel,
        rows=resample_matrix(height, pixel, rows, spacing_mm[0]),
        columns=resample_matrix(width, pixel, columns, spacing_mm[1]),
        back_rows=resample_matrix(rows, spacing_mm[0], map_height, pixel * height / map_height),
        back_columns=resample_matrix(columns, spacing_mm[1], map_width, pixel * width / map_width),
    )


def resample_matrix(outputs: int, output_mm: float, inputs: int, input_mm: float) -> NDArray[np.float64]:
    """Weights (outputs, inputs) float64 that resample one axis; both grids share their centre.

    Rows sum to 1 where the output pixel's centre lies on the input, and are all zero elsewhere.
    """
    centre = (np.arange(outputs) - (outputs - 1) / 2) * output_mm / input_mm + (inputs - 1) / 2
    reach = max(1.0, output_mm / input_mm)
    weights = np.clip(1 - np.abs(np.arange(inputs)[None, :] - centre[:, None]) / reach, 0, None)
    weights[(centre < -0.5 - 1e-9) | (centre > inputs - 0.5 + 1e-9)] = 0
    total = weights.sum(axis=1, keepdims=True)
    result: NDArray[np.float64] = np.divide(weights, total, out=weights, where=total > 0)
    return result


def stage_input(stack: CoronalStack, spec: StageInput) -> NDArray[np.float32]:
    """A stage's input for every slice of the stack, its slices shared out among every core.

    Returns:
        (slices, channels, height, width) float32, normalised: (windowed value in 0..1 - mean) / std.
    """
    tables = letterbox(stack.hu.shape[1:], stack.spacing_mm[1:], spec)
    outside = 1 - np.outer(tables.rows.sum(axis=1), tables.columns.sum(axis=1)).astype(np.float32)
    scale = _Scaler(tables.rows, tables.columns)
    out = np.empty((len(stack.hu), len(spec.windows), *spec.size), np.float32)

    def fill(part: slice) -> None:
        windowed, between = np.empty((TOGETHER, *stack.hu.shape[1:]), np.float32), scale.between()
        scaled = np.empty((TOGETHER, *spec.size), np.float32)
        for some in _by_few(part):
            images, count = stack.hu[some], some.stop - some.start
            done: Window | None = None
            channels = zip(np.moveaxis(out[some], 1, 0), spec.windows, spec.mean, spec.std, strict=True)
            for channel, window, mean, std in channels:
                if window != done:
                    scale(_clipped(images, window, windowed[:count]), between[:count], scaled[:count])
                    scaled[:count] += _clipped(np.float32(AIR_HU), window) * outside
                    done = window
                # (value - low) / width is what a stage calls 0..1; it and the normalisation are one line.
                low, factor = window.center - window.width / 2, 1 / (window.width * std)
                np.multiply(scaled[:count], np.float32(factor), out=channel)
                channel -= np.float32(low * factor + mean / std)

    over_cores(fill, len(out))
    return out


def _by_few(part: slice) -> Iterator[slice]:
    """A stretch of slices in shorter ones."""
    for begin in range(part.start, part.stop, TOGETHER):
        yield slice(begin, min(begin + TOGETHER, part.stop))


class _Scaler:
    """Product of images with one small matrix per axis."""

    def __init__(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
        self._rows, self._columns = Bands(rows), Bands(columns)
        self._between = (len(rows), columns.shape[1])

    def between(self) -> NDArray[np.float32]:
        """Room for what lies between both products: one for each thread."""
        return np.empty((TOGETHER, *self._between), np.float32)

    def __call__(self, images: NDArray[np.float32], between: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Scale (slices, rows, columns) to ``out``, (slices, height, width)."""
        self._rows.times(images, between)
        self._columns.times_rows(between, out)


def _clipped(hu: Any, window: Window, out: NDArray[np.float32] | None = None) -> Any:
    """HU, an array or a number, within a window, float32."""
    half = window.width / 2
    return np.clip(hu, np.float32(window.center - half), np.float32(window.center + half), out=out)


def mask_to_input(mask: NDArray[np.floating], tables: Letterbox) -> NDArray[np.float32]:
    """A (slices, rows, columns) mask in 0..1 on the stack, resampled to (slices, height, width) float32 (training)."""
    rows, columns = tables.rows.astype(np.float32), tables.columns.T.astype(np.float32)
    return np.asarray(rows @ np.asarray(mask, np.float32) @ columns, np.float32)


def map_to_stack(values: NDArray[np.float32], tables: Letterbox) -> NDArray[np.float32]:
    """A stage's (slices, height, width) map resampled to the stack's (slices, rows, columns), float32."""
    out = np.empty((len(values), len(tables.back_rows), len(tables.back_columns)), np.float32)
    scale = _Scaler(tables.back_rows, tables.back_columns)

    def fill(part: slice) -> None:
        between = scale.between()
        for some in _by_few(part):
            scale(values[some], between[: some.stop - some.start], out[some])

    over_cores(fill, len(out))
    return out
