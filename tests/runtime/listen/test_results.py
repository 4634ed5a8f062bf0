from __future__ import annotations

import shutil

import pydicom
import pytest
from listen_room import Room, failing, refusing, series_copy

from onfh_runtime.infer import infer
from onfh_runtime.listen.records import SeriesState
from onfh_runtime.listen.results import SeriesResults
from onfh_runtime.listen.retention import clean


@pytest.fixture
def room(tiny_bundle, tmp_path):
    room = Room(tmp_path / "state", tiny_bundle, routes=[{"name": "default"}, {"name": "nameless", "anonymous": True}])
    yield room
    room.close()


@pytest.fixture(scope="session")
def planes(phantom_study):
    return {plane: sorted((phantom_study / plane).glob("*.dcm")) for plane in ("axial", "coronal")}


def uid_of(path):
    return pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID


@pytest.fixture(scope="session")
def inferred(phantom_study, write_tiny_bundle, tmp_path_factory):
    """What infer says of the study."""
    return infer([phantom_study], tmp_path_factory.mktemp("out"), bundle=write_tiny_bundle(), threads=1).studies[0]


@pytest.mark.parametrize("first", ["axial", "coronal"])
def test_the_study_is_what_infer_says_whichever_series_came_first(room, planes, first, inferred):
    second = "coronal" if first == "axial" else "axial"
    room.answer(planes[first])
    row = room.answer(planes[second])
    said, wanted = ({entry.series_instance_uid: entry for entry in one.series} for one in (room.study(row), inferred))
    assert said == wanted
    for entry in room.study(row).series:
        assert room.result(room.series(entry.series_instance_uid)).preferred == entry.preferred


def test_when_the_preferred_series_is_refused_after_all_the_next_best_takes_its_place(room, planes):
    rows = {plane: room.answer(paths) for plane, paths in planes.items()}
    best = next(plane for plane, row in rows.items() if room.result(row).preferred)
    other = "coronal" if best == "axial" else "axial"

    def gone_astray(dataset):
        dataset.ImagePositionPatient[0] += 40
        dataset.SOPInstanceUID += "1" if len(dataset.SOPInstanceUID) < 64 else ""

    late = room.answer(planes[best][:1], edit=gone_astray)
    assert late.outcome == "not_analysed"
    assert not room.result(late).preferred
    assert room.result(room.series(rows[other].series_uid)).preferred
    assert {entry.series_instance_uid: entry.preferred for entry in room.study(late).series} == {
        late.series_uid: False,
        rows[other].series_uid: True,
    }


def test_a_localizer_is_listed_and_has_no_result(room, planes):
    def localizer(dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    row = room.answer(planes["axial"][:2], edit=localizer)
    assert (row.state, row.outcome) == (SeriesState.ANSWERED, "skipped")
    assert not row.folder.exists()
    (entry,) = room.study(row).series
    assert (entry.outcome, entry.reason.code, entry.images) == ("skipped", "localizer", 2)


def test_parts_of_a_series_have_a_folder_each_and_supersede_the_whole(room, planes):
    room.analyse = refusing(room.bundle, [])
    whole = room.answer(planes["axial"][:4])
    report = uid_of(whole.folder / "sr.dcm")

    def other_kernel(dataset):
        dataset.ConvolutionKernel = "SHARP"

    row = room.answer(planes["axial"][4:8], edit=other_kernel)
    assert sorted(path.name for path in row.folder.iterdir() if path.name[0] != ".") == ["part-1", "part-2"]
    assert [room.result(row, part).supersedes for part in (1, 2)] == [report, report]
    assert [entry.part for entry in room.study(row).series] == [1, 2]

    def no_kernel(dataset):
        dataset.ConvolutionKernel = pydicom.dcmread(planes["axial"][0]).ConvolutionKernel

    parts = uid_of(row.folder / "part-1" / "sr.dcm")
    row = room.answer(planes["axial"][4:8], edit=no_kernel)  # the same objects, corrected
    assert row.generation == 3
    assert not list(row.folder.glob("part-*"))
    assert room.result(row).supersedes == parts
    assert [entry.part for entry in room.study(row).series] == [None]


def test_a_late_image_that_is_no_slice_supersedes_nothing(room, planes):
    room.analyse = refusing(room.bundle, [])
    row = room.answer(planes["axial"][:4])
    report = uid_of(row.folder / "sr.dcm")

    def localizer(dataset):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    row = room.answer(planes["axial"][4:5], edit=localizer)
    assert row.generation == 2
    assert room.result(row).supersedes is None
    assert uid_of(row.folder / "sr.dcm") == report
    assert [entry.outcome for entry in room.study(row).series] == ["not_analysed", "skipped"]
    row = room.answer(planes["axial"][5:6])
    assert room.result(row).supersedes == report
    second = pydicom.dcmread(row.folder / "sr.dcm")
    row = room.answer(planes["axial"][6:7], edit=localizer)  # keeps whose place it takes, too
    assert row.generation == 4
    assert room.result(row).supersedes == report
    again = pydicom.dcmread(row.folder / "sr.dcm")
    assert again.SOPInstanceUID == second.SOPInstanceUID
    assert again.PredecessorDocumentsSequence == second.PredecessorDocumentsSequence


def test_an_anonymous_route_leaves_the_patient_out(room, planes):
    row = room.answer(planes["coronal"], route="nameless")
    assert room.study(row).series[0].description == ""
    assert pydicom.dcmread(row.folder / "sr.dcm").PatientName == pydicom.dcmread(row.folder / "seg.dcm").PatientName
    for path in [row.folder.parent / "study.json", *row.folder.iterdir()]:
        data = path.read_bytes()
        assert b"PHANTOM-" not in data
        assert b"Hip coronal" not in data


def test_a_failed_study_has_no_preferred_series(room, planes):
    room.analyse = failing(3, refusing(room.bundle, []))
    row = room.answer(planes["axial"][:4])
    for _ in range(2):
        room.wait(60)
        room.settle()
    row = room.series(row.series_uid)
    assert row.state is SeriesState.SET_ASIDE
    room.analyse = refusing(room.bundle, [])
    other = room.answer(planes["axial"][:4], edit=series_copy(1))
    assert [(entry.outcome, entry.preferred) for entry in room.study(other).series] == [
        ("not_analysed", False),
        ("failed", False),
    ]


def test_a_forgotten_series_is_taken_off_its_study(room, planes):
    rows = []
    for plane in ("coronal", "axial"):
        rows.append(room.answer(planes[plane]))
        room.wait(1000.0)
    first, second = rows
    assert room.result(first).preferred
    for row in rows:
        late_s = row.answered_s + room.config.disk.keep_results_days * 86400.0 + 1.0
        cleaned = clean(room.journal, room.spool, room.config.disk, late_s, forgotten=room.results.forget)
        assert cleaned.results == 1
        if row is first:
            (entry,) = room.study(second).series
            assert (entry.series_instance_uid, entry.preferred) == (second.series_uid, True)
            assert room.result(second).preferred
    assert list(room.results.root.iterdir()) == []


def test_a_forgotten_series_that_is_answered_again_stays_on_the_list(room, planes):
    room.analyse = refusing(room.bundle, [])
    row = room.answer(planes["axial"][:4])
    room.results.forget(row)
    assert len(room.study(row).series) == 1


def test_a_series_is_forgotten_while_another_of_its_study_is_written(room, planes, monkeypatch):
    room.analyse = refusing(room.bundle, [])
    room.answer(planes["axial"][:4])
    room.wait(40 * 86400.0)
    finish = SeriesResults.finish

    def finished(self, skipped):
        assert clean(room.journal, room.spool, room.config.disk, room.now_s, forgotten=room.results.forget).results
        finish(self, skipped)

    monkeypatch.setattr(SeriesResults, "finish", finished)
    row = room.answer(planes["coronal"][:4])
    assert row.state is SeriesState.ANSWERED
    assert (row.folder / "sr.dcm").is_file()
    assert [entry.series_instance_uid for entry in room.study(row).series] == [row.series_uid]


def test_what_a_killed_write_left_goes_with_its_study(room, planes):
    room.analyse = refusing(room.bundle, [])
    row = room.answer(planes["axial"][:4])
    (row.folder.parent / ".study.json.0123.tmp").write_text("{")
    room.wait(40 * 86400.0)
    assert clean(room.journal, room.spool, room.config.disk, room.now_s, forgotten=room.results.forget).results == 1
    assert list(room.results.root.iterdir()) == []


def test_a_result_that_somebody_deleted_is_no_answer(room, planes, monkeypatch):
    room.analyse = refusing(room.bundle, [])
    finish = SeriesResults.finish

    def tidied(self, skipped):
        finish(self, skipped)
        shutil.rmtree(self.folder)

    with monkeypatch.context() as context:
        context.setattr(SeriesResults, "finish", tidied)
        row = room.answer(planes["axial"][:4])
    assert (row.state, row.code) == (SeriesState.READY, "output_unwritable")
    room.wait(60.0)
    room.settle()
    assert room.series(row.series_uid).state is SeriesState.ANSWERED


def test_what_nobody_got_is_not_superseded(room, planes, monkeypatch):
    room.analyse = refusing(room.bundle, [])
    images = planes["axial"]
    first = uid_of(room.answer(images[:4]).folder / "sr.dcm")
    finish = SeriesResults.finish

    def interrupted(self, skipped):
        finish(self, skipped)
        if self.row.generation == 2:
            room.send(images[5:6])

    monkeypatch.setattr(SeriesResults, "finish", interrupted)
    row = room.answer(images[4:5])
    second = uid_of(row.folder / "sr.dcm")
    assert (row.generation, row.state) == (3, SeriesState.RECEIVING)
    room.wait(5.0)
    room.settle()
    row = room.series(row.series_uid)
    assert uid_of(row.folder / "sr.dcm") not in (first, second)
    assert room.result(row).supersedes == first


def test_a_series_that_is_sent_again_with_another_study_is_answered_there(room, planes):
    room.analyse = refusing(room.bundle, [])
    images = planes["axial"][:4]
    before = room.answer(images)

    def corrected(dataset):
        dataset.StudyInstanceUID = "1.2.3.99"

    row = room.answer(images, edit=corrected)
    assert (row.state, row.outcome, row.study_uid) == (SeriesState.ANSWERED, "not_analysed", "1.2.3.99")
    assert row.folder.parent.name == "1.2.3.99"
    assert not before.folder.parent.exists()


def test_a_route_that_is_gone_is_mentioned(room, planes, caplog):
    room.analyse = refusing(room.bundle, [])
    assert room.answer(planes["axial"][:4], route="gone").state is SeriesState.ANSWERED
    assert "route_unknown" in caplog.text
