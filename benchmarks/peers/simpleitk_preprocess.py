"""SimpleITK's side of ``benchmarks/preprocess_peers.py``: a coronal stack of a volume, fitted to a stage's input.

``averaged`` shrinks by whole voxels (BinShrink averages them), across the slices and in their plane, and resamples what
is left to the input's grid at once; ``points`` resamples alone, and leaves out most of the volume.

Favours the peer: the volume lies there as HU, and the window is applied to the small result, which is not quite the
same as to the voxels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK
from common import arguments, case_of, serve, write_answers
from numpy.typing import NDArray

AIR_HU = -1000


def main() -> None:
    """Offer a task for each way and each side of a stage's input."""
    options = arguments(__doc__)
    case = case_of(options.case)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(case["threads"])
    image = axial(case)
    tasks = {
        f"{way}_{side}": (lambda way=way, side=side: prepared(image, case, side, shrink=way == "averaged"))
        for way in ("averaged", "points")
        for side in case["sides"]
    }
    write_answers(options.out, {name: task() for name, task in tasks.items()})
    serve(tasks)


def axial(case: dict[str, Any]) -> SimpleITK.Image:
    """The volume as an image, HU int16."""
    image = SimpleITK.GetImageFromArray(np.load(case["volume"]))
    affine = np.array(case["affine_lps"])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    return image


def prepared(image: SimpleITK.Image, case: dict[str, Any], side: int, *, shrink: bool) -> NDArray[np.float32]:
    """(slices, 1, side, side) float32, the window as 0..1."""
    (x_mm, y_mm, z_mm), (columns, rows, planes) = image.GetSpacing(), image.GetSize()
    step, pixel = case["slice_spacing_mm"], max(columns * x_mm, planes * z_mm) / side
    slices = int(rows * y_mm / step + 1e-6)
    factors = [max(1, int(pixel / x_mm)), max(1, int(step / y_mm)), max(1, int(pixel / z_mm))]
    middle = ((columns - 1) / 2, (step / y_mm - 1) / 2, (planes - 1) / 2)
    across, back, up = np.array(image.GetDirection()).reshape(3, 3).T
    first = np.array(image.TransformContinuousIndexToPhysicalPoint(middle)) - (across - up) * pixel * (side - 1) / 2
    filter_ = SimpleITK.ResampleImageFilter()
    filter_.SetSize((side, side, slices))
    filter_.SetOutputSpacing((pixel, pixel, step))
    filter_.SetOutputOrigin(first.tolist())
    filter_.SetOutputDirection(np.stack([across, -up, back], axis=1).ravel().tolist())
    filter_.SetInterpolator(SimpleITK.sitkLinear)
    filter_.SetDefaultPixelValue(AIR_HU)
    filter_.SetOutputPixelType(SimpleITK.sitkFloat32)
    made = filter_.Execute(SimpleITK.BinShrink(image, factors) if shrink else image)
    low, high = case["window"]
    values = np.clip(SimpleITK.GetArrayViewFromImage(made), low, high)[:, None]
    values -= low
    values *= 1 / (high - low)
    return values


if __name__ == "__main__":
    main()
