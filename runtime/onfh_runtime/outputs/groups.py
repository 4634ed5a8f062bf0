"""The measurement groups of the report: one for the patient, one for each side that was analysed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from onfh_runtime.bundle import Bundle
from onfh_runtime.outputs import codes
from onfh_runtime.outputs.seg import tracking
from onfh_runtime.result import Result, Side

__all__ = ["SIDE_AMBIGUOUS", "measurement_groups"]

SIDE_AMBIGUOUS = "side_ambiguous"
"""Code of the warning that the side cannot be told (a single hip, a cropped view)."""


def measurement_groups(result: Result, seg: Dataset | None, bundle: Bundle) -> list[Any]:
    """Measurement groups (highdicom templates) of a result; none unless it succeeded.

    A side whose segment is in ``seg`` gets a Volumetric ROI group (TID 1411) that refers to it, everything else a
    plain one (TID 1501). A side that was not analysed gets none. "Finding" says osteonecrosis only where it is present,
    so that no reader takes the name of the question for an answer.
    """
    if result.status != "succeeded" or result.patient is None:
        return []
    patient = result.patient
    segments = {} if seg is None else dict(_segments(seg))
    numbers = [
        (codes.PROBABILITY, patient.probability, codes.NO_UNITS),
        (codes.THRESHOLD, patient.threshold, codes.NO_UNITS),
    ]
    groups = [_group(result, bundle, "patient", patient.state, numbers, None)]
    if result.sides is None:
        return groups
    if _ambiguous(result):
        side = _side_unknown(result, "undetermined" in segments)
        return [*groups, _side_group(result, bundle, "undetermined", side, seg, segments)]
    return groups + [
        _side_group(result, bundle, name, side, seg, segments)
        for name, side in result.sides
        if side.state != "not_analysed"
    ]


def _ambiguous(result: Result) -> bool:
    assert result.sides is not None
    return any(note.code == SIDE_AMBIGUOUS for note in result.warnings) and (
        result.sides.right.state == result.sides.left.state == "undetermined"
    )


def _side_unknown(result: Result, has_segment: bool) -> Side:
    """What is said of the one hip whose side cannot be told: the patient's answer, measured on the coronal slices."""
    assert result.patient is not None
    areas = [item.area_mm2 for item in result.slices]
    positions = [item.position_mm for item in result.slices]
    step = float(np.median(np.abs(np.diff(positions)))) if len(positions) > 1 else 0.0
    volume = sum(areas) * step
    state = result.patient.state
    if state == "positive" and not (has_segment or volume):
        state = "undetermined"
    return Side(state=state, volume_mm3=volume, slices=sum(area > 0 for area in areas))


def _side_group(
    result: Result, bundle: Bundle, name: str, side: Side, seg: Dataset | None, segments: dict[str, int]
) -> Any:
    numbers: list[tuple[Code, float, Code]] = []
    # an undetermined side without a mask was not measured: a volume of zero would read as a negative finding
    if side.state != "undetermined" or side.volume_mm3 > 0:
        numbers.append((codes.VOLUME, side.volume_mm3, codes.VOLUME_UNIT))
        numbers.append((codes.SLICE_COUNT, side.slices, codes.SLICES_UNIT))
    if side.centroid_mm is not None:
        centroid = zip(codes.CENTROID, side.centroid_mm, strict=True)
        numbers += [(code, value, codes.MILLIMETER) for code, value in centroid]
    segment = None if seg is None or name not in segments else (seg, segments[name])
    return _group(result, bundle, name, side.state, numbers, segment)


def _group(
    result: Result,
    bundle: Bundle,
    name: str,
    state: str,
    numbers: list[tuple[Code, float, Code]],
    segment: tuple[Dataset, int] | None,
) -> Any:
    from highdicom import sr

    identifier, uid = tracking(result, name)
    shared: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=uid, identifier=identifier),
        "finding_type": codes.OSTEONECROSIS if state == "positive" else None,
        "finding_sites": [sr.FindingSite(codes.HEAD_OF_FEMUR, laterality=codes.LATERALITY.get(name))],
        "algorithm_id": sr.AlgorithmIdentification(
            name=result.software.name, version=result.software.version, parameters=_parameters(result, bundle)
        ),
        "measurements": [sr.Measurement(name=what, value=value, unit=unit) for what, value, unit in numbers],
        "qualitative_evaluations": [sr.QualitativeEvaluation(codes.OSTEONECROSIS, codes.PRESENCE[state])],
    }
    if segment is None:
        return sr.MeasurementsAndQualitativeEvaluations(**shared)
    seg, number = segment
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(result.series_instance_uid),
        ),
        **shared,
    )


def _parameters(result: Result, bundle: Bundle) -> list[str]:
    return [
        f"bundle={bundle.name} {bundle.version}",
        f"bundle_sha256={result.bundle.sha256}",
        f"backend={result.engine.backend}",
        f"precision={result.engine.precision}",
        f"device={result.engine.device}",
        f"patient_threshold={bundle.patient_rule.threshold}",
        f"slice_threshold={bundle.slice_threshold}",
        f"mask_threshold={bundle.mask_threshold}",
        f"minimum_component_mm3={bundle.minimum_component_mm3}",
        f"minimum_volume_mm3={bundle.minimum_volume_mm3}",
    ]


def _segments(seg: Dataset) -> Iterator[tuple[str, int]]:
    """(side, segment number) of every segment, by the laterality code of its anatomic region."""
    sides = {code.value: side for side, code in codes.LATERALITY.items()}
    for segment in seg.SegmentSequence:
        modifiers = segment.AnatomicRegionSequence[0].get("AnatomicRegionModifierSequence") or []
        yield (sides[str(modifiers[0].CodeValue)] if modifiers else "undetermined"), int(segment.SegmentNumber)
