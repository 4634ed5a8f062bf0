"""A round trip through a real archive: dcmtk's storescu sends, Orthanc keeps, and what comes back is what was sent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from orthanc import Orthanc, running_orthanc
from pydicom.dataset import Dataset
from scanner import dcmtk

from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.infer import infer
from onfh_runtime.outputs.secondary_capture import captures_from_mask
from onfh_runtime.outputs.seg import seg_from_mask
from onfh_runtime.outputs.sr import sr_from_result
from onfh_runtime.result import Result

Send = Callable[[list[Path]], dict[str, str]]
_AET = "ONFHTEST"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    dcmtk("storescu")  # skips where there is none
    with running_orthanc(lambda: tmp_path_factory.mktemp("orthanc"), _AET) as archive:
        yield archive


@pytest.fixture
def send(orthanc: Orthanc) -> Send:
    """Stores files and gives the archive's own name of each instance, by SOP Instance UID."""

    def store(paths: list[Path]) -> dict[str, str]:
        before = set(orthanc.json("instances"))
        done = subprocess.run(
            [dcmtk("storescu"), "-R", "-aet", _AET, "127.0.0.1", str(orthanc.dicom), *map(str, paths)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        new = set(orthanc.json("instances")) - before
        return {orthanc.json(f"instances/{name}")["MainDicomTags"]["SOPInstanceUID"]: name for name in new}

    return store


@pytest.fixture
def objects(
    study_of: Callable[..., Any], result_of: Callable[..., Result], bundle: Any, mask: np.ndarray[Any, Any]
) -> Callable[..., tuple[Any, list[Dataset]]]:
    """Source images, and SEG, SR and captures of them."""

    def make(
        plane: str = "axial", edit: Any = lambda header: None, **changes: Any
    ) -> tuple[tuple[SourceImage, ...], list[Dataset]]:
        images, volume = study_of(plane, edit)
        result = result_of(study_instance_uid=str(images[0].header.StudyInstanceUID), **changes)
        seg = seg_from_mask(mask, volume, images, result=result, bundle=bundle)
        report = sr_from_result(result, images, seg=seg, bundle=bundle)
        return images, [seg, report, *captures_from_mask(mask, volume, images, result=result, bundle=bundle)]

    return make


def _data_set(stored: bytes) -> bytes:
    """The bytes of a file behind its file meta information, which is the archive's own."""
    meta = pydicom.dcmread(BytesIO(stored), stop_before_pixels=True).file_meta
    return stored[144 + meta.FileMetaInformationGroupLength :]


def test_every_object_comes_back_byte_by_byte(
    plane: str, orthanc: Orthanc, send: Send, objects: Callable[..., Any], stored: Callable[[Dataset], Path]
) -> None:
    _, made = objects(plane)
    sent = {item.SOPInstanceUID: stored(item) for item in made}
    kept = send(list(sent.values()))
    assert kept.keys() == sent.keys()
    for uid, path in sent.items():
        assert _data_set(orthanc.get(f"instances/{kept[uid]}/file")) == _data_set(path.read_bytes())


def test_a_rerun_does_not_multiply_objects(
    send: Send, objects: Callable[..., Any], stored: Callable[[Dataset], Path]
) -> None:
    def edit(header: Dataset) -> None:
        header.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.77"

    assert len(send([stored(item) for item in objects(edit=edit)[1]])) == 8
    assert send([stored(item) for item in objects(edit=edit, created="2026-12-24T00:00:00Z")[1]]) == {}
    changed = objects(edit=edit, warnings=[])[1]
    assert len(send([stored(item) for item in changed])) == 8


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "Müller^Jürgen=王^小东"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
    ids=["latin1", "utf8", "gb18030", "kanji"],
)
def test_the_archive_files_source_and_outputs_under_one_patient_by_name(
    character_set: Any,
    name: str,
    orthanc: Orthanc,
    send: Send,
    objects: Callable[..., Any],
    stored: Callable[[Dataset], Path],
) -> None:
    identity = "".join(character_set)

    def edit(header: Dataset) -> None:
        header.SpecificCharacterSet, header.PatientName, header.PatientID = character_set, name, identity
        header.StudyInstanceUID = f"1.2.826.0.1.3680043.8.498.{int(identity.encode().hex(), 16) % 10**9}"

    images, made = objects(edit=edit)
    kept = send([stored(images[0].header), *(stored(item) for item in made)])
    assert len(kept) == 1 + len(made)
    patients = [orthanc.json(f"patients/{patient}") for patient in orthanc.json("patients")]
    (patient,) = [one for one in patients if one["MainDicomTags"]["PatientID"] == identity]
    assert patient["MainDicomTags"]["PatientName"] == name
    (study,) = [orthanc.json(f"studies/{uid}") for uid in patient["Studies"]]
    assert len(study["Series"]) == 4
    for instance in kept.values():
        assert orthanc.json(f"instances/{instance}/simplified-tags")["PatientName"] == name


def test_what_infer_writes_is_taken_as_it_is(
    phantom_study: Path,
    open_gate: Callable[..., Any],
    orthanc: Orthanc,
    send: Send,
    errors_of: Callable[[Path], list[str]],
    tmp_path: Path,
) -> None:
    (result,) = infer([phantom_study / "coronal"], tmp_path, bundle=open_gate(), secondary_capture=True).results
    assert result.status == "succeeded"
    paths = sorted(tmp_path.rglob("*.dcm"))
    assert {path.name for path in paths} >= {"seg.dcm", "sr.dcm"}
    assert [line for path in paths[-3:] for line in errors_of(path)] == []
    sources = sorted((phantom_study / "coronal").glob("*.dcm"))[:2]
    kept = send([*sources, *paths])
    assert len(kept) == len(paths) + 2
    for path in paths:
        instance = kept[pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID]
        assert _data_set(orthanc.get(f"instances/{instance}/file")) == _data_set(path.read_bytes())
    parents = {orthanc.json(f"instances/{instance}/study")["ID"] for instance in kept.values()}
    assert len(parents) == 1
