"""Where the voxels of a phantom are, and views of parts of them in a patient's own frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Grid"]

Coordinates = NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """A block of voxels with its coordinates as three broadcastable arrays.

    Attributes:
        index: where it lies in the array it was cut from.
        p: coordinates along x (or away from the midline), one per voxel along one axis, shaped to broadcast.
        q: coordinates along y.
        r: coordinates along z.
    """

    index: tuple[slice, slice, slice]
    p: Coordinates
    q: Coordinates
    r: Coordinates

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        a, b, c = np.broadcast_shapes(self.p.shape, self.q.shape, self.r.shape)
        return a, b, c

    def seen_from(self, origin: tuple[float, float, float], sign: float = 1.0) -> Box:
        """The same voxels in a frame with another origin, mirrored in p when ``sign`` is -1."""
        p = np.float32(sign) * (self.p - np.float32(origin[0]))
        return Box(self.index, p, self.q - np.float32(origin[1]), self.r - np.float32(origin[2]))

    def within(self, low: tuple[float, float, float], high: tuple[float, float, float]) -> Box | None:
        """The voxels between two corners, indexed in this box; None when there are none."""
        index = [slice(None)] * 3
        parts = []
        for values, lo, hi in zip((self.p, self.q, self.r), low, high, strict=True):
            axis = int(np.argmax(values.shape))
            inside = np.flatnonzero((values.ravel() >= lo) & (values.ravel() <= hi))
            if inside.size == 0:
                return None
            if values.size > 1:
                index[axis] = slice(int(inside[0]), int(inside[-1]) + 1)
                parts.append(np.take(values, inside, axis=axis))
            else:
                parts.append(values)
        return Box((index[0], index[1], index[2]), parts[0], parts[1], parts[2])

    def around(self, centre: tuple[float, float, float], reach: float) -> Box | None:
        """The voxels of a cube around a point."""
        p, q, r = centre
        return self.within((p - reach, q - reach, r - reach), (p + reach, q + reach, r + reach))


@dataclass(frozen=True)
class Grid:
    """An axis-aligned box of voxels in LPS.

    Attributes:
        plane: "axial": slices run to the head, rows to the back; "coronal": slices run to the back, rows to the feet.
            Columns run to the patient's left in both.
        origin: LPS mm of the centre of voxel (0, 0, 0).
        shape: (slices, rows, columns).
        spacing: (slice, row, column) mm.
    """

    plane: Literal["axial", "coronal"]
    origin: tuple[float, float, float]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) float64, (slice, row, column, 1) to LPS mm."""
        s, r, c = self.spacing
        matrix = np.eye(4)
        matrix[:3, 3] = self.origin
        if self.plane == "axial":
            matrix[:3, :3] = [[0, 0, c], [0, r, 0], [s, 0, 0]]
        else:
            matrix[:3, :3] = [[0, 0, c], [s, 0, 0], [0, -r, 0]]
        return matrix

    def chunks(self, voxels: int) -> Iterator[Box]:
        """The grid as boxes of whole slices holding at most about ``voxels`` voxels each."""
        n, rows, columns = self.shape
        step = max(1, voxels // (rows * columns))
        ds, dr, dc = self.spacing
        x, y, z = self.origin
        over = [np.arange(k, dtype=np.float64) for k in self.shape]
        p = (x + dc * over[2]).astype(np.float32).reshape(1, 1, -1)
        for start in range(0, n, step):
            stop = min(n, start + step)
            along = over[0][start:stop]
            if self.plane == "axial":
                q = (y + dr * over[1]).reshape(1, -1, 1)
                r = (z + ds * along).reshape(-1, 1, 1)
            else:
                q = (y + ds * along).reshape(-1, 1, 1)
                r = (z - dr * over[1]).reshape(1, -1, 1)
            yield Box(
                (slice(start, stop), slice(0, rows), slice(0, columns)),
                p,
                q.astype(np.float32),
                r.astype(np.float32),
            )
