import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import EnhancedCTImageStorage

from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.outputs.seg import seg_from_mask
from onfh_runtime.outputs.sr import NEGATIVE_CAVEAT, RESEARCH_ONLY, sr_from_result
from onfh_runtime.result import Report as ReportUids
from onfh_runtime.result import Result

Mask = np.ndarray[Any, Any]
_STATUS = Code("111065", "DCM", "Summary of Analyses")
_ONFH = Code("398199007", "SCT", "Osteonecrosis")


class Report:
    """A report as another program sees it: read from its file by highdicom and by pydicom."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = pydicom.dcmread(path)
        self.document = highdicom.sr.srread(path)
        self.all = list(_walk(self.raw))

    def texts(self) -> list[str]:
        return [str(item.TextValue) for item in self.all if item.ValueType == "TEXT"]

    def coded(self, name: Code) -> list[str]:
        found = [item for item in self.all if item.ValueType == "CODE" and _name(item) == name.value]
        return [_code(item.ConceptCodeSequence[0]) for item in found]

    def groups(self) -> dict[str, Any]:
        content = self.document.content
        found = [
            *content.get_image_measurement_groups(),
            *content.get_volumetric_roi_measurement_groups(),
        ]
        return {group.tracking_identifier: group for group in found}


def _walk(node: Dataset) -> Any:
    for item in node.get("ContentSequence", []):
        yield item
        yield from _walk(item)


def _code(item: Dataset) -> str:
    return str(item.get("CodeValue") or item.get("LongCodeValue"))


def _name(item: Dataset) -> str:
    return _code(item.ConceptNameCodeSequence[0])


def _numbers(group: Any) -> dict[str, tuple[float, str]]:
    return {m.name.value: (m.value, m.unit.value) for m in group.get_measurements()}


def _answer(group: Any) -> list[str]:
    return [evaluation.value.value for evaluation in group.get_qualitative_evaluations(name=_ONFH)]


def _laterality(group: Any) -> str | None:
    (site,) = group.finding_sites
    assert site.value.value == "2812003"
    return None if site.laterality is None else str(site.laterality.value)


@pytest.fixture
def read(
    bundle: Any, study_of: Callable[..., Any], stored: Callable[[Dataset], Path], errors_of: Callable[..., Any]
) -> Callable[..., Report]:
    def write(result: Result, mask: Mask | None = None) -> Report:
        images, volume = study_of()
        seg = None if mask is None else seg_from_mask(mask, volume, images, result=result, bundle=bundle)
        path = stored(sr_from_result(result, images, seg=seg, bundle=bundle))
        assert errors_of(path) == []
        return Report(path)

    return write


def test_a_positive_report_gives_every_number_exactly(
    read: Callable[..., Report], result_of: Callable[..., Result], mask: Mask
) -> None:
    result = result_of()
    report = read(result, mask)
    assert report.coded(_STATUS) == ["111222"]
    groups = report.groups()
    assert list(groups) == ["ONFH patient", "ONFH right", "ONFH left"]
    assert _numbers(groups["ONFH patient"]) == {"122157": (0.97123456789, "1"), "122411": (0.42, "1")}
    assert _answer(groups["ONFH patient"]) == ["52101004"]
    for name, side, code in (("right", result.sides.right, "24028007"), ("left", result.sides.left, "7771000")):
        group = groups[f"ONFH {name}"]
        x, y, z = side.centroid_mm
        assert _numbers(group) == {
            "118565006": (side.volume_mm3, "mm3"),
            "SLICES": (side.slices, "{slices}"),
            "CENTROID_X": (x, "mm"),
            "CENTROID_Y": (y, "mm"),
            "CENTROID_Z": (z, "mm"),
        }
        assert _answer(group) == ["52101004"]
        assert _laterality(group) == code
        assert group.finding_type == _ONFH


def test_a_side_refers_to_its_own_segment(
    read: Callable[..., Report],
    result_of: Callable[..., Result],
    mask: Mask,
    study_of: Callable[..., Any],
    bundle: Any,
) -> None:
    images, volume = study_of()
    seg = seg_from_mask(mask, volume, images, result=result_of(), bundle=bundle)
    report = read(result_of(), mask)
    for number, name in ((1, "right"), (2, "left")):
        group = report.groups()[f"ONFH {name}"]
        assert isinstance(group, highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations)
        assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        (item,) = [i for i in _walk_group(group) if _name(i) == "121191"]
        assert int(item.ReferencedSOPSequence[0].ReferencedSegmentNumber) == number
        assert group.tracking_uid == seg.SegmentSequence[number - 1].TrackingUID
    assert any(uids[2] == seg.SOPInstanceUID for uids in report.document.get_evidence())


def _walk_group(group: Any) -> list[Dataset]:
    return list(group[0].ContentSequence)


def test_every_source_image_is_in_the_library_and_in_the_evidence(
    read: Callable[..., Report], negative: Result, study_of: Callable[..., Any]
) -> None:
    uids = [image.sop_instance_uid for image in study_of()[0]]
    report = read(negative)
    listed = [item for item in report.all if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in listed] == uids
    assert [str(entry[2]) for entry in report.document.get_evidence()] == uids


def test_frames_of_one_object_are_named_by_number(
    negative: Result,
    bundle: Any,
    study_of: Callable[..., Any],
    stored: Callable[[Dataset], Path],
    errors_of: Callable[..., Any],
) -> None:
    images, _ = study_of(edit=lambda header: setattr(header, "SOPClassUID", EnhancedCTImageStorage))
    frames = [replace(images[0], frame=number) for number in (1, 2, 3)]
    path = stored(sr_from_result(negative, frames, seg=None, bundle=bundle))
    assert errors_of(path) == []
    report = Report(path)
    (listed,) = [item.ReferencedSOPSequence[0] for item in report.all if item.ValueType == "IMAGE"]
    assert (listed.ReferencedSOPInstanceUID, list(listed.ReferencedFrameNumber)) == (
        images[0].sop_instance_uid,
        [1, 2, 3],
    )
    assert [str(entry[2]) for entry in report.document.get_evidence()] == [images[0].sop_instance_uid]


def test_who_computed_it_with_what(read: Callable[..., Report], result_of: Callable[..., Result]) -> None:
    report = read(result_of())
    device = report.document.content.get_observer_contexts()[0].observer_identifying_attributes
    assert (device.name, device.serial_number, device.model_name) == ("onfh-edge", "ab" * 32, "demo 1.2")
    texts = report.texts()
    for parameter in (
        "bundle=demo 1.2",
        f"bundle_sha256={'ab' * 32}",
        "backend=onnxruntime",
        "precision=fp32",
        "patient_threshold=0.42",
        "mask_threshold=0.5",
    ):
        assert parameter in texts


def test_a_negative_report_says_absent_and_its_limits(read: Callable[..., Report], negative: Result) -> None:
    report = read(negative)
    groups = report.groups()
    assert [_answer(group) for group in groups.values()] == [["272519000"]] * 3
    assert all(group.finding_type is None for group in groups.values())
    assert report.raw.CompletionFlag == "COMPLETE"
    assert NEGATIVE_CAVEAT in report.texts()


@pytest.mark.parametrize(("status", "code"), [("not_analysed", "111225"), ("failed", "111224")])
def test_no_answer_never_reads_as_negative(
    status: str, code: str, read: Callable[..., Report], refused: Result
) -> None:
    report = read(refused.model_copy(update={"status": status}))
    assert report.coded(_STATUS) == [code]
    assert report.coded(Code("REASON", "99ONFHEDGE", "")) == ["incomplete_coverage"]
    assert report.coded(_ONFH) == []
    assert not {"272519000", "52101004"} & {
        _code(item.ConceptCodeSequence[0]) for item in report.all if item.ValueType == "CODE"
    }
    assert report.groups() == {}
    assert not [item for item in report.all if item.ValueType == "NUM"]
    text = " ".join(report.texts())
    assert "The femoral heads are cut by the field of view. [incomplete_coverage]" in text
    assert "does not say that osteonecrosis is absent" in text
    assert report.raw.CompletionFlag == "PARTIAL"


@pytest.mark.parametrize("kind", ["result_of", "negative", "refused", "one_hip"])
def test_every_report_carries_the_notices_and_warnings(
    kind: str, read: Callable[..., Report], request: pytest.FixtureRequest
) -> None:
    value = request.getfixturevalue(kind)
    result = value() if kind == "result_of" else value
    texts = read(result).texts()
    assert RESEARCH_ONLY in texts
    assert NEGATIVE_CAVEAT in texts
    assert "Trained on phantoms only." in texts
    for warning in result.warnings:
        assert f"Warning: {warning.text} [{warning.code}]" in texts


def test_a_one_sided_lesion(read: Callable[..., Report], result_of: Callable[..., Result], mask: Mask) -> None:
    sides = {"right": {"state": "negative"}, "left": {"state": "positive", "volume_mm3": 500.0, "slices": 2}}
    report = read(result_of(sides=sides), np.where(mask == 2, mask, np.uint8(0)))
    groups = report.groups()
    right, left = groups["ONFH right"], groups["ONFH left"]
    assert (_answer(right), _answer(left)) == (["272519000"], ["52101004"])
    assert not isinstance(right, highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations)
    (item,) = [i for i in _walk_group(left) if _name(i) == "121191"]
    assert int(item.ReferencedSOPSequence[0].ReferencedSegmentNumber) == 1


def test_a_side_that_was_not_analysed_has_no_group(
    read: Callable[..., Report], result_of: Callable[..., Result]
) -> None:
    reason = {"code": "head_cut", "text": "The head is cut."}
    sides = {"right": {"state": "not_analysed", "reason": reason}, "left": {"state": "positive", "volume_mm3": 500.0}}
    report = read(result_of(sides=sides))
    assert report.coded(_STATUS) == ["111223"]
    assert list(report.groups()) == ["ONFH patient", "ONFH left"]
    assert "Right femoral head: not analysed: The head is cut. [head_cut]" in report.texts()


def test_an_undetermined_side_has_no_volume(read: Callable[..., Report], result_of: Callable[..., Result]) -> None:
    reason = {"code": "no_mask", "text": "No lesion was outlined."}
    report = read(result_of(sides={side: {"state": "undetermined", "reason": reason} for side in ("right", "left")}))
    groups = report.groups()
    assert list(groups) == ["ONFH patient", "ONFH right", "ONFH left"]
    for name in ("right", "left"):
        assert _answer(groups[f"ONFH {name}"]) == ["373068000"]
        assert _numbers(groups[f"ONFH {name}"]) == {}


def test_a_lesion_of_unknown_side_has_a_volume_and_no_laterality(
    read: Callable[..., Report], one_hip: Result, mask: Mask
) -> None:
    report = read(one_hip, np.where(mask == 1, np.uint8(3), np.uint8(0)))
    groups = report.groups()
    assert list(groups) == ["ONFH patient", "ONFH undetermined"]
    lesion = groups["ONFH undetermined"]
    assert _laterality(lesion) is None
    assert _answer(lesion) == ["52101004"]
    assert _numbers(lesion) == {"118565006": (180.0, "mm3"), "SLICES": (3.0, "{slices}")}  # 3 mm x (10 + 20 + 30) mm2
    assert isinstance(lesion, highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations)
    assert not {"24028007", "7771000"} & set(report.coded(Code("272741003", "SCT", "Laterality")))


def test_a_hip_of_unknown_side_without_a_mask_is_undetermined(read: Callable[..., Report], one_hip: Result) -> None:
    lesion = read(one_hip.model_copy(update={"slices": ()})).groups()["ONFH undetermined"]
    assert _answer(lesion) == ["373068000"]
    assert _numbers(lesion) == {}


def test_the_same_content_gives_the_same_bytes_and_anything_else_another_uid(
    read: Callable[..., Report], result_of: Callable[..., Result], mask: Mask
) -> None:
    first = read(result_of(), mask)
    assert first.path.read_bytes() == read(result_of(), mask).path.read_bytes()
    later = read(result_of(created="2026-11-24T00:00:00Z"), mask)
    assert later.raw.SOPInstanceUID == first.raw.SOPInstanceUID
    uids = {first.raw.SOPInstanceUID}
    other = mask.copy()
    other[0, 0, 0] = 1
    for result, shown in ((result_of(), None), (result_of(), other), (result_of(warnings=[]), mask)):
        uids.add(read(result, shown).raw.SOPInstanceUID)
    assert len(uids) == 4


def test_images_without_any_geometry_can_be_reported_on(
    refused: Result, bundle: Any, stored: Callable[[Dataset], Path], errors_of: Callable[..., Any]
) -> None:
    header = Dataset()
    header.SOPInstanceUID = "1.2.3"
    path = stored(sr_from_result(refused, [SourceImage(Path("a"), header)], seg=None, bundle=bundle))
    assert errors_of(path) == []
    assert Report(path).coded(_STATUS) == ["111225"]


def test_a_report_names_the_one_whose_place_it_takes(
    refused: Result, bundle: Any, study_of: Any, stored: Callable[[Dataset], Path], errors_of: Callable[..., Any]
) -> None:
    images, _ = study_of()
    uids = {"study_instance_uid": "1.2", "series_instance_uid": "1.2.3", "sop_instance_uid": "1.2.3.4"}
    path = stored(sr_from_result(refused, images, seg=None, bundle=bundle, replaces=ReportUids(**uids)))
    assert errors_of(path) == []
    report = Report(path)
    (study,) = report.raw.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (shown,) = series.ReferencedSOPSequence
    named = study.StudyInstanceUID, series.SeriesInstanceUID, shown.ReferencedSOPInstanceUID
    assert (named, shown.ReferencedSOPClassUID) == (("1.2", "1.2.3", "1.2.3.4"), report.raw.SOPClassUID)
    assert "This report takes the place of an earlier one (1.2.3.4)." in report.texts()
    alone = stored(sr_from_result(refused, images, seg=None, bundle=bundle))
    assert pydicom.dcmread(alone).SOPInstanceUID != report.raw.SOPInstanceUID


def test_a_report_on_nothing_is_refused(refused: Result, bundle: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        sr_from_result(refused, [], seg=None, bundle=bundle)


def test_highdicom_loads_on_first_use_only() -> None:
    code = "import sys, onfh_runtime.outputs.sr, onfh_runtime.outputs.seg; sys.exit('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_writing_needs_can_be_loaded_before() -> None:
    code = """
import pkgutil, sys
from onfh_runtime.outputs.series_folder import get_ready
assert 'highdicom' not in sys.modules
get_ready()
pkgutil.get_data = None  # what highdicom reads its tables with
import highdicom.seg, highdicom.sr
from highdicom._standard_utils import is_attribute_in_iod
assert is_attribute_in_iod('ContentDate', '1.2.840.10008.5.1.4.1.1.66.4')
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
