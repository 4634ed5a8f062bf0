"""Which series of a study are analysed, and which of them is preferred: the rules of a bundle, applied to headers.

A rule is a choice, not a fault, so a series it leaves out is listed as skipped. What is wrong with a series is said by
:mod:`onfh_runtime.dicom.check`: a series whose geometry cannot be read passes here and is refused there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from onfh_runtime.bundle import SeriesRules
from onfh_runtime.dicom import geometry
from onfh_runtime.dicom.header import codes, decimals
from onfh_runtime.dicom.series import Candidate, Skipped
from onfh_runtime.errors import SeriesError

__all__ = ["by_preference", "eligible", "preference"]

UNKNOWN_MM = 100.0
"""Sorts a series whose geometry cannot be read behind every other; the reader will refuse it by name."""

_THICKNESS = 0x00180050
_KERNEL = 0x00181210


@dataclass(frozen=True)
class _Shape:
    """What rules ask of a series: its plane, the largest side of its pixels and the distance of its slices in mm."""

    plane: str
    pixel_mm: float
    spacing_mm: float

    @property
    def coronal_pixel_mm(self) -> float:
        """What a reader of coronal slices sees is limited by the coarser side of a coronal pixel."""
        return self.pixel_mm if self.plane == "coronal" else max(self.pixel_mm, self.spacing_mm)


def eligible(candidates: list[Candidate], rules: SeriesRules) -> tuple[list[Candidate], list[Skipped]]:
    """Part candidates into those to analyse and those the rules leave out.

    Returns:
        The candidates that stay, and the others with their code: ``excluded_plane``, ``excluded_spacing``,
        ``excluded_thickness``, ``excluded_coverage`` or ``excluded_kernel``.
    """
    chosen, left_out = [], []
    for candidate in candidates:
        reason = _excluded(candidate, rules)
        if reason is None:
            chosen.append(candidate)
            continue
        left_out.append(
            Skipped(
                candidate.study_instance_uid,
                candidate.series_instance_uid,
                candidate.description,
                len(candidate.images),
                *reason,
                part=candidate.part,
            )
        )
    return chosen, left_out


def by_preference(candidates: list[Candidate], rules: SeriesRules) -> list[Candidate]:
    """Candidates of one study, best first by the rules; then by UID and part, so that the order is always the same."""
    return sorted(candidates, key=lambda candidate: preference(candidate, rules))


def _excluded(candidate: Candidate, rules: SeriesRules) -> tuple[str, str] | None:
    """(code, text) of the first rule that leaves a series out, or None."""
    kernel = _kernel(candidate)
    if any(re.search(pattern, kernel, re.IGNORECASE) for pattern in rules.refused_kernels):
        return "excluded_kernel", f"The bundle leaves out series of the kernel {kernel}."
    shape = _shape(candidate)
    if shape is None:
        return None
    if shape.plane in ("axial", "coronal", "sagittal") and shape.plane not in rules.planes:
        return "excluded_plane", f"The slices are {shape.plane}; the bundle takes {' and '.join(rules.planes)} ones."
    if shape.spacing_mm > rules.max_slice_spacing_mm:
        text = f"The slices are {shape.spacing_mm:.1f} mm apart; the bundle takes {rules.max_slice_spacing_mm:g} mm."
        return "excluded_spacing", text
    thickness = max((_thickness_mm(image.header) for image in candidate.images), default=0.0)
    if rules.max_thickness_mm is not None and thickness > rules.max_thickness_mm:
        text = f"The slices are {thickness:.1f} mm thick; the bundle takes {rules.max_thickness_mm:g} mm at most."
        return "excluded_thickness", text
    coverage = shape.spacing_mm * len(candidate.images)
    if coverage < rules.min_coverage_mm:
        text = f"The slices cover {coverage:.0f} mm; the bundle takes {rules.min_coverage_mm:g} mm and more."
        return "excluded_coverage", text
    return None


def preference(candidate: Candidate, rules: SeriesRules) -> tuple[float | str, ...]:
    """What a candidate is sorted by: the least of its study is preferred."""
    shape = _shape(candidate)
    kernel = _kernel(candidate)
    wanted = [k for k, pattern in enumerate(rules.preferred_kernels) if re.search(pattern, kernel, re.IGNORECASE)]
    plane = shape.plane if shape is not None else ""
    criteria = {
        "kernel": wanted[0] if wanted else len(rules.preferred_kernels),
        "plane": next((k for k, name in enumerate(rules.planes) if name == plane), len(rules.planes)),
        "coronal_pixel": round(shape.coronal_pixel_mm if shape is not None else UNKNOWN_MM, 1),
        "images": -len(candidate.images),
    }
    return (*(criteria[name] for name in rules.prefer), candidate.series_instance_uid, candidate.part or 0)


def _shape(candidate: Candidate) -> _Shape | None:
    """None where the geometry cannot be read, differs between images, or is that of a single image."""
    images = candidate.images
    try:
        planes = {geometry.orientation_of(iop) for iop in np.unique(geometry.orientations_of(images), axis=0)}
        _, along = geometry.order_along_normal(images)
        pixel = float(geometry.spacings_of(images).max())
    except SeriesError:
        return None
    if len(planes) > 1 or len(images) < 2:
        return None
    return _Shape(planes.pop(), pixel, float(np.median(np.diff(along))))


def _thickness_mm(header: Dataset) -> float:
    stated = decimals(header, _THICKNESS, 1)
    return 0.0 if stated is None else stated[0]


def _kernel(candidate: Candidate) -> str:
    """Convolution Kernel of the series; images of two kernels are never in one candidate."""
    return "/".join(codes(candidate.images[0].header, _KERNEL))
