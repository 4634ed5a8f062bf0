"""Peer a: pydicom, MONAI's transforms and torch eager on the same two stages, as a MONAI Deploy application has them.

``--route usual`` is what MONAI's tutorials and bundles do: PydicomReader, Spacing to the coronal grid, ResampleToMatch
for the way back. ``--route tuned`` is the fastest way with the same libraries that we found: a plain pydicom loop,
Resize by area, which averages exactly as onfh's slabs do where the planes of a slab are whole, and Resize for the way
back.

Favours the peer: it is given the slices and the box that the stages see, and it writes neither SEG, SR nor report.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, case_of, serve, torch_network, write_answers
from monai.data import MetaTensor, PydicomReader
from monai.transforms import (
    CenterSpatialCrop,
    LoadImage,
    Orientation,
    ResampleToMatch,
    Resize,
    ScaleIntensityRange,
    Spacing,
    SpatialCrop,
    SpatialPad,
)
from numpy.typing import NDArray
from pydicom import dcmread
from torch.nn.functional import interpolate

CORONAL = "PIL"
"""Slices run to the back, rows to the feet, columns to the patient's left."""


def main() -> None:
    """Analyse the case's series."""
    options = arguments(__doc__, "route")
    warnings.simplefilter("ignore")
    case = case_of(options.case)
    networks = {stage: torch_network(case[stage]) for stage in ("classifier", "segmenter")}

    def study() -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            answers = analyse(case, networks, usual=options.route != "tuned")
        write_answers(options.out, answers)
        return answers

    study()
    if options.serve:
        serve({"study": study})


def analyse(
    case: dict[str, Any], networks: dict[str, Callable[[torch.Tensor], torch.Tensor]], *, usual: bool
) -> dict[str, NDArray[Any]]:
    """One series: probabilities of the slices seen, which of them were gated, the mask on the stored voxels."""
    loaded = load_with_monai(case["series"]) if usual else load_with_pydicom(case["series"])
    image = Orientation(axcodes=CORONAL, labels=None)(loaded)
    whole = coronal_by_spacing(image, case) if usual else coronal_by_area(image, case)
    seen = SpatialCrop(roi_slices=[slice(*side) for side in case["box"]])(whole)
    probabilities = in_batches(networks["classifier"], stage_input(seen, case["classifier"]), case["classifier"])
    gated = gate(probabilities.numpy(), case)
    chosen = seen[:, torch.from_numpy(gated)]
    maps = in_batches(networks["segmenter"], stage_input(chosen, case["segmenter"]), case["segmenter"])
    mask = torch.zeros(whole.shape, dtype=torch.uint8)
    planes, *in_plane = (slice(*side) for side in case["box"])
    mask[(0, planes.start + torch.from_numpy(gated), *in_plane)] = (
        map_to_slices(maps, seen, case["segmenter"]) >= case["mask_threshold"]
    ).to(torch.uint8)
    back = MetaTensor(mask, affine=whole.affine)
    if usual:
        stored = ResampleToMatch(mode="nearest")(back, img_dst=loaded)
    else:
        near = Resize(spatial_size=image.shape[1:], mode="nearest")(back)
        stored = Orientation(axcodes="LPS", labels=None)(MetaTensor(near, affine=image.affine))
    voxels = stored[0].numpy().astype(bool).transpose(2, 1, 0)  # (x, y, z) -> (slice, row, column)
    return {"probabilities": probabilities.numpy(), "gated": gated, "mask": voxels}


def load_with_monai(folder: str) -> MetaTensor:
    """(1, x, y, z) HU with its affine."""
    loaded: MetaTensor = LoadImage(reader=PydicomReader(), ensure_channel_first=True)(folder)
    return loaded


def load_with_pydicom(folder: str) -> MetaTensor:
    """The same by a loop over the files, sorted by position, as MONAI Deploy's DICOMSeriesToVolumeOperator does it."""
    images = sorted((dcmread(path) for path in Path(folder).iterdir()), key=lambda ds: ds.ImagePositionPatient[2])
    first, last = images[0], images[-1]
    stored = np.stack([ds.pixel_array for ds in images])
    hu = stored.astype(np.float32) * np.float32(first.RescaleSlope) + np.float32(first.RescaleIntercept)
    affine = np.eye(4)
    across, down = np.array(first.ImageOrientationPatient).reshape(2, 3)
    affine[:3, 0], affine[:3, 1] = across * first.PixelSpacing[1], down * first.PixelSpacing[0]
    origin, end = np.array(first.ImagePositionPatient), np.array(last.ImagePositionPatient)
    affine[:3, 2], affine[:3, 3] = (end - origin) / (len(images) - 1), origin
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return MetaTensor(torch.from_numpy(hu.transpose(2, 1, 0)[None]), affine=to_ras @ affine)


def coronal_by_spacing(image: MetaTensor, case: dict[str, Any]) -> MetaTensor:
    """Slices of the wanted spacing, sampled at their centres."""
    pixdim = (case["slice_spacing_mm"], *(float(side) for side in image.pixdim[1:]))
    made: MetaTensor = Spacing(pixdim=pixdim, mode="bilinear", scale_extent=True)(image)
    return made


def coronal_by_area(image: MetaTensor, case: dict[str, Any]) -> MetaTensor:
    """Slices of the wanted spacing, averaged over the planes they span."""
    slices = int(image.shape[1] * float(image.pixdim[0]) / case["slice_spacing_mm"] + 1e-6)
    made: MetaTensor = Resize(spatial_size=(slices, *image.shape[2:]), mode="area")(image)
    return made


def stage_input(seen: MetaTensor, stage: dict[str, Any]) -> torch.Tensor:
    """Window, fit and normalise (1, slices, rows, columns): (slices, channels, height, width)."""
    low, high = stage["window"]
    windowed = ScaleIntensityRange(a_min=low, a_max=high, b_min=0, b_max=1, clip=True)(seen[0])
    # The stages were trained on this filter. MONAI's Resize smooths with a Gaussian in its place, or not at all.
    fitted = interpolate(windowed[None], fitted_size(seen, stage), mode="bilinear", antialias=True)[0]
    padded = SpatialPad(spatial_size=stage["size"], value=0)(fitted)
    values = (padded.as_tensor() - stage["mean"]) / stage["std"]
    return values[:, None].expand(-1, stage["channels"], -1, -1)


def fitted_size(seen: MetaTensor, stage: dict[str, Any]) -> tuple[int, int]:
    """(height, width) that a slice has in a stage's input, without the padding."""
    rows, columns = seen.shape[2:]
    row_mm, column_mm = float(seen.pixdim[1]), float(seen.pixdim[2])
    height, width = stage["size"]
    pixel = max(stage["min_pixel_spacing_mm"], rows * row_mm / height, columns * column_mm / width)
    return round(rows * row_mm / pixel), round(columns * column_mm / pixel)


def in_batches(
    network: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, stage: dict[str, Any]
) -> torch.Tensor:
    """Probabilities, so many rows at a time as the bundle says."""
    return torch.cat([network(part) for part in values.split(stage["max_batch"])])


def gate(probabilities: NDArray[np.float32], case: dict[str, Any]) -> NDArray[np.int64]:
    """Slices for stage 2, ascending. Untrained weights rank slices by rounding: there the case names them."""
    if case["gated"] is not None:
        return np.array(case["gated"], np.int64)
    passed = np.flatnonzero(probabilities >= case["gate"]["threshold"])
    most = case["gate"]["max_slices"]
    if most is not None and len(passed) > most:
        passed = np.sort(passed[np.argsort(-probabilities[passed], kind="stable")[:most]])
    return passed


def map_to_slices(maps: torch.Tensor, seen: MetaTensor, stage: dict[str, Any]) -> torch.Tensor:
    """Stage 2's maps (n, height, width) on the pixels of the slices seen."""
    fitted = CenterSpatialCrop(roi_size=fitted_size(seen, stage))(maps)
    resized: torch.Tensor = Resize(spatial_size=seen.shape[2:], mode="bilinear")(fitted)
    return resized


if __name__ == "__main__":
    main()
