from __future__ import annotations

import time

import numpy as np
import pydicom
import pytest
from listen_room import Room, refusing
from pydicom.uid import RLELossless

from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.listen.decoded import DecodedFrames


@pytest.fixture
def room(tiny_bundle, tmp_path):
    room = Room(tmp_path / "state", tiny_bundle, early=True)
    yield room
    room.close()


@pytest.fixture(scope="session")
def coronal(phantom_study):
    return sorted((phantom_study / "coronal").glob("*.dcm"))


@pytest.fixture(scope="session")
def axial(phantom_study):
    return sorted((phantom_study / "axial").glob("*.dcm"))


@pytest.fixture(scope="session")
def compressed(axial, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rle")
    for path in axial[::10]:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(folder / path.name)
    return sorted(folder.iterdir())


def counted(monkeypatch, name):
    """Calls of a function of the arrivals module, by file."""
    from onfh_runtime.listen import arrivals

    calls, plain = [], getattr(arrivals, name)

    def call(what):
        calls.append(getattr(what, "path", what))
        return plain(what)

    monkeypatch.setattr(arrivals, name, call)
    return calls


def test_headers_are_read_once_and_pixels_decoded_once(room, compressed, monkeypatch):
    headers, decoded = counted(monkeypatch, "read_header"), counted(monkeypatch, "decode_image")
    rows = room.send(compressed)
    room.arrivals.work_off()
    assert sorted(headers) == sorted(decoded) == sorted(row.path for row in rows)
    found = room.arrivals.found(rows)
    assert len(headers) == len(rows)
    (candidate,) = found.candidates
    plain, _ = read_volume(find_series([row.path for row in rows])[0][0])

    from onfh_runtime.dicom import decode

    monkeypatch.setattr(decode, "decode_frame", None)  # nothing is left to decode
    volume, images = read_volume(candidate)
    np.testing.assert_array_equal(volume.voxels, plain.voxels)
    assert len(images) == len(compressed)
    assert all(image.decoded(image.form.padding) is None for image in images)  # and nothing is kept


def test_what_did_not_come_early_is_done_late(room, compressed):
    rows = room.send(compressed)
    (candidate,) = room.arrivals.found(rows).candidates
    volume, _ = read_volume(candidate)
    np.testing.assert_array_equal(volume.voxels, read_volume(find_series(compressed)[0][0])[0].voxels)


def test_work_that_comes_too_late_is_not_done(room, compressed, monkeypatch):
    decoded = counted(monkeypatch, "decode_image")
    rows = room.send(compressed)
    room.arrivals.found(rows)
    room.arrivals.work_off()
    assert decoded == []


def test_memory_for_frames_is_bounded_and_given_back(room, compressed):
    one = pydicom.dcmread(compressed[0])
    frames = DecodedFrames(3 * one.Rows * one.Columns * 2)
    room.arrivals._frames = frames
    rows = room.send(compressed)
    room.arrivals.work_off()
    assert sum(frames.look(row.path) is not None for row in rows) == 3
    found = room.arrivals.found(rows)
    volume, _ = read_volume(found.candidates[0])
    np.testing.assert_array_equal(volume.voxels, read_volume(find_series(compressed)[0][0])[0].voxels)
    pixels = np.zeros((one.Rows, one.Columns), np.int16)
    assert [frames.keep(compressed[k], pixels, None) for k in range(4)] == [True, True, True, False]


def test_frames_decoded_for_another_padding_are_decoded_again():
    frames = DecodedFrames(100)
    pixels = np.zeros(4, np.int16)
    assert frames.keep("a", pixels, (1, 2))
    assert frames.take("a", None) is None
    assert frames.keep("a", pixels, (1, 2))
    assert frames.take("a", (1, 2)) is pixels
    assert frames.take("a", (1, 2)) is None


def test_nothing_is_kept_of_a_series_that_waits_for_nothing(room, compressed):
    room.analyse = refusing(room.bundle, [])
    row = room.answer(compressed)
    room.watch.turn()
    assert room.arrivals.names() == set()
    assert room.arrivals._headers == 0
    assert room.arrivals.heard_s(row.series_uid) is None


def test_early_answers_are_the_late_ones_bit_for_bit(room, coronal, tiny_bundle, tmp_path):
    rows = room.send(coronal)
    room.arrivals.work_off()
    found = room.arrivals.found(rows)
    known = found.known[None]
    assert known.keys() == {row.sop_uid for row in rows}
    late = room.pipeline.analyse(found.candidates[0])
    said = {one.sop_instance_uid: one.probability for one in late.result.slices}
    assert said == {uid: known[uid] for uid in said}
    early = room.pipeline.analyse(found.candidates[0], known)
    assert early.result.slices == late.result.slices
    assert early.result.patient == late.result.patient
    assert early.clock.timing.classify < late.clock.timing.classify / 2


def test_stage_1_is_asked_only_of_what_came_too_late(room, coronal, monkeypatch):
    seen = []
    analyse = room.analyse
    room.analyse = lambda candidate, known: seen.append(len(known)) or analyse(candidate, known)
    room.send(coronal[:-3])
    room.arrivals.work_off()
    room.arrivals._busy = lambda: True
    row = room.answer(coronal[-3:])
    assert row.outcome == "succeeded"
    assert seen == [len(coronal) - 3]


@pytest.mark.parametrize(("plane", "keep"), [("axial", 12), ("coronal", 1)])
def test_slices_that_say_nothing_alone_wait_for_the_others(room, phantom_study, plane, keep):
    rows = room.send(sorted((phantom_study / plane).glob("*.dcm"))[:keep])
    room.arrivals.work_off()
    assert room.arrivals.found(rows).known == {None: {}}


def test_a_replaced_image_is_not_known_by_its_predecessor(room, coronal):
    rows = {row.sop_uid: row for row in room.send(coronal)}
    room.arrivals.work_off()

    def brighter(dataset):
        dataset.PixelData = (dataset.pixel_array + 100).astype("<i2").tobytes()

    (replaced,) = room.send(coronal[3:4], edit=brighter)
    known = room.arrivals.found(room.journal.objects_of(replaced.series_uid)).known[None]
    assert replaced.sop_uid in rows
    assert known.keys() == rows.keys() - {replaced.sop_uid}


def test_slices_seen_in_another_way_than_the_series_shows_them_are_asked_again(room, coronal):
    def finer(dataset):
        dataset.PixelSpacing = [value * 1.0005 for value in dataset.PixelSpacing]

    room.send(coronal[1:])
    rows = room.send(coronal[:1], edit=finer)  # the affine of a series is that of its first slice
    room.arrivals.work_off()
    known = room.arrivals.found(room.journal.objects_of(rows[0].series_uid)).known[None]
    assert known == {}


def test_an_unreadable_object_is_a_warning_of_its_series(room, axial):
    rows = room.send(axial[:5])
    rows[2].path.write_bytes(b"\0" * 300)
    found = room.arrivals.found(rows)
    assert [code for code, _ in found.unreadable] == ["not_dicom"]
    (candidate,) = found.candidates
    assert [code for code, _ in candidate.warnings] == ["unreadable_files"]


def test_the_thread_works_and_ends(room, compressed):
    room.arrivals.start()
    rows = room.send(compressed)
    until = time.monotonic() + 20
    while any(room.arrivals._frames.look(row.path) is None for row in rows):
        assert time.monotonic() < until
        time.sleep(0.01)
    room.arrivals.stop()
    assert not room.arrivals._thread.is_alive()


def test_what_was_done_early_is_dropped_when_a_series_cannot_be_found(room, compressed, monkeypatch):
    from onfh_runtime.listen import arrivals

    room.send(compressed)
    room.arrivals.work_off()
    free = room.arrivals._frames._free

    def broken(*args, **options):
        raise MemoryError

    monkeypatch.setattr(arrivals, "find_series", broken)
    objects = room.journal.objects_of(room.journal.recent(1)[0].series_uid)
    with pytest.raises(MemoryError):
        room.arrivals.found(objects)
    assert room.arrivals._headers == 0
    assert room.arrivals._frames._free > free
    assert room.arrivals._frames._frames == {}
