"""What makes a series unfit for analysis: found from the headers alone, before a pixel is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.dicom import geometry
from onfh_runtime.dicom.codecs import CODECS_EXTRA, can_decode
from onfh_runtime.dicom.frames import ENHANCED_CLASSES, number_of_frames
from onfh_runtime.dicom.header import codes
from onfh_runtime.dicom.pixels import LOSSY_SYNTAXES, PixelFormat, syntax_name
from onfh_runtime.dicom.series import Candidate, SourceImage
from onfh_runtime.errors import SeriesError
from onfh_runtime.volume import MAX_SHEAR_MM, is_tilted

__all__ = [
    "DUPLICATE_MM",
    "MAX_SIDE",
    "MAX_SLICES",
    "MAX_VOXELS",
    "MIN_SLICES",
    "POSITION_TOLERANCE",
    "POSITION_TOLERANCE_MM",
    "SPACING_TOLERANCE",
    "check_candidate",
    "check_pixels",
]

MIN_SLICES = 3
"""Fewer images give no spacing that a third one confirms."""

MAX_SIDE = 2048
"""Rows and columns of the finest CT matrix sold; a header that claims more is damaged or hostile."""

MAX_SLICES = 5000
"""A whole body at 0.4 mm."""

MAX_VOXELS = 2**31
"""4 GiB of stored values: what a workstation can hold beside everything else."""

SPACING_TOLERANCE = 1e-3
"""Relative difference of Pixel Spacing between images: half a millimetre across the largest field of view."""

DUPLICATE_MM = 0.01
"""Positions nearer than this are one position: no CT reconstructs so finely."""

POSITION_TOLERANCE_MM = 0.1
"""Positions written with one decimal are off the even grid by 0.05 mm each; that misplaces nothing visible."""

POSITION_TOLERANCE = 0.05
"""The same, as a fraction of the slice spacing, for thick slices."""

HOLE = 1.5
"""A gap of so many spacings holds a missing slice."""

NOT_TISSUE_HU = -900.0
"""Padding stored as air or below cannot be confused with tissue."""

MOST_HU = 31000.0
"""Nor can what is denser than any metal: the extended CT scale ends at 30,710 HU."""

_NOT_HU_TERMS = frozenset(
    {
        *("MAT_SPECIFIC", "MAT_REMOVED", "MAT_FRACTIONAL", "MAT_MODIFIED", "MAT_VALUE_BASED"),
        *("EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "IODINE", "VNC", "RHO", "ZEFF"),
        *("MIP", "MINIP", "MAXIP", "MAX_IP", "MIN_IP"),
        *("MAXIMUM", "MINIMUM", "STD_DEVIATION", "SUBTRACTION", "DIVISION", "MULTIPLICATION", "QUANTITY"),
    }
)
"""Image Type terms of material images (multi-energy CT, DICOM Supplement 188, and vendors' own), of projections, and of
derived pixel contrasts of enhanced CT that are not HU (PS3.3, C.8.16.2.1.4)."""

_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_IMAGE_TYPE = 0x00080008
_PATIENT_ID = 0x00100020
_FRAME_OF_REFERENCE = 0x00200052
_RESCALE_TYPE = 0x00281054
_LOSSY = 0x00282110
_MODALITY_LUT = 0x00283000

_FIX_ORIGINAL = "Send the original series from the scanner or the PACS."
_FIX_COMPLETE = "Send the complete series again."
_FIX_PLANE = "Send an axial series without tilt, or a coronal reformat."


def check_candidate(candidate: Candidate) -> tuple[tuple[str, str], ...]:
    """Refuse a series whose analysis could be silently wrong.

    Returns:
        (code, text) warnings: ``lossy_compression``, ``missing_frame_of_reference``, ``missing_sop_class``,
        ``mixed_frame_of_reference``, ``oblique``, ``padding_in_tissue_range``, ``tilt_resampled``.

    Raises:
        SeriesError: ``duplicate_position``, ``duplicate_uid``, ``gantry_tilt``, ``missing_attribute``,
            ``missing_position``, ``missing_slice``, ``mixed_orientation``, ``mixed_patient``, ``mixed_pixels``,
            ``mixed_size``, ``mixed_spacing``, ``multiframe``, ``not_hounsfield``, ``shifted_slice``, ``size_limit``,
            ``too_few_slices``, ``unsupported_orientation``, ``unsupported_pixels``, ``unsupported_transfer_syntax`` or
            ``variable_spacing``.
    """
    images = candidate.images
    formats = [image.form for image in images]
    _check_count(images)
    check_pixels(images)
    _check_hounsfield(images, formats)
    _check_planes(images)
    tilted = _check_stack(images)
    return (*_warnings(images, formats), *_turned(images, tilted))


def check_pixels(images: Sequence[SourceImage]) -> None:
    """Refuse images whose pixels cannot be decoded into arrays of one kind, or not safely.

    Raises:
        SeriesError: ``missing_attribute``, ``mixed_pixels``, ``mixed_size``, ``size_limit``, ``unsupported_pixels`` or
            ``unsupported_transfer_syntax``.
    """
    formats = [image.form for image in images]
    _check_storage(images, formats)
    _check_size(images, formats)


def _check_count(images: Sequence[SourceImage]) -> None:
    many = [i for i in images if i.frame is None and (number_of_frames(i.header) != 1 or _is_enhanced(i))]
    if many:
        raise SeriesError(
            "multiframe",
            f"{_some(many, images)} hold several frames and do not say for each where it is and how it is scaled.",
            "Export the series as one CT Image object per slice.",
        )
    if len(images) < MIN_SLICES:
        raise SeriesError(
            "too_few_slices",
            f"The series has {len(images)} image(s), and at least {MIN_SLICES} are needed.",
            _FIX_COMPLETE,
        )
    instances = {(codes(image.header, _SOP_INSTANCE), image.frame) for image in images}
    if len(instances) < len(images):
        raise SeriesError(
            "duplicate_uid",
            f"{len(images)} images at different positions share {len(instances)} SOP Instance UIDs.",
            _FIX_ORIGINAL,
        )
    if len({codes(image.header, _PATIENT_ID) for image in images}) > 1:
        raise SeriesError("mixed_patient", "The images of the series belong to different Patient IDs.", _FIX_ORIGINAL)


def _check_storage(images: Sequence[SourceImage], formats: Sequence[PixelFormat]) -> None:
    for syntax in sorted({form.syntax for form in formats}):
        if not can_decode(syntax):
            raise SeriesError(
                "unsupported_transfer_syntax",
                f"The images are stored in {syntax_name(syntax)}, which this installation cannot decode.",
                "Send the series uncompressed"
                + (", or install the decoders: pip install 'onfh-edge[codecs]'." if syntax in CODECS_EXTRA else "."),
            )
    for image, form in zip(images, formats, strict=True):
        if missing := form.missing():
            raise SeriesError("missing_attribute", f"{image.label} has no usable {missing[0]}.", _FIX_ORIGINAL)
    _refuse(images, formats, lambda f: f.samples != 1, "unsupported_pixels", "more than one sample per pixel")
    _refuse(images, formats, lambda f: f.bits_allocated != 16, "unsupported_pixels", "pixels that are not 16 bits wide")
    _refuse(
        images, formats, lambda f: f.photometric != "MONOCHROME2", "unsupported_pixels", "pixels other than MONOCHROME2"
    )
    _refuse(
        images,
        formats,
        lambda f: not 1 <= (f.bits_stored or 0) <= 16 or f.high_bit != (f.bits_stored or 0) - 1,
        "unsupported_pixels",
        "Bits Stored and High Bit that contradict each other",
    )
    if len({form.signed for form in formats}) > 1:
        raise SeriesError("mixed_pixels", "Some images have signed pixels, others unsigned ones.", _FIX_ORIGINAL)
    if len({form.padding for form in formats if form.padding is not None}) > 1:
        raise SeriesError("mixed_pixels", "The Pixel Padding Value differs between images.", _FIX_ORIGINAL)


def _check_size(images: Sequence[SourceImage], formats: Sequence[PixelFormat]) -> None:
    rows, columns = formats[0].rows or 0, formats[0].columns or 0
    for form in formats:
        if not (1 <= (form.rows or 0) <= MAX_SIDE and 1 <= (form.columns or 0) <= MAX_SIDE):
            raise SeriesError(
                "size_limit",
                f"An image of {form.rows} x {form.columns} pixels is outside 1 to {MAX_SIDE} pixels a side.",
            )
    if len(images) > MAX_SLICES or len(images) * rows * columns > MAX_VOXELS:
        raise SeriesError(
            "size_limit",
            f"{len(images)} images of {rows} x {columns} pixels exceed {MAX_SLICES} images or {MAX_VOXELS} voxels.",
        )
    for image, form in zip(images, formats, strict=True):
        if (form.rows, form.columns) != (rows, columns):
            raise SeriesError(
                "mixed_size",
                f"{image.label} has {form.rows} x {form.columns} pixels, {images[0].label} {rows} x {columns}.",
                _FIX_ORIGINAL,
            )


def _check_hounsfield(images: Sequence[SourceImage], formats: Sequence[PixelFormat]) -> None:
    fix = "Send a series in Hounsfield units."
    for image, form in zip(images, formats, strict=True):
        kind = codes(image.header, _RESCALE_TYPE)
        if kind and kind[0].upper() != "HU":
            raise SeriesError(
                "not_hounsfield", f"The pixels of {image.label} are in {kind[0]!r}, not in Hounsfield units.", fix
            )
        for value in codes(image.header, _IMAGE_TYPE):
            if _NOT_HU_TERMS & {value.upper(), *re.split(r"[^A-Z0-9]+", value.upper())}:
                raise SeriesError(
                    "not_hounsfield",
                    f"{image.label} is a derived map or projection (Image Type {value!r}), not plain CT.",
                    fix,
                )
        if not form.slope or _MODALITY_LUT in image.header:
            raise SeriesError(
                "not_hounsfield",
                f"{image.label} has a Rescale Slope of zero or a Modality LUT, so its values are not linear in HU.",
                fix,
            )


def _check_planes(images: Sequence[SourceImage]) -> None:
    """Orientation and pixel spacing: the same in every image, and near axial or coronal."""
    geometry.positions_of(images)
    iop = geometry.orientations_of(images)
    off = np.abs(iop - iop[0]).max(axis=1)
    if off.max() > geometry.UNIT_TOLERANCE:
        raise SeriesError(
            "mixed_orientation",
            f"{images[int(off.argmax())].label} and {images[0].label} have different orientations.",
            _FIX_ORIGINAL,
        )
    spacing = geometry.spacings_of(images)
    off = np.abs(spacing / spacing[0] - 1).max(axis=1)
    if off.max() > SPACING_TOLERANCE:
        worst = int(off.argmax())
        raise SeriesError(
            "mixed_spacing",
            f"{images[worst].label} has pixels of {_size(spacing[worst])} mm, "
            f"{images[0].label} of {_size(spacing[0])} mm.",
            _FIX_ORIGINAL,
        )
    plane, angle = geometry.orientation_of(iop[0]), geometry.obliquity_deg(iop[0])
    if plane not in ("axial", "coronal"):
        what = "sagittal" if plane == "sagittal" else f"{angle:.0f} degrees away from every patient plane"
        raise SeriesError(
            "unsupported_orientation", f"The slices are {what}; axial and coronal ones are analysed.", _FIX_PLANE
        )


def _check_stack(images: Sequence[SourceImage]) -> bool:
    """One even, straight, complete stack of slices; whether a tilted gantry made it."""
    images, along = geometry.order_along_normal(images)
    gaps = np.diff(along)
    if gaps.min() < DUPLICATE_MM:
        first = int(gaps.argmin())
        raise SeriesError(
            "duplicate_position",
            f"{images[first].label} and {images[first + 1].label} are both at {along[first]:.1f} mm.",
            "Send one reconstruction per series.",
        )
    tilted = is_tilted(geometry.series_affine(images), len(images))
    _check_gaps(along, gaps)
    positions = geometry.positions_of(images)
    line = positions[0] + np.linspace(0, 1, len(images))[:, None] * (positions[-1] - positions[0])
    normal = geometry.slice_normal(geometry.orientations_of(images[:1])[0])
    off = positions - line
    sideways = np.linalg.norm(off - (off @ normal)[:, None] * normal, axis=1)
    if sideways.max() > MAX_SHEAR_MM:
        worst = int(sideways.argmax())
        raise SeriesError(
            "shifted_slice",
            f"{images[worst].label} at {along[worst]:.1f} mm is shifted sideways by {sideways[worst]:.1f} mm.",
            _FIX_ORIGINAL,
        )
    return tilted


def _check_gaps(along: NDArray[np.float64], gaps: NDArray[np.float64]) -> None:
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    holes = np.flatnonzero(gaps > HOLE * usual)
    if len(holes):
        where = int(holes[0])
        more = f" (and at {len(holes) - 1} more places)" if len(holes) > 1 else ""
        raise SeriesError(
            "missing_slice",
            f"Between slices at {along[where]:.1f} mm and {along[where + 1]:.1f} mm{more} one or more slices are "
            f"missing (spacing is {usual:.1f} mm elsewhere).",
            _FIX_COMPLETE,
        )
    even = np.linspace(along[0], along[-1], len(along))
    off = float(np.abs(along - even).max())
    if off > max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * usual):
        raise SeriesError(
            "variable_spacing",
            f"The distance between slices varies from {gaps.min():.2f} mm to {gaps.max():.2f} mm, "
            f"which puts a slice {off:.2f} mm off an even grid.",
            "Send a reconstruction with one slice spacing.",
        )


def _warnings(images: Sequence[SourceImage], formats: Sequence[PixelFormat]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    lossy = [
        image
        for image, form in zip(images, formats, strict=True)
        if form.syntax in LOSSY_SYNTAXES or codes(image.header, _LOSSY) == ("01",)
    ]
    if lossy:
        found.append(("lossy_compression", f"{_some(lossy, images)} were compressed with loss."))
    frames = {codes(image.header, _FRAME_OF_REFERENCE) for image in images}
    if frames == {()}:
        found.append(("missing_frame_of_reference", "The images have no Frame of Reference UID."))
    elif len(frames) > 1:
        text = f"The images name {len(frames)} different frames of reference; their positions are taken as one."
        found.append(("mixed_frame_of_reference", text))
    classless = [image for image in images if not codes(image.header, _SOP_CLASS)]
    if classless:
        text = f"{_some(classless, images)} have no SOP Class UID and were taken as CT by their modality."
        found.append(("missing_sop_class", text))
    for form in formats:
        if form.padding is not None and form.slope is not None and form.intercept is not None:
            hu = max(value * form.slope + form.intercept for value in form.padding)
            if NOT_TISSUE_HU < hu <= MOST_HU:
                text = f"Voxels of {hu:.0f} HU are declared as padding and were taken as air."
                found.append(("padding_in_tissue_range", text))
                break
    return found


def _turned(images: Sequence[SourceImage], tilted: bool) -> list[tuple[str, str]]:
    """How the analysed slices differ from the patient's planes, and whether they had to be interpolated."""
    iop = geometry.orientations_of(images[:1])[0]
    plane, angle = geometry.orientation_of(iop), geometry.obliquity_deg(iop)
    found = []
    if tilted:
        images, _ = geometry.order_along_normal(images)
        tilt, _ = geometry.tilt_deg(images)
        text = f"The gantry was tilted by {tilt:.1f} degrees; the coronal slices are interpolated upright."
        found.append(("tilt_resampled", text))
        ends = geometry.positions_of((images[0], images[-1]))
        # The slices that are analysed run along the table, whatever the plane of the stored ones.
        plane, angle = "coronal", geometry.from_axis_deg(ends[1] - ends[0])
    if angle >= geometry.MIN_OBLIQUITY_DEG:
        found.append(("oblique", f"The slices are {angle:.1f} degrees away from the {plane} plane."))
    return found


def _refuse(
    images: Sequence[SourceImage],
    formats: Sequence[PixelFormat],
    bad: Callable[[PixelFormat], bool],
    code: str,
    what: str,
) -> None:
    found = [image for image, form in zip(images, formats, strict=True) if bad(form)]
    if found:
        raise SeriesError(code, f"{_some(found, images)} have {what}.", _FIX_ORIGINAL)


def _some(found: Sequence[SourceImage], images: Sequence[SourceImage]) -> str:
    return f"{len(found)} of {len(images)} images (the first is {found[0].label})"


def _size(spacing: NDArray[np.float64]) -> str:
    return f"{spacing[0]:.4g} x {spacing[1]:.4g}"


def _is_enhanced(image: SourceImage) -> bool:
    return not ENHANCED_CLASSES.isdisjoint(codes(image.header, _SOP_CLASS))
