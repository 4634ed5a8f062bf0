"""The answer as a DICOM Structured Report: Imaging Measurement Report (TID 1500), made for every outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, CTImageStorage

from onfh_runtime.bundle import Bundle
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.outputs import codes
from onfh_runtime.outputs.groups import measurement_groups
from onfh_runtime.outputs.seal import DRAFT_UID, seal
from onfh_runtime.outputs.source import adopt, blank, equipment, fit, reference_to, references, series_number
from onfh_runtime.outputs.uids import result_uid
from onfh_runtime.result import Note, Report, Result, Side

__all__ = ["NEGATIVE_CAVEAT", "RESEARCH_ONLY", "sr_from_result"]

RESEARCH_ONLY = "Research use only, not for diagnosis."
NEGATIVE_CAVEAT = "A negative CT does not exclude early ONFH (ARCO stage 1 is normal on CT)."
_NO_ANSWER = "No answer was given: this report does not say that osteonecrosis is absent."
_WORDS = {"positive": "present", "negative": "absent", "undetermined": "undetermined", "not_analysed": "not analysed"}


def sr_from_result(
    result: Result,
    images: Sequence[SourceImage],
    *,
    seg: Dataset | None,
    bundle: Bundle,
    replaces: Report | None = None,
) -> Dataset:
    """The report of one series: a Comprehensive 3D SR, also for negative, undetermined, refused and failed series.

    A result that is not ``succeeded`` has a processing status, a reason and no measurement group, so nothing in it can
    be read as negative.

    Args:
        result: what is said of the series.
        images: the source images, in any order; their headers need no geometry.
        seg: what :func:`onfh_runtime.outputs.seg.seg_from_mask` made of the same result, or None.
        bundle: what computed it.
        replaces: the earlier report whose place it takes, in words and in the Predecessor Documents Sequence.

    Returns:
        The dataset with its file meta information, ready for ``save_as(..., enforce_file_format=True)``.

    Raises:
        ValueError: there is no source image to report on.
    """
    import highdicom
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    if not images:
        raise ValueError("A report needs at least one source image.")
    header = images[0].header
    texts = _statements(result, bundle, replaces)
    first = reference_to(result, str(header.get("SOPClassUID") or CTImageStorage), images[0].sop_instance_uid)
    blank(first)
    report: Dataset = highdicom.sr.Comprehensive3DSR(
        evidence=[first] if seg is None else [first, seg],
        content=_document(result, texts, measurement_groups(result, seg, bundle)),
        series_instance_uid=DRAFT_UID,
        series_number=series_number("sr", header),
        sop_instance_uid=DRAFT_UID,
        instance_number=1,
        is_complete=result.status == "succeeded",
        is_final=False,
        is_verified=False,
        series_description="ONFH report, research use only",
        coding_schemes=[
            CodingSchemeIdentificationItem(
                codes.PRIVATE_SCHEME, name="onfh-edge concepts", responsible_organization="onfh-edge"
            )
        ],
        **equipment(result),
    )
    _list_images(report, result, images, seg)
    if replaces is not None:
        report.PredecessorDocumentsSequence = [_predecessor(replaces)]
    said = [text for _, text in texts]
    adopt(report, header, [*said, bundle.name, bundle.version, result.engine.device])
    seal([report], "sr", result=result, images=images)
    return report


def _document(result: Result, texts: list[tuple[Code, str]], groups: list[Any]) -> Any:
    """The content tree; highdicom's MeasurementReport cannot say anything without a measurement."""
    from highdicom import sr

    contains = sr.RelationshipTypeValues.CONTAINS
    root = sr.ContainerContentItem(name=codes.REPORT, template_id="1500")
    root.ContentSequence = sr.ContentSequence()
    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=result_uid("device", result.software.name, result.software.version, result.bundle.sha256),
        name=result.software.name,
        manufacturer_name=result.software.name,
        model_name=f"{result.bundle.name} {result.bundle.version}",
        serial_number=result.bundle.sha256,
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=Code("121007", "DCM", "Device"), observer_identifying_attributes=observer
        )
    )
    root.ContentSequence.extend(
        sr.LanguageOfContentItemAndDescendants(Code("en-US", "RFC5646", "English (United States)"))
    )
    root.ContentSequence.extend(context)
    root.ContentSequence.append(
        sr.CodeContentItem(
            name=Code("121058", "DCM", "Procedure Reported"),
            value=codes.COMPUTED_TOMOGRAPHY,
            relationship_type=sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    if groups:
        measurements = sr.ContainerContentItem(
            name=Code("126010", "DCM", "Imaging Measurements"), relationship_type=contains
        )
        measurements.ContentSequence = sr.ContentSequence([item for group in groups for item in group])
        root.ContentSequence.append(measurements)
    evaluations = sr.ContainerContentItem(name=codes.EVALUATIONS, relationship_type=contains)
    evaluations.ContentSequence = sr.ContentSequence(
        [
            *(
                sr.CodeContentItem(name=name, value=value, relationship_type=contains)
                for name, value in _evaluations(result)
            ),
            *(sr.TextContentItem(name=name, value=text, relationship_type=contains) for name, text in texts),
        ]
    )
    root.ContentSequence.append(evaluations)
    return root


def _list_images(report: Dataset, result: Result, images: Sequence[SourceImage], seg: Dataset | None) -> None:
    """Name every source image: in an image library (TID 1600, the least it may hold) and as evidence.

    Plain datasets, put in afterwards: highdicom checks and copies every item of the tree, 2 ms an image.
    """
    evidence = Dataset()
    evidence.StudyInstanceUID = result.study_instance_uid
    evidence.ReferencedSeriesSequence = [_series(result.series_instance_uid, references(images, frames=False))]
    if seg is not None:
        shown = Dataset()
        shown.ReferencedSOPClassUID, shown.ReferencedSOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
        evidence.ReferencedSeriesSequence.append(_series(seg.SeriesInstanceUID, [shown]))
    report.CurrentRequestedProcedureEvidenceSequence = [evidence]
    if "PertinentOtherEvidenceSequence" in report:  # where highdicom before 0.27 puts what the tree does not name
        del report.PertinentOtherEvidenceSequence
    modality = _item("CODE", "HAS ACQ CONTEXT", Code("121139", "DCM", "Modality"))
    modality.ConceptCodeSequence = [_coded(Code("CT", "DCM", "Computed Tomography"))]
    members = [modality]
    for item in references(images):
        member = _item("IMAGE", "CONTAINS", Code("260753009", "SCT", "Source"))
        member.ReferencedSOPSequence = [item]
        members.append(member)
    library = _item("CONTAINER", "CONTAINS", Code("111028", "DCM", "Image Library"))
    group = _item("CONTAINER", "CONTAINS", Code("126200", "DCM", "Image Library Group"))
    library.ContinuityOfContent = group.ContinuityOfContent = "CONTINUOUS"
    library.ContentSequence, group.ContentSequence = [group], members
    content = report.ContentSequence
    before = next(index for index, item in enumerate(content) if item.RelationshipType == "CONTAINS")
    report.ContentSequence = [*content[:before], library, *content[before:]]


def _predecessor(report: Report) -> Dataset:
    shown = Dataset()
    shown.ReferencedSOPClassUID, shown.ReferencedSOPInstanceUID = Comprehensive3DSRStorage, report.sop_instance_uid
    study = Dataset()
    study.StudyInstanceUID = report.study_instance_uid
    study.ReferencedSeriesSequence = [_series(report.series_instance_uid, [shown])]
    return study


def _series(uid: str, objects: list[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = uid, objects
    return series


def _item(value_type: str, relationship: str, name: Code) -> Dataset:
    item = Dataset()
    item.ValueType, item.RelationshipType, item.ConceptNameCodeSequence = value_type, relationship, [_coded(name)]
    return item


def _coded(code: Code) -> Dataset:
    coded = Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return coded


def _evaluations(result: Result) -> list[tuple[Code, Code]]:
    """Coded statements on the whole series: the processing status and, where there is no answer, why."""
    if result.status == "succeeded":
        sides = [] if result.sides is None else [result.sides.right, result.sides.left]
        partial = any(side.state == "not_analysed" for side in sides)
        return [(codes.STATUS, codes.STATUS_PARTIAL if partial else codes.STATUS_SUCCEEDED)]
    failed = result.status == "failed"
    statements = [(codes.STATUS, codes.STATUS_FAILED if failed else codes.STATUS_NOT_ATTEMPTED)]
    if result.reason is not None:
        meaning = fit(result.reason.code.replace("_", " "))
        statements.append((codes.REASON, Code(result.reason.code, codes.PRIVATE_SCHEME, meaning)))
    return statements


def _statements(result: Result, bundle: Bundle, replaces: Report | None) -> list[tuple[Code, str]]:
    """Every sentence of the report, as (concept name, text)."""
    statements = [(codes.IMPRESSION, _impression(result))]
    comments = []
    if replaces is not None:
        comments.append(f"This report takes the place of an earlier one ({replaces.sop_instance_uid}).")
    if result.status != "succeeded":
        comments.append(_NO_ANSWER)
    if result.sides is not None:
        comments += [_side_sentence(name, side) for name, side in result.sides]
    comments += [f"Warning: {_told(note)}" for note in result.warnings]
    comments += [NEGATIVE_CAVEAT, *bundle.notices, RESEARCH_ONLY]
    return statements + [(codes.COMMENT, comment) for comment in comments]


def _impression(result: Result) -> str:
    if result.status == "succeeded" and result.patient is not None:
        patient = result.patient
        return (
            f"Osteonecrosis of the femoral head: {_WORDS[patient.state]} "
            f"(probability {patient.probability:.6g}, threshold {patient.threshold:.6g})."
        )
    outcome = {"failed": "The analysis failed", "not_analysed": "Not analysed"}.get(result.status, "Undetermined")
    return f"{outcome}: {_told(result.reason)}" if result.reason is not None else f"{outcome}."


def _side_sentence(name: str, side: Side) -> str:
    sentence = f"{name.capitalize()} femoral head: {_WORDS[side.state]}"
    if side.reason is not None:
        return f"{sentence}: {_told(side.reason)}"
    return f"{sentence}, lesion volume {side.volume_mm3:.0f} mm3." if side.state == "positive" else f"{sentence}."


def _told(note: Note) -> str:
    return f"{note.text} [{note.code}]"
