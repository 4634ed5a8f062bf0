from __future__ import annotations

import pydicom
import pytest
from listen_room import Room, failing, refusing, series_copy
from pydicom.uid import generate_uid

from onfh_runtime.errors import OutputError
from onfh_runtime.infer import infer
from onfh_runtime.listen.records import SeriesState
from onfh_runtime.outputs.files import write_atomically
from onfh_runtime.result import Result

PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}


@pytest.fixture
def room(tiny_bundle, tmp_path):
    room = Room(
        tmp_path / "state",
        tiny_bundle,
        routes=[
            {"name": "default", "destinations": ["pacs"]},
            {"name": "soon", "deadline_s": 30.0},
            {"name": "sooner", "deadline_s": 20.0},
        ],
        destinations=[PACS],
    )
    yield room
    room.close()


@pytest.fixture(scope="session")
def coronal(phantom_study):
    return sorted((phantom_study / "coronal").glob("*.dcm"))


@pytest.fixture(scope="session")
def few(phantom_study):
    return sorted((phantom_study / "axial").glob("*.dcm"))[:4]


def test_a_series_is_answered_as_infer_answers_it(room, coronal, tiny_bundle, tmp_path):
    uid = room.send(coronal)[0].series_uid
    room.arrivals.work_off()
    room.settle()
    assert room.series(uid).state is SeriesState.RECEIVING  # not quiet for long enough
    room.wait(5.0)
    room.settle()
    row = room.series(uid)
    assert (row.state, row.outcome, row.tries, row.code) == (SeriesState.ANSWERED, "succeeded", 1, None)
    result = room.result(row)
    assert result.preferred
    assert result.supersedes is None

    report = infer([coronal[0].parent], tmp_path / "out", bundle=tiny_bundle, threads=1)
    unlike = {"created": "", "timing_ms": {}}
    assert result.model_copy(update=unlike) == report.results[0].model_copy(update=unlike)
    (folder,) = report.folders.values()
    for name in ("sr.dcm", "seg.dcm"):
        assert uid_of(row.folder / name) == uid_of(folder / name)
    assert room.study(row).series == report.studies[0].series


def uid_of(path):
    return pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID


def test_what_is_delivered_and_told(room, coronal):
    row = room.answer(coronal)
    sent = room.journal.deliveries_of(row.series_uid)
    assert sorted(one.path.name for one in sent) == ["seg.dcm", "sr.dcm"]
    assert all(uid_of(one.path) == one.sop_uid for one in sent)
    assert [(event, told.outcome) for event, told in room.told] == [("result", "succeeded")]
    assert room.delivered == 1


def test_the_latency_and_what_of_it_is_not_engine_time(room, coronal):
    row = room.answer(coronal)
    timing = room.result(row).timing_ms
    assert row.latency_ms == pytest.approx(5000)
    assert row.outside_engine_ms == pytest.approx(5000 - timing.classify - timing.segment)


def test_a_resend_changes_nothing(room, coronal):
    row = room.answer(coronal)
    before = {path: path.stat().st_mtime_ns for path in row.folder.iterdir()}
    assert room.answer(coronal) == row
    assert {path: path.stat().st_mtime_ns for path in row.folder.iterdir()} == before


def test_a_late_image_supersedes_the_result_visibly(room, coronal):
    first = room.answer(coronal[:-1])
    first_report = pydicom.dcmread(first.folder / "sr.dcm")
    report = first_report.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in first_report
    assert room.series(first.series_uid).objects == len(coronal) - 1
    row = room.answer(coronal[-1:])
    assert (row.state, row.generation) == (SeriesState.ANSWERED, 2)
    assert room.result(row).supersedes == report
    assert uid_of(row.folder / "sr.dcm") != report
    assert report in (row.folder / "report.html").read_text()
    sr = pydicom.dcmread(row.folder / "sr.dcm")
    (before,) = sr.PredecessorDocumentsSequence
    (series,) = before.ReferencedSeriesSequence
    (shown,) = series.ReferencedSOPSequence
    assert (before.StudyInstanceUID, series.SeriesInstanceUID) == (row.study_uid, first_report.SeriesInstanceUID)
    assert (shown.ReferencedSOPClassUID, shown.ReferencedSOPInstanceUID) == (first_report.SOPClassUID, report)
    assert f"takes the place of an earlier one ({report})" in sr.to_json()
    pending = room.journal.deliveries_of(row.series_uid)
    assert {one.generation for one in pending} == {2}


def test_an_image_that_comes_during_the_analysis_wins(room, coronal):
    plain = room.analyse

    def interrupted(candidate, known):
        room.analyse = plain
        room.send(coronal[-1:])
        return plain(candidate, known)

    room.analyse = interrupted
    row = room.answer(coronal[:-1])
    assert (row.state, row.generation) == (SeriesState.RECEIVING, 2)
    assert row.folder is None  # the out-of-date answer was not even written
    room.wait(5.0)
    room.settle()
    row = room.series(row.series_uid)
    assert (row.state, len(room.result(row).slices) > 0) == (SeriesState.ANSWERED, True)
    assert room.result(row).supersedes is None


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("generation", [1, 2])
def test_a_node_killed_before_the_answer_is_noted_gives_the_same_answer_again(
    room, coronal, tiny_bundle, generation, monkeypatch
):
    superseded = None
    if generation == 2:
        superseded = uid_of(room.answer(coronal[:-1]).folder / "sr.dcm")

    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(room.journal, "answered", killed)
    with pytest.raises(Killed):
        room.answer(coronal)
    room.journal.close()
    again = Room(room.state_dir, tiny_bundle)
    again.journal.recover()
    (row,) = again.journal.in_state(SeriesState.READY)
    folder = room.state_dir / "results" / row.study_uid / row.series_uid
    before = [uid_of(folder / name) for name in ("sr.dcm", "seg.dcm")]
    again.settle()
    row = again.series(row.series_uid)
    assert (row.state, row.tries, row.generation) == (SeriesState.ANSWERED, 2, generation)
    assert row.latency_ms is None  # nobody knows how long the node was down
    assert [uid_of(row.folder / name) for name in ("sr.dcm", "seg.dcm")] == before
    assert again.result(row).supersedes == superseded
    again.close()


def test_a_failure_is_tried_again_and_then_set_aside_with_its_reason(room, few):
    room.analyse = failing(3, refusing(room.bundle, []))
    row = room.answer(few)
    for tries, wait_s in ((1, 1.0), (2, 10.0)):
        assert (row.state, row.tries, row.code) == (SeriesState.READY, tries, "stage_failed")
        assert row.retry_at_s == pytest.approx(room.now_s + wait_s)
        room.wait(wait_s - 0.1)
        assert room.worker.turn() == pytest.approx(0.1)
        room.wait(0.1)
        room.settle()
        row = room.series(row.series_uid)
    assert (row.state, row.code, row.text) == (SeriesState.SET_ASIDE, "stage_failed", "The segmenter failed.")
    assert [event for event, _ in room.told] == ["set_aside"]
    path = room.state_dir / "results" / row.study_uid / row.series_uid / "result.json"
    assert Result.model_validate_json(path.read_bytes()).status == "failed"


def test_a_series_that_fails_keeps_no_other_waiting(room, few):
    seen = []
    room.analyse = failing(1, refusing(room.bundle, seen))
    room.send(few)
    room.send(few, edit=series_copy(1))
    room.wait(5.0)
    room.settle()
    states = [row.state for row in room.journal.recent(10)]
    assert sorted(states) == [SeriesState.ANSWERED, SeriesState.READY]
    assert len(seen) == 2


def test_an_unexpected_error_is_a_failure_too(room, few):
    def broken(candidate, known):
        raise ZeroDivisionError("Doe^Jane")

    room.analyse = broken
    row = room.answer(few)
    assert (row.state, row.code) == (SeriesState.READY, "internal_error")
    assert "Doe" not in row.text


def test_a_result_that_cannot_be_put_into_words_is_written_as_failed_in_the_end(room, few, monkeypatch):
    from onfh_runtime.listen import results

    plain = results.write_series

    def write(root, analysis, bundle, **options):
        if analysis.result.status != "failed":
            raise RuntimeError("no words")
        return plain(root, analysis, bundle, **options)

    monkeypatch.setattr(results, "write_series", write)
    room.analyse = refusing(room.bundle, [])
    row = room.answer(few)
    for _ in range(2):
        room.wait(60)
        room.settle()
    row = room.series(row.series_uid)
    assert (row.state, row.code) == (SeriesState.SET_ASIDE, "internal_error")
    assert (room.state_dir / "results" / row.study_uid / row.series_uid / "result.json").exists()


def test_a_full_disk_is_not_the_fault_of_a_series(room, few, tiny_bundle, monkeypatch):
    from onfh_runtime.listen import results

    def full(*args, **options):
        raise OutputError("output_unwritable", "There is no room.")

    room.analyse = refusing(room.bundle, [])
    with monkeypatch.context() as context:
        context.setattr(results, "write_series", full)
        row = room.answer(few)
        waits = []
        for _ in range(5):
            waits.append(row.retry_at_s - room.now_s)
            room.wait(60)
            room.settle()
            row = room.series(row.series_uid)
    assert (row.state, row.tries, row.code) == (SeriesState.READY, 0, "output_unwritable")
    assert waits == pytest.approx([1, 10, 60, 60, 60])

    def killing(candidate, known):
        raise Killed

    room.analyse = killing
    room.wait(60)
    with pytest.raises(Killed):  # and then the node ends, once
        room.settle()
    room.journal.close()
    again = Room(room.state_dir, tiny_bundle)
    again.journal.recover()
    again.analyse = refusing(tiny_bundle, [])
    again.settle()
    row = again.series(row.series_uid)
    assert (row.state, row.tries) == (SeriesState.ANSWERED, 2)
    again.close()


def test_a_series_that_ends_the_node_each_time_is_set_aside(room, few, tiny_bundle):
    def killing(candidate, known):
        raise Killed

    for _ in range(3):
        room.analyse = killing
        with pytest.raises(Killed):
            room.answer(few)
        room.journal.close()
        room = Room(room.state_dir, tiny_bundle)
        room.journal.recover()
    seen = []
    room.analyse = refusing(tiny_bundle, seen)
    room.settle()
    (row,) = room.journal.recent(5)
    assert (row.state, row.code, row.tries) == (SeriesState.SET_ASIDE, "crashed", 3)
    assert seen == []
    again = room.answer(few)  # sent once more, by hand
    assert (again.state, again.generation) == (SeriesState.ANSWERED, 2)
    room.close()


def test_work_that_the_journal_could_not_note_is_taken_up_again(room, few, monkeypatch):
    from onfh_runtime.listen.records import StorageError

    room.analyse = refusing(room.bundle, [])
    with monkeypatch.context() as context:

        def refuse(*args, **options):
            raise StorageError("storage_full", "The disk is full.")

        context.setattr(room.journal, "answered", refuse)
        with pytest.raises(StorageError):
            room.answer(few)
    assert room.journal.recent(1)[0].state is SeriesState.WORKING
    assert not room.worker.busy
    room.settle()
    room.wait(1.0)
    room.settle()
    assert room.journal.recent(1)[0].state is SeriesState.ANSWERED


def test_a_refused_series_is_an_answer(room, coronal):
    row = room.answer(coronal[:2])
    assert (row.state, row.outcome, row.tries) == (SeriesState.ANSWERED, "not_analysed", 1)
    assert room.result(row).reason.code == "too_few_slices"
    assert [one.path.name for one in room.journal.deliveries_of(row.series_uid)] == ["sr.dcm"]


def test_the_earliest_deadline_is_served_first_then_the_oldest(room, few):
    seen = []
    room.analyse = refusing(room.bundle, seen)
    sent = []
    for number, route in enumerate(("default", "soon", "default", "sooner")):
        sent.append(room.send(few, edit=series_copy(number), route=route)[0].series_uid)
        room.wait(0.1)
    room.wait(5.0)
    room.settle()
    assert [sent.index(uid) for uid in seen] == [3, 1, 0, 2]


def test_a_missed_deadline_is_counted_told_and_shown(room, few):
    seen = []
    slow = refusing(room.bundle, seen)

    def analyse(candidate, known):
        room.wait(16.0)
        return slow(candidate, known)

    room.analyse = analyse
    row = room.answer(few, route="sooner")
    assert row.deadline_missed
    assert [event for event, _ in room.told] == ["deadline_missed", "result"]
    result = room.result(row)
    assert [note.code for note in result.warnings] == ["deadline_missed"]
    assert "20 s" in result.warnings[0].text
    assert b'onfh_deadlines_missed_total{route="sooner"} 1.0' in room.metrics.text()


def test_a_deadline_that_passes_while_the_result_is_written_is_shown_too(room, few, monkeypatch):
    from onfh_runtime.listen import results

    plain = results.write_series

    def slow(*args, **options):
        room.wait(16.0)
        return plain(*args, **options)

    monkeypatch.setattr(results, "write_series", slow)
    room.analyse = refusing(room.bundle, [])
    row = room.answer(few, route="sooner")
    assert row.deadline_missed
    assert [note.code for note in room.result(row).warnings] == ["deadline_missed"]
    assert room.result(row).supersedes is None


def test_an_answer_in_time_says_nothing_of_a_deadline(room, few):
    room.analyse = refusing(room.bundle, [])
    row = room.answer(few, route="soon")
    assert not row.deadline_missed
    assert room.result(row).warnings == ()
    assert room.study(row)


def test_images_that_are_gone_are_not_made_up_for(room, coronal):
    row = room.answer(coronal[:-1])
    for delivery in room.journal.due(float("inf")):
        room.journal.sent(delivery.id)
    assert room.journal.forget_objects(row.series_uid, row.generation)
    late = room.answer(coronal[-1:])
    assert (late.state, late.code) == (SeriesState.SET_ASIDE, "images_missing")
    assert "Send the whole series again." in late.text
    assert room.result(row).status == "succeeded"  # what was said of the whole series stays


def test_objects_of_two_studies_under_one_series_are_set_aside(room, few):
    room.send(few[:2])

    def other_study(dataset):
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=["another"])

    row = room.answer(few[2:], edit=other_study)
    assert (row.state, row.code) == (SeriesState.SET_ASIDE, "mixed_study")


def test_a_series_nothing_of_which_can_be_read_is_set_aside_at_once(room, few):
    rows = room.send(few)
    for row in rows:
        write_atomically(row.path, b"\0" * 200)
    room.wait(5.0)
    room.settle()
    row = room.series(rows[0].series_uid)
    assert (row.state, row.code, row.tries) == (SeriesState.SET_ASIDE, "not_dicom", 1)
