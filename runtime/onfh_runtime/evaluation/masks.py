"""Masks from files: DICOM SEG, NIfTI, and .npz with an affine, all as voxels in the DICOM patient system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import MissingExtraError, OnfhError, UsageError
from onfh_runtime.evaluation.seg_mask import mask_from_seg

__all__ = ["Mask", "read_mask"]

_DESCRIBED = "docs/evaluate.md describes the formats."


@dataclass(frozen=True)
class Mask:
    """Necrosis on a grid of its own.

    Attributes:
        voxels: (slices, rows, columns) bool.
        affine: (4, 4) float64, (slice, row, column, 1) -> LPS mm at voxel centres; axes may be oblique or sheared.
        frame_of_reference: UID of the space the affine leads to, or None where the file does not say.
    """

    voxels: NDArray[np.bool_]
    affine: NDArray[np.float64]
    frame_of_reference: str | None = None

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def volume_mm3(self) -> float:
        """Volume of the voxels that are set."""
        return int(np.count_nonzero(self.voxels)) * self.voxel_mm3


def read_mask(path: Path) -> Mask:
    """Read a mask; the name's ending says how: ``.npz``, ``.nii``, ``.nii.gz``, anything else is DICOM SEG.

    Whole numbers above 0 are necrosis. An .npz holds ``mask`` (slice, row, column) and ``affine``, which leads to LPS;
    a NIfTI's leads to RAS and is turned. Of a DICOM SEG see :func:`~onfh_runtime.evaluation.seg_mask.mask_from_seg`.

    Raises:
        UsageError: ``mask_not_found``, ``mask_unreadable``, ``mask_not_binary``, ``mask_without_geometry`` or
            ``mask_ambiguous``.
        MissingExtraError: ``missing_extra``, a NIfTI file without nibabel.
    """
    if not path.is_file():
        raise UsageError("mask_not_found", f"There is no mask {path}.", "Paths are relative to the table's folder.")
    name = path.name.lower()
    try:
        if name.endswith(".npz"):
            voxels, affine, space = _from_npz(path)
        elif name.endswith((".nii", ".nii.gz")):
            voxels, affine, space = _from_nifti(path)
        else:
            voxels, affine, space = mask_from_seg(path)
    except OnfhError:
        raise
    except Exception as error:  # whatever a damaged file makes three libraries raise
        raise UsageError(
            "mask_unreadable", f"{path} cannot be read as a mask ({type(error).__name__}).", _DESCRIBED
        ) from error
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UsageError("mask_without_geometry", f"{path} does not say where its voxels lie.", _DESCRIBED)
    return Mask(voxels, affine, space)


def _from_npz(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64], None]:
    try:
        # opened here, because NumPy leaves a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            mask, affine = arrays["mask"], arrays["affine"].astype(np.float64)
    except (KeyError, BadZipFile) as error:
        raise UsageError("mask_unreadable", f"{path} holds no 'mask' and 'affine'.", _DESCRIBED) from error
    return _binary(mask, path), affine, None


def _from_nifti(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64], None]:
    nibabel = _nibabel()
    image = nibabel.load(path)
    if not int(image.header["sform_code"]) and not int(image.header["qform_code"]):
        raise UsageError("mask_without_geometry", f"{path} has neither an sform nor a qform.", _DESCRIBED)
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    # (i, j, k) has the slowest axis last, and nibabel's affine leads to RAS.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, np.float64)[:, [2, 1, 0, 3]]
    return _binary(array, path).transpose(2, 1, 0), affine, None


def _binary(array: NDArray[Any], path: Path) -> NDArray[np.bool_]:
    """Where an array of three axes is above 0, once it is known to hold labels and no probabilities."""
    if array.ndim != 3:
        raise UsageError("mask_unreadable", f"{path} has {array.ndim} axes, a mask has 3.", _DESCRIBED)
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not (array == np.rint(array)).all()):
        raise UsageError(
            "mask_not_binary", f"{path} holds values that are no whole numbers.", "Apply the threshold of its maker."
        )
    result: NDArray[np.bool_] = array > 0
    return result


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError(
            "missing_extra", "nibabel cannot be imported.", "Run: pip install 'onfh-edge[evaluate]'"
        ) from error
    return nibabel
