"""The pictures of the HTML report: a coronal stack and its mask as small text for a script to unpack.

One 8-bit code per pixel serves every display window: the code is a piecewise linear function of HU, fine where soft
tissue lies and coarse elsewhere, and the page turns codes into grey values for the window that was chosen. So a slice
is stored once, not once per window.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.volume import CoronalStack

__all__ = ["HU_OF_CODE", "WINDOWS", "codes_from_hu", "pictures_from_stack", "text_from_plane"]

WINDOWS = ({"name": "bone", "center": 500, "width": 2000}, {"name": "soft tissue", "center": 40, "width": 400})
"""The display windows; what the model sees is windowed by its bundle, not by these."""

_KNOT_HU = (-500, -160, 240, 1500)
_KNOT_CODE = (0, 30, 150, 255)
"""The outer knots are the ends of the bone window, the inner ones those of the soft one: 3.3 HU a code between these
(below the noise of any CT), 12 HU a code beyond (1.5 of 256 grey values of the bone window)."""

_CODE_OF_HU = np.rint(np.interp(np.arange(_KNOT_HU[0], _KNOT_HU[-1] + 1), _KNOT_HU, _KNOT_CODE)).astype(np.uint8)
HU_OF_CODE = np.interp(np.arange(256), _KNOT_CODE, _KNOT_HU)
"""(256,) float64, the HU a code stands for."""

_MAX_SIDE = 512
"""Rows or columns a picture may have: more than that is not seen on a screen beside the rest of the page."""
_MAX_PIXELS = 24_000_000
"""Pixels of all pictures together: about 16 MB of report, so that a stack of 170 slices still opens at once."""


def pictures_from_stack(stack: CoronalStack, mask: NDArray[np.uint8]) -> dict[str, Any]:
    """Everything the page's viewer needs of the stack, ready for JSON.

    Args:
        stack: what was analysed; hu is (slices, rows, columns).
        mask: (slices, rows, columns) uint8, 0 none, 1 right, 2 left, 3 side undetermined.

    Returns:
        ``rows`` and ``columns`` of a picture, ``spacing`` (row, column) of its pixels in mm, ``shown`` (the height and
        width of the part that holds the stack, in picture pixels), ``hu`` of each code, ``windows``, and per slice
        ``pictures`` and ``masks`` as :func:`text_from_plane` writes them (an empty string for an empty mask).
    """
    slices, rows, columns = stack.hu.shape
    _, row_mm, column_mm = stack.spacing_mm
    by = _shrink_factors(slices, rows, columns, row_mm, column_mm)
    height, width = -(-rows // by[0]), -(-columns // by[1])
    pictures, masks = [], []
    for hu, labels in zip(stack.hu, mask, strict=True):
        plane = hu if by == (1, 1) else _blocks(hu, by).mean(axis=(1, 3), dtype=np.float32)
        pictures.append(text_from_plane(codes_from_hu(plane)))
        masks.append(text_from_plane(_blocks(labels, by).max(axis=(1, 3))) if labels.any() else "")
    return {
        "rows": height,
        "columns": width,
        "spacing": [row_mm * by[0], column_mm * by[1]],
        "shown": [rows / by[0], columns / by[1]],
        "hu": HU_OF_CODE.round(1).tolist(),
        "windows": list(WINDOWS),
        "pictures": pictures,
        "masks": masks,
    }


def codes_from_hu(hu: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Display codes of a plane of any shape: :data:`HU_OF_CODE` gives the HU back, within 6.5 HU inside the windows."""
    nearest = np.clip(hu, _KNOT_HU[0], _KNOT_HU[-1])
    np.rint(nearest, out=nearest)
    codes: NDArray[np.uint8] = _CODE_OF_HU[nearest.astype(np.int16) - _KNOT_HU[0]]
    return codes


def text_from_plane(plane: NDArray[np.uint8]) -> str:
    """Base64 of the zlib stream of a (rows, columns) plane, each row less the row above it, modulo 256.

    CT noise leaves a general matcher nothing to find: run lengths and Huffman codes alone are as small and six times
    as fast as the default strategy.
    """
    rows = np.array(plane, order="C")
    rows[1:] -= plane[:-1]
    packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return base64.b64encode(packer.compress(rows.tobytes()) + packer.flush()).decode("ascii")


def _shrink_factors(slices: int, rows: int, columns: int, row_mm: float, column_mm: float) -> tuple[int, int]:
    """(row, column) factors that bring a picture below the limits, the finer axis first."""
    by = [-(-rows // _MAX_SIDE), -(-columns // _MAX_SIDE)]
    while slices * (rows / by[0]) * (columns / by[1]) > _MAX_PIXELS:
        by[0 if row_mm * by[0] < column_mm * by[1] else 1] += 1
    return by[0], by[1]


def _blocks(plane: NDArray[Any], by: tuple[int, int]) -> NDArray[Any]:
    """(rows, by[0], columns, by[1]) view of a plane whose last row and column are repeated to fill whole blocks."""
    rows, columns = plane.shape
    padded = np.pad(plane, ((0, -rows % by[0]), (0, -columns % by[1])), mode="edge")
    return padded.reshape(padded.shape[0] // by[0], by[0], padded.shape[1] // by[1], by[1])
