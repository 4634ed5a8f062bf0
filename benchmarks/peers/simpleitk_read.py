"""Peer b: SimpleITK reads the series and resamples it to the coronal grid.

``points`` samples linearly at the centres of the slices, which is what a plain ResampleImageFilter does; it reads two
planes of each slab and leaves the others out. ``averaged`` shrinks by whole planes first (BinShrink), the averaging
that onfh does, where the planes of a slab are whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK
from common import arguments, case_of, serve, write_answers


def main() -> None:
    """Offer the tasks ``read``, ``points`` and ``averaged``; the latter two read as well."""
    options = arguments(__doc__)
    case = case_of(options.case)
    ways = {"points": points, "averaged": averaged}
    seen = slice(*case["box"][0])
    made = {name: SimpleITK.GetArrayFromImage(way(read(case["series"]), case))[seen] for name, way in ways.items()}
    write_answers(options.out, made)
    tasks = {name: (lambda way=way: way(read(case["series"]), case)) for name, way in ways.items()}
    serve({"read": lambda: read(case["series"]), **tasks})


def read(folder: str) -> SimpleITK.Image:
    """The series in the order of its positions, HU int16."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
    reader.SetOutputPixelType(SimpleITK.sitkInt16)
    return reader.Execute()


def points(image: SimpleITK.Image, case: dict[str, Any]) -> SimpleITK.Image:
    """Linear interpolation at the centres of the coronal slices."""
    return _resampled(image, case, image)


def averaged(image: SimpleITK.Image, case: dict[str, Any]) -> SimpleITK.Image:
    """The mean of the planes of each slab, interpolated where the planes are no whole number."""
    factor = max(1, round(case["slice_spacing_mm"] / image.GetSpacing()[1]))
    return _resampled(SimpleITK.BinShrink(SimpleITK.Cast(image, SimpleITK.sitkFloat32), [1, factor, 1]), case, image)


def _resampled(source: SimpleITK.Image, case: dict[str, Any], image: SimpleITK.Image) -> SimpleITK.Image:
    """``source`` on the grid of coronal slices of ``image``, an axial series whose rows run to the back."""
    (x_mm, y_mm, z_mm), (columns, rows, planes) = image.GetSpacing(), image.GetSize()
    step = case["slice_spacing_mm"]
    slices = int(rows * y_mm / step + 1e-6)
    first = image.TransformContinuousIndexToPhysicalPoint((0, (step / y_mm - 1) / 2, planes - 1))
    across, back, up = np.array(image.GetDirection()).reshape(3, 3).T
    filter_ = SimpleITK.ResampleImageFilter()
    filter_.SetSize((columns, planes, slices))
    filter_.SetOutputSpacing((x_mm, z_mm, step))
    filter_.SetOutputOrigin(first)
    filter_.SetOutputDirection(np.stack([across, -up, back], axis=1).ravel().tolist())
    filter_.SetInterpolator(SimpleITK.sitkLinear)
    filter_.SetDefaultPixelValue(-1000)
    filter_.SetOutputPixelType(SimpleITK.sitkFloat32)
    return filter_.Execute(source)


if __name__ == "__main__":
    main()
