"""What SEG and SR take over from the source: both are written and read back in every test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from onfh_runtime.outputs.seg import seg_from_mask
from onfh_runtime.outputs.source import fit, series_number
from onfh_runtime.outputs.sr import sr_from_result
from onfh_runtime.result import Result

_TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex "
    "StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber"
)


@pytest.fixture
def both(
    mask: np.ndarray[Any, Any], result_of: Callable[..., Result], bundle: Any, stored: Callable[[Dataset], Path]
) -> Callable[..., list[Path]]:
    def write(study: Any, notices: tuple[str, ...] = (), **changes: Any) -> list[Path]:
        images, volume = study
        result, content = result_of(**changes), bundle.model_copy(update={"notices": notices})
        seg = seg_from_mask(mask, volume, images, result=result, bundle=content)
        return [stored(seg), stored(sr_from_result(result, images, seg=seg, bundle=content))]

    return write


def test_patient_and_study_are_those_of_the_source(study_of: Callable[..., Any], both: Callable[..., Any]) -> None:
    study = study_of()
    header = study[0][0].header
    for path in both(study):
        written = pydicom.dcmread(path)
        for keyword in [*_TYPE_2.split(), "StudyInstanceUID", "StudyDescription", "PatientAge"]:
            assert written[keyword].value == header[keyword].value, keyword
        assert written.SeriesInstanceUID != header.SeriesInstanceUID
        assert written.SoftwareVersions == "0.1.0"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (None, "Doe^Jane"),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "Müller^Jürgen=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
    ids=["ascii", "latin1", "utf8", "kanji", "katakana", "hangul", "gb18030"],
)
@pytest.mark.parametrize("notice", ["plain", "Only for Größe ≥ 3 mm, 仅供研究"])
def test_names_survive_in_every_character_set(
    character_set: Any,
    name: str,
    notice: str,
    study_of: Callable[..., Any],
    both: Callable[..., Any],
    errors_of: Callable[..., Any],
) -> None:
    def edit(header: Dataset) -> None:
        if character_set is not None:
            header.SpecificCharacterSet = character_set
        header.PatientName = name

    study = study_of(edit=edit)
    stored_name = bytes(study[0][0].header.get_item("PatientName").value)
    for path in both(study, notices=(notice,)):
        written = pydicom.dcmread(path)
        assert str(written.PatientName) == name
        own = written.Modality == "SR" and not notice.isascii()
        if not own:
            assert pydicom.dcmread(path).get_item("PatientName").value == stored_name, "byte by byte"
        assert written.get("SpecificCharacterSet") == ("ISO_IR 192" if own else character_set)
        assert errors_of(path) == []
        if own:
            assert notice.encode() in path.read_bytes()


def test_missing_type_2_attributes_are_written_empty(
    study_of: Callable[..., Any], both: Callable[..., Any], errors_of: Callable[..., Any]
) -> None:
    def edit(header: Dataset) -> None:
        for keyword in _TYPE_2.split():
            delattr(header, keyword)
        del header.SliceThickness
        header.SeriesNumber = None

    for path in both(study_of(edit=edit)):
        written = pydicom.dcmread(path)
        assert all(keyword in written and not written[keyword].value for keyword in _TYPE_2.split())
        assert errors_of(path) == []


def test_values_an_archive_holds_against_the_rules_are_kept(
    study_of: Callable[..., Any], both: Callable[..., Any], quiet: Callable[..., Any]
) -> None:
    odd = {"PatientSex": "W", "StudyID": "a study id beyond 16 characters", "PatientAge": "65"}

    def edit(header: Dataset) -> None:
        for keyword, value in odd.items():
            quiet(header, keyword, value)
        header.SOPClassUID = ""

    study = study_of(edit=edit)
    for path in both(study):
        written = pydicom.dcmread(path)
        with pytest.warns(UserWarning, match=r"Invalid value|exceeds the maximum"):
            kept = {keyword: written[keyword].value for keyword in odd}
        assert kept == odd


@pytest.mark.parametrize(
    ("offset", "expected"),
    [("+0800", ("20261124", "013000")), ("-0330", ("20261123", "140000")), ("+0000", ("20261123", "173000"))],
)
def test_the_clock_is_that_of_the_source(
    offset: str, expected: tuple[str, str], study_of: Callable[..., Any], both: Callable[..., Any]
) -> None:
    study = study_of(edit=lambda header: setattr(header, "TimezoneOffsetFromUTC", offset))
    for path in both(study, created="2026-11-23T17:30:00Z"):
        written = pydicom.dcmread(path)
        assert (written.ContentDate, written.ContentTime) == expected
        assert written.InstanceCreationDate == expected[0]
        assert written.TimezoneOffsetFromUTC == offset


@pytest.mark.parametrize(
    ("source", "expected"), [(None, 9101), (3, 9131), (0, 9101), (20261123101500, 9101), ("x", 9101)]
)
def test_series_number_always_fits(source: Any, expected: int) -> None:
    header = Dataset()
    if isinstance(source, int) and source < 2**31:
        header.SeriesNumber = source
    elif source is not None:
        header = {"SeriesNumber": source}
    assert series_number("sr", header) == expected


def test_fit_leaves_nothing_a_string_attribute_forbids() -> None:
    assert fit("a\\b\nc" + "d" * 80) == "a b c" + "d" * 59
