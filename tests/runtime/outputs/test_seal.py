"""The house rule of UIDs, asked of real objects: equal UIDs mean equal data sets, times apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from onfh_runtime.outputs.secondary_capture import captures_from_mask
from onfh_runtime.outputs.seg import seg_from_mask
from onfh_runtime.outputs.sr import sr_from_result
from onfh_runtime.result import Result

_TIMES = [f"{event}{what}" for event in ("InstanceCreation", "Series", "Content") for what in ("Date", "Time")]
_ENGINE = {"backend": "onnxruntime", "precision": "fp32", "device": "CPU"}
_CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "later": {"created": "2026-12-24T00:00:00Z", "timing_ms": {"total": 9.0}, "preferred": True},
    "another threshold": {"patient": {"state": "positive", "probability": 0.97123456789, "threshold": 0.43}},
    "another warning": {"warnings": []},
    "another device": {"engine": {**_ENGINE, "device": "another"}},
    "another precision": {"engine": {**_ENGINE, "precision": "fp16"}},
    "another bundle": {"bundle": {"name": "demo", "version": "1.2", "sha256": "cd" * 32}},
    "another release": {"software": {"name": "onfh-edge", "version": "0.2.0"}},
}


def _bytes(item: Dataset, but: tuple[str, ...]) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    left = Dataset({element.tag: element for element in item if element.keyword not in but})
    write_dataset(buffer, left)
    return buffer.getvalue()


@pytest.fixture
def objects(
    bundle: Any, result_of: Callable[..., Result], mask: np.ndarray[Any, Any], study_of: Callable[..., Any]
) -> Callable[..., list[Dataset]]:
    """SEG, SR and captures of one result."""

    def make(edit: Any = lambda header: None, shown: Any = mask, **changes: Any) -> list[Dataset]:
        images, volume = study_of(edit=edit)
        result = result_of(**changes)
        seg = seg_from_mask(shown, volume, images, result=result, bundle=bundle)
        report = sr_from_result(result, images, seg=seg, bundle=bundle)
        return [seg, report, *captures_from_mask(shown, volume, images, result=result, bundle=bundle)]

    return make


def test_two_objects_with_one_uid_are_the_same(
    objects: Callable[..., list[Dataset]], mask: np.ndarray[Any, Any]
) -> None:
    other = mask.copy()
    other[4, 6, 3] = 0 if other[4, 6, 3] else 1
    runs = {name: objects(**change) for name, change in _CHANGES.items()}
    runs["another mask"] = objects(shown=other)
    runs["another name"] = objects(edit=lambda header: setattr(header, "PatientName", "Roe^Jane"))
    runs["another place"] = objects(edit=lambda header: setattr(header, "FrameOfReferenceUID", "1.2.3.4"))
    runs["another character set"] = objects(edit=lambda header: setattr(header, "SpecificCharacterSet", "ISO_IR 192"))
    content: dict[str, bytes] = {}
    for name, made in runs.items():
        for item in made:
            assert item.file_meta.MediaStorageSOPInstanceUID == item.SOPInstanceUID
            seen = _bytes(item, (*_TIMES, "ContributingEquipmentSequence"))
            assert content.setdefault(item.SOPInstanceUID, seen) == seen, name
    first = [item.SOPInstanceUID for item in runs["nothing"]]
    assert [item.SOPInstanceUID for item in runs["later"]] == first
    for name, made in runs.items():
        if name not in ("nothing", "later"):
            assert made[1].SOPInstanceUID != first[1], f"{name}: the report says so"
    assert runs["another name"][0].SOPInstanceUID != first[0]
    assert runs["another place"][0].SOPInstanceUID != first[0]
    assert runs["another mask"][0].SOPInstanceUID != first[0]


def test_a_rerun_has_the_same_bytes_but_for_its_time(objects: Callable[..., list[Dataset]]) -> None:
    for one, two in zip(objects(), objects(), strict=True):
        assert _bytes(one, ()) == _bytes(two, ())
    for one, two in zip(objects(), objects(created="2026-12-24T00:00:00Z"), strict=True):
        different = {element.keyword for element in one if element != two[element.tag]}
        assert different <= {*_TIMES, "ContributingEquipmentSequence"}
        assert "ContentDate" in different
