"""Which series of a study is preferred when several can be analysed."""

from __future__ import annotations

import numpy as np

from onfh_runtime.dicom.series import Candidate

__all__ = ["by_preference"]

UNKNOWN_MM = 100.0
"""Sorts a series whose geometry cannot be read behind every other; the reader will refuse it by name."""


def by_preference(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates of one study, best first: finest coronal pixel, then most images, then UID and part.

    What a reader of coronal slices sees is limited by the coarser side of a coronal pixel: that of the image for a
    native coronal series, the distance between slices for an axial one.
    """
    return sorted(candidates, key=_key)


def _key(candidate: Candidate) -> tuple[float, int, str, int]:
    pixel = round(_coronal_pixel_mm(candidate), 1)
    return pixel, -len(candidate.images), candidate.series_instance_uid, candidate.part or 0


def _coronal_pixel_mm(candidate: Candidate) -> float:
    try:
        header = candidate.images[0].header
        iop = np.asarray(header.ImageOrientationPatient, float).reshape(2, 3)
        normal = np.cross(*iop)
        in_plane = max(float(v) for v in header.PixelSpacing)
        if np.abs(normal).argmax() == 1:
            return in_plane
        positions = sorted(float(normal @ np.asarray(i.header.ImagePositionPatient, float)) for i in candidate.images)
        distance = float(np.median(np.diff(positions))) if len(positions) > 1 else UNKNOWN_MM
        pixel = max(in_plane, distance)
        return pixel if np.isfinite(pixel) else UNKNOWN_MM
    except (AttributeError, ValueError, TypeError, IndexError):
        return UNKNOWN_MM
